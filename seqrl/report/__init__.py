"""What a run looks like to a person: figures, the drawing of a stream, and one static page."""
