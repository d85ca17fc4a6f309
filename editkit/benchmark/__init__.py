"""Benchmarks: the file, the plan, running it so that it survives anything, and the results."""
