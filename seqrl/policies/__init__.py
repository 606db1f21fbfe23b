"""Models that act; the file name is the kind."""
