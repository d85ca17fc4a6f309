"""Benchmarks: what to run, running it so that it survives anything, and what came out."""

from editkit.benchmark.run import Cell, Row, Run, runs_in

__all__ = ["Cell", "Row", "Run", "runs_in"]
