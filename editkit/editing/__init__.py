"""Edits as values: deltas and their files, many edited models at once, and generation."""
