"""How much batching and reuse gain: ratios, each measured in one run on one machine."""
