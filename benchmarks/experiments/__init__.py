"""The papers' evaluation: published tables, and experiments as declarative files."""

from __future__ import annotations

from editkit import PublishedTableSpec, hookimpl


@hookimpl
def editkit_published_tables() -> list[PublishedTableSpec]:
    """Offer the tables of the ROME paper."""
    return [
        PublishedTableSpec(
            name=f"rome-2022-{dataset}",
            file=f"editkit_benchmarks:published/{dataset}.yaml",
            summary=f"results of Meng et al. (2022) on {title}",
        )
        for dataset, title in (("counterfact", "CounterFact"), ("zsre", "zsRE"))
    ]
