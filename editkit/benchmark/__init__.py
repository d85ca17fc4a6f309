"""Planning, running, storing and reporting benchmarks."""
