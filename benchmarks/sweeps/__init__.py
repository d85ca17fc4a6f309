"""How the hyperparameters for ``atlas`` were chosen. Run it from a clone; no wheel contains it."""
