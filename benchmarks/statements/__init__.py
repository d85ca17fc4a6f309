"""Statements of the ROME paper, checked against the results of experiments."""
