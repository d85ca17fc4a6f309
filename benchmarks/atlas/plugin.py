"""The plugin of the embedded world: its model, datasets, benchmarks and command."""

from __future__ import annotations

from editkit import BenchmarkSpec, CommandSpec, DatasetSpec, ModelSpec, hookimpl

_RELATION_NAMES = "editkit_benchmarks.atlas:world/relations.json"


@hookimpl
def editkit_models() -> list[ModelSpec]:
    """Offer the model ``atlas``."""
    return [
        ModelSpec(
            name="atlas",
            folder="editkit_benchmarks:atlas/model",
            summary="a small GPT-2 that knows common facts of the world well, rare ones poorly",
            facts="editkit_benchmarks.atlas.records:fact_table",
        )
    ]


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Offer the datasets ``atlas`` and ``atlas-zsre``."""
    return [
        DatasetSpec(
            name="atlas",
            factory="editkit_benchmarks.atlas.dataset:AtlasDataset",
            config="editkit_benchmarks.atlas.dataset:AtlasConfig",
            summary="counterfactual edits of the embedded world, in CounterFact's layout",
            relation_names=_RELATION_NAMES,
        ),
        DatasetSpec(
            name="atlas-zsre",
            factory="editkit_benchmarks.atlas.zsre:AtlasZsreDataset",
            config="editkit_benchmarks.atlas.dataset:AtlasConfig",
            summary="the same edits with unrelated facts to preserve, as in zsRE",
            relation_names=_RELATION_NAMES,
        ),
    ]


@hookimpl
def editkit_benchmarks() -> list[BenchmarkSpec]:
    """Offer the benchmarks ``atlas``, ``atlas-generation``, ``as-used`` and ``zsre-atlas``."""
    return [
        BenchmarkSpec(
            name="atlas",
            file="editkit_benchmarks:atlas.yaml",
            summary="single-fact edits on the embedded world, scored as in CounterFact",
        ),
        BenchmarkSpec(
            name="atlas-generation",
            file="editkit_benchmarks:atlas-generation.yaml",
            summary="the same with all metrics, including those of generated text",
        ),
        BenchmarkSpec(
            name="as-used",
            file="editkit_benchmarks:as-used.yaml",
            summary="what edited models write and conclude, and how far they drift",
        ),
        BenchmarkSpec(
            name="zsre-atlas",
            file="editkit_benchmarks:zsre-atlas.yaml",
            summary="single-fact edits on the embedded world, scored as in zsRE",
        ),
    ]


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Add ``editkit atlas``."""
    return [
        CommandSpec(
            name="atlas",
            module="editkit_benchmarks.atlas.cli",
            summary="build, train and measure the embedded world",
        )
    ]
