"""What the papers say, tried on the results of the experiments."""
