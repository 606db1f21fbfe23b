"""Runs that die at every moment, and go on as if nothing had happened; ``python -m tests.soak`` is the long form."""
