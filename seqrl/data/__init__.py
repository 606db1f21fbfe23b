"""From episodes to batches: the memory-mapped store, returns-to-go, the tokenizer, windows and the loader."""
