"""Work on one or many workers: in this process, or on a Ray cluster."""
