"""The experiments, and the embedded world that they run on."""
