"""Editors to derive from: what several methods have in common beyond their mathematics."""
