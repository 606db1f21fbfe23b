"""Fuzzing of everything that reads a file from outside: an input is read, or refused with one UserError, and nothing else."""
