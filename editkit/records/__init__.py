"""Datasets' records: their configuration, reading them from JSON and the hub, and their digests."""
