"""Ratios of speed through batching and reuse. Run it from a clone; no wheel contains it."""
