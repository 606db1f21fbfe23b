"""World models: one file a family, each a model one can live in (core/contracts.py, ``WorldModel``)."""
