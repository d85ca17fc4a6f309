"""Benchmarks: the embedded world, experiments, and tools for developers."""
