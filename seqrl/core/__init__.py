"""The words that travel through the house, and the contracts between its rooms. Imports nothing else of seqrl."""
