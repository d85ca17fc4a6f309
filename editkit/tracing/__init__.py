"""Traces of facts, and their plots."""
