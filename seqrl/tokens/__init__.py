"""Codecs: a value and its codes. Each file is one kind, meets ``core.contracts.Codec``, and knows nothing but numpy.

A codec is built from its settings and the modality it serves, with values flattened to ``(N, dim)``. Its statistics are
saved with the weights, exactly, and never guessed again.
"""
