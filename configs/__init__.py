"""Hyperparameters: one folder a method, one file a model."""
