"""Building blocks of every model: our trunk, its cache, embeddings of slots and heads. Imports only core."""
