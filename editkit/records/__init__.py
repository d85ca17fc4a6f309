"""Records of datasets: JSON files, hub datasets, and how their prompts are completed."""
