"""Checks of what a run needs, made before any weights are loaded."""
