"""Codecs: a value and its codes. Each file is one kind, meets ``core.contracts.Codec``, and knows nothing but numpy.

A codec is built from its settings and the modality it serves, with values flattened to ``(N, dim)``. Its statistics are
saved with the weights, exactly, and never guessed again. What a packed stream must know of a value stands on the codec as
well: how many ``tokens`` it takes, whose range of ids it may ``share``, the ``dtype`` of its codes, and the ``chunk`` of
steps it spans. One that stands on arrays too large for JSON, such as a trained encoder's weights, gives them by
``tensors()`` and takes them back, behind ``load_state``, by ``load_tensors``; its module makes a small one by ``tiny``.
"""
