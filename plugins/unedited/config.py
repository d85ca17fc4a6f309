"""Configuration of the editor ``none``."""

from __future__ import annotations

from editkit import Config


class NoEditorConfig(Config):
    """No fields."""
