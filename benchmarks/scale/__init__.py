"""How far a benchmark run scales: the driver against simulated workers, and large stores.

``python -m editkit_benchmarks.scale driver`` and ``python -m editkit_benchmarks.scale store``, from
a clone. ``docs/scale.md`` shows the figures.
"""
