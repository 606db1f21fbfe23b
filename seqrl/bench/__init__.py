"""Benchmarks: a suite of methods, datasets and seeds, each combination an ordinary run, and the table of what they got."""
