"""Stand-ins that travel with a published model, where a module of ours needs more than torch and transformers bring.

Each replaces one module (``hub/portable.py`` says which) and offers what the model, its codecs and the agent use of it. They
are only ever read as text and published; nothing of seqrl imports them.
"""
