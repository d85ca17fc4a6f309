"""Every array of ``parity/causal_trace``, the fast way and the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from editkit import Fact
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draws, embedding_std
from editkit_plugins.tracing.engine import Finding, trace
from editkit_plugins.tracing.plain import trace_plainly
from editkit_plugins.tracing.questions import Question, questions
from tests.parity import Parity

Way = Callable[..., Finding]
WAYS = pytest.mark.parametrize("way", [trace, trace_plainly], ids=["fast", "plain"])
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


def published(parity: Parity) -> tuple[dict[str, Any], list[Question]]:
    content = parity.json("causal_trace/prompts.json")
    facts = [Fact(entry["prompt"], entry["subject"]) for entry in content["prompts"]]
    return content, questions(parity.model, facts)


def found(parity: Parity, way: Way, kinds: list[Kind], **values: Any) -> list[Finding]:
    content, asked = published(parity)
    if way is trace_plainly:
        asked = asked[-1:]  # it is slow, and the other tests hold both ways to the same numbers
    config = CausalTracingConfig(samples=content["samples"], seed=content["seed"], **values)
    return [
        way(
            parity.model,
            question,
            draws(parity.model, question, config, content["noise"]),
            config,
            kinds,
        )
        for question in asked
    ]


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def test_prompts(parity: Parity) -> None:
    content, asked = published(parity)
    for entry, question in zip(content["prompts"], asked, strict=True):
        assert list(question.prompt) == entry["input_ids"]
        assert list(question.subject) == entry["subject_range"]
        assert list(question.answer) == [entry["answer_token_id"]]


def test_noise(parity: Parity) -> None:
    content, asked = published(parity)
    subjects = list(parity.json("model/world.json"))
    assert embedding_std(parity.model, subjects) == pytest.approx(
        content["subject_embedding_std"], rel=1e-6
    )
    arrays = parity.arrays("causal_trace")
    first, second = draws(parity.model, asked[0], CausalTracingConfig(), 1.0)
    for drawn, name in ((first, "first"), (second, "second")):
        expected = arrays[f"prompt0.unit_noise_{name}_draw"]
        assert largest_difference(drawn, expected) < 1e-6


@WAYS
@pytest.mark.parametrize("name", ARRAYS)
def test_restored(parity: Parity, name: str, way: Way) -> None:
    kind, window = ARRAYS[name]
    content, _ = published(parity)
    results = found(parity, way, [kind], window=window)
    first = len(content["prompts"]) - len(results)
    for i, result in enumerate(results, start=first):
        entry = content["prompts"][i]
        assert result.clean == pytest.approx(entry["high_score"], abs=1e-5)
        assert result.corrupted == pytest.approx(entry["low_score"], abs=1e-5)
        expected = parity.arrays("causal_trace")[f"prompt{i}.{name}"]
        assert largest_difference(result.restored[kind], expected) < 1e-5


@WAYS
@pytest.mark.parametrize("name", SEVERED)
def test_severed(parity: Parity, name: str, way: Way) -> None:
    kind = SEVERED[name]
    _, asked = published(parity)
    results = found(parity, way, [kind])
    for i, result in enumerate(results, start=len(asked) - len(results)):
        scores = result.restored[kind][asked[i].subject[1] - 1]
        expected = parity.arrays("causal_trace")[f"prompt{i}.{name}"]
        assert largest_difference(scores, expected) < 1e-5
