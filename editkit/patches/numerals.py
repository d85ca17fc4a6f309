"""Numbers of patches as people read them, the same in tables and in sentences."""

from __future__ import annotations

import math

__all__ = ["divergence", "percent"]


def percent(probability: float | None) -> str:
    """A probability or a share: ``45%``, ``4.5%``, ``<0.1%``, ``99.7%``; a hyphen for None."""
    if probability is None or not math.isfinite(probability):
        return "-"
    share = 100 * probability
    if 0 < share < 0.1:
        return "<0.1%"
    if 99.95 <= share < 100:
        return ">99.9%"
    return f"{share:.0f}%" if share == 0 or 9.95 <= share < 99 or share >= 100 else f"{share:.1f}%"


def divergence(nats: float) -> str:
    """A KL divergence: ``0.012``, ``<0.001``, ``2.31``."""
    return "<0.001" if nats < 0.001 else f"{nats:.3f}" if nats < 1 else f"{nats:.2f}"
