"""The papers' evaluation: published tables, and experiments as declarative files."""

from __future__ import annotations

from editkit import CommandSpec, PublishedTableSpec, hookimpl


@hookimpl
def editkit_published_tables() -> list[PublishedTableSpec]:
    """Register the tables of the ROME paper."""
    return [
        PublishedTableSpec(
            name=f"rome-2022-{dataset}",
            file=f"editkit_benchmarks:published/{dataset}.yaml",
            summary=f"results of Meng et al. (2022) on {title}",
        )
        for dataset, title in (
            ("counterfact", "CounterFact"),
            ("counterfact-v1", "CounterFact (first version)"),
            ("zsre", "zsRE"),
            ("numbers", "traces, contexts, human raters and cost"),
        )
    ]


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Register ``editkit run-experiment``."""
    return [
        CommandSpec(
            name="run-experiment",
            module="editkit_benchmarks.experiments.cli",
            summary="run an experiment of the papers, and draw its figures",
        )
    ]
