"""Configurations of the judges."""

from __future__ import annotations

from editkit import Config


class RuleConfig(Config):
    """A rule, which has no settings."""
