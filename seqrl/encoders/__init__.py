"""Learned tokenizers: models that turn what is seen into a few codes, and back; the file name is the kind."""
