"""Plugins: their specs and hooks, discovery, configuration, per-model values and factories."""
