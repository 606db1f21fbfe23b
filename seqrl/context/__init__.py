"""Long context: a sequence cut over several ranks, and attention across the cut. Imports nothing else of seqrl."""
