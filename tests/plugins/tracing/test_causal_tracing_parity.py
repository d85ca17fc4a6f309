"""The locator and its oracle give every array of ``parity/causal_trace``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from editkit import Fact
from editkit_plugins.tracing.causal_tracing import Probabilities, trace_fact
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draw_noise, embedding_std
from editkit_plugins.tracing.tokenized_facts import TokenizedFact, tokenize_facts
from tests.parity import Parity
from tests.plugins.tracing.oracle import trace_site_by_site

TraceFunction = Callable[..., Probabilities]
BOTH = pytest.mark.parametrize("trace", [trace_fact, trace_site_by_site], ids=["locator", "oracle"])
ARRAYS: dict[str, tuple[Kind, int]] = {
    "scores_hidden": ("state", 10),
    "scores_mlp_window4": ("mlp", 4),
    "scores_mlp_window10": ("mlp", 10),
    "scores_attn_window4": ("attn", 4),
    "scores_attn_window10": ("attn", 10),
}
SEVERED: dict[str, Kind] = {
    "last_subject_ordinary": "state",
    "last_subject_mlp_severed": "state-mlp-severed",
    "last_subject_attn_severed": "state-attn-severed",
    "last_subject_both_severed": "state-both-severed",
}


def published(parity: Parity) -> tuple[dict[str, Any], list[TokenizedFact]]:
    content = parity.json("causal_trace/prompts.json")
    facts = [Fact(entry["prompt"], entry["subject"]) for entry in content["prompts"]]
    return content, tokenize_facts(parity.model, facts)


def traces(
    parity: Parity, trace: TraceFunction, kinds: list[Kind], **values: Any
) -> dict[int, Probabilities]:
    """Probabilities by index of the prompt."""
    content, facts = published(parity)
    config = CausalTracingConfig(samples=content["samples"], seed=content["seed"], **values)
    selected = list(enumerate(facts))
    if trace is trace_site_by_site:
        selected = selected[-1:]  # it is slow, and other tests compare both functions
    return {
        i: trace(
            parity.model,
            fact,
            draw_noise(parity.model, fact, config, content["noise"]),
            config,
            kinds,
        )
        for i, fact in selected
    }


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def test_prompts(parity: Parity) -> None:
    content, facts = published(parity)
    for entry, fact in zip(content["prompts"], facts, strict=True):
        assert list(fact.prompt) == entry["input_ids"]
        assert list(fact.subject) == entry["subject_range"]
        assert list(fact.answer) == [entry["answer_token_id"]]


def test_noise(parity: Parity) -> None:
    content, facts = published(parity)
    subjects = list(parity.json("model/world.json"))
    assert embedding_std(parity.model, subjects) == pytest.approx(
        content["subject_embedding_std"], rel=1e-6
    )
    arrays = parity.arrays("causal_trace")
    first, second = draw_noise(parity.model, facts[0], CausalTracingConfig(), 1.0)
    for drawn, name in ((first, "first"), (second, "second")):
        expected = arrays[f"prompt0.unit_noise_{name}_draw"]
        assert largest_difference(drawn, expected) < 1e-6


@BOTH
@pytest.mark.parametrize("name", ARRAYS)
def test_restored(parity: Parity, name: str, trace: TraceFunction) -> None:
    kind, window = ARRAYS[name]
    content, _ = published(parity)
    for i, p in traces(parity, trace, [kind], window=window).items():
        entry = content["prompts"][i]
        assert p.clean == pytest.approx(entry["high_score"], abs=1e-5)
        assert p.corrupted == pytest.approx(entry["low_score"], abs=1e-5)
        expected = parity.arrays("causal_trace")[f"prompt{i}.{name}"]
        assert largest_difference(p.restored[kind], expected) < 1e-5


@BOTH
@pytest.mark.parametrize("name", SEVERED)
def test_severed(parity: Parity, name: str, trace: TraceFunction) -> None:
    kind = SEVERED[name]
    _, facts = published(parity)
    for i, p in traces(parity, trace, [kind]).items():
        scores = p.restored[kind][facts[i].subject[1] - 1]
        expected = parity.arrays("causal_trace")[f"prompt{i}.{name}"]
        assert largest_difference(scores, expected) < 1e-5
