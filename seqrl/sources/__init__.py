"""Where episodes come from. Every file here whose name has no leading underscore is a kind of source."""
