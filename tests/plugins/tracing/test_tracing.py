from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit import ConfigError, Fact, ModelError, RequestError
from editkit.benchmark.dependencies import dependencies
from editkit.registry.plugins import default_registry
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draws, embedding_std, noise_level
from editkit_plugins.tracing.engine import Finding, trace
from editkit_plugins.tracing.locator import CausalTracingLocator
from editkit_plugins.tracing.plain import trace_plainly
from editkit_plugins.tracing.questions import questions
from editkit_plugins.tracing.tracks import SEVERED, families, in_portions, window_of
from tests.selection import by_default
from tests.tiny import ARCHITECTURES, tiny

SPACE_NEEDLE = Fact("The Space Needle is in the city of", "The Space Needle", "Seattle")
DARRIEUX = Fact("The mother tongue of Danielle Darrieux is", "Danielle Darrieux", "French")
KINDS: tuple[Kind, ...] = ("state", "mlp", "attn", *SEVERED)


def both_ways(model: Any, fact: Fact, **values: Any) -> tuple[Finding, Finding]:
    config = CausalTracingConfig(**{"samples": 2, "noise_level": 0.5, **values})
    [question] = questions(model, [fact])
    noise = draws(model, question, config, noise_level(model, config, [fact.subject]))
    one, other = (way(model, question, noise, config, KINDS) for way in (trace, trace_plainly))
    return one, other


def assert_close(a: Finding, b: Finding) -> None:
    assert a.clean == pytest.approx(b.clean, rel=1e-4, abs=1e-7)
    assert a.corrupted == pytest.approx(b.corrupted, rel=1e-4, abs=1e-7)
    for kind in KINDS:
        largest = float((a.restored[kind] - b.restored[kind]).abs().max())
        assert largest < 1e-5
        assert largest < 1e-3 * float(b.restored[kind].max())


def test_reuse_changes_nothing_for_answers_of_several_tokens() -> None:
    fact = Fact(SPACE_NEEDLE.prompt, SPACE_NEEDLE.subject, "Lima")
    assert_close(*both_ways(tiny(), fact, window=3))


@pytest.mark.parametrize("architecture", by_default(ARCHITECTURES, "gpt2"))
@pytest.mark.parametrize(
    "prompt",
    ["Rome", "They all live in Rome", "Rome is", "They say that Rome lies"],
)
def test_reuse_changes_nothing_wherever_the_subject_stands(prompt: str, architecture: str) -> None:
    """First, last, or both; the answer has several tokens, so the last block's places differ."""
    model = tiny(architecture)
    assert len(model.complete([prompt], ["Lima"])[0].target) > 1
    assert_close(*both_ways(model, Fact(prompt, "Rome", "Lima"), window=2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reuse_changes_nothing(architecture: str) -> None:
    model = tiny(architecture)
    assert_close(*both_ways(model, DARRIEUX, window=2))


@pytest.mark.parametrize(
    "values",
    [
        {"window": 1},
        {"window": 2},
        {"window": 4, "answer_tokens": "first"},
        {"window": 3, "window_side": "above", "severed_noise": "same"},
        {"memory_mb": 1},
        {"memory_mb": 1, "samples": 7},
        {"corruption": "uniform"},
        {"corruption": "multivariate"},
        {"corruption": "student_t"},
    ],
    ids=str,
)
def test_reuse_changes_nothing_whatever_is_configured(values: dict[str, Any]) -> None:
    assert_close(*both_ways(tiny(), SPACE_NEEDLE, **values))


@given(window=st.integers(1, 12), n_layers=st.integers(1, 12), above=st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_layer_is_answered_once(window: int, n_layers: int, above: bool) -> None:
    side = "above" if above else "below"
    config = CausalTracingConfig(window=window, window_side=side)
    for kind in KINDS:
        grouped = families(kind, n_layers, config)
        answered = [layer for family in grouped for track in family for layer in track.layers]
        assert sorted(answered) == list(range(n_layers))
        portions = in_portions(grouped, 3)
        assert [t for p in portions for t in p] == [t for family in grouped for t in family]


def test_windows() -> None:
    config = CausalTracingConfig(window=10)
    assert window_of(20, 48, config) == range(15, 25)
    assert window_of(2, 48, config) == range(0, 7)
    above = config.model_copy(update={"window_side": "above"})
    assert window_of(20, 48, above) == range(16, 26)


# ---------------------------------------------------------------- what must come out


def locate(model: Any, fact: Fact, **values: Any) -> Any:
    config = CausalTracingConfig(**{"samples": 3, "noise_level": 0.5, **values})
    return CausalTracingLocator(config).locate(model, [fact])[0]


def test_restoring_the_last_state_restores_the_answer() -> None:
    found = locate(tiny(), SPACE_NEEDLE)
    total = found.baselines["clean"] - found.baselines["corrupted"]
    assert found.scores[-1][-1] == pytest.approx(total, rel=1e-5)
    assert found.scores[0][-1] == pytest.approx(
        0.0, abs=1e-8
    )  # above it, nobody reads the first token any more


def test_left_of_the_subject_nothing_happens() -> None:
    found = locate(tiny(), DARRIEUX)
    first, end = found.subject
    assert "".join(found.tokens[first:end]).strip() == "Danielle Darrieux"
    assert all(score == 0.0 for row in found.scores[:first] for score in row)
    assert any(score != 0.0 for row in found.scores[first:] for score in row)


def test_an_answer_of_several_tokens_counts_as_a_whole() -> None:
    model = tiny()
    fact = Fact(SPACE_NEEDLE.prompt, SPACE_NEEDLE.subject, "Lima")
    whole, first = (locate(model, fact, answer_tokens=n) for n in ("all", "first"))
    assert len(model.complete([fact.prompt], ["Lima"])[0].target) > 1
    assert whole.answer == " Lima"
    assert " Lima".startswith(first.answer)
    assert whole.baselines["clean"] < first.baselines["clean"]


def test_whether_the_model_predicts_the_answer() -> None:
    model = tiny()
    assert locate(model, SPACE_NEEDLE).baselines["predicted"] == 0.0
    own = locate(model, Fact(SPACE_NEEDLE.prompt, SPACE_NEEDLE.subject))
    assert own.baselines["predicted"] == 1.0


def test_maps_hold_all_kinds() -> None:
    config = CausalTracingConfig(samples=2, noise_level=0.5, kinds=KINDS)
    [found] = CausalTracingLocator(config).maps(tiny(), [SPACE_NEEDLE])
    assert tuple(each.kind for each in found) == KINDS


# ---------------------------------------------------------------- corruption


def test_noise_of_the_matched_kinds_covaries_as_the_embeddings_do() -> None:
    model = tiny()
    [question] = questions(model, [DARRIEUX])
    table = model.module(model.architecture.embedding).get_parameter("weight").detach()
    wanted = torch.cov(table.T.double())
    for corruption, tolerance in (("multivariate", 0.1), ("student_t", 0.4)):
        config = CausalTracingConfig(corruption=corruption, samples=3000, degrees=8.0)
        noise = draws(model, question, config, 1.0)[0].flatten(0, 1).double()
        found = torch.cov(noise.T)
        assert float((found - wanted).norm() / wanted.norm()) < tolerance


def test_uniform_noise_keeps_its_bound() -> None:
    model = tiny()
    [question] = questions(model, [DARRIEUX])
    noise, second = draws(model, question, CausalTracingConfig(corruption="uniform"), 0.25)
    assert 0.2 < float(noise.abs().max()) <= 0.25
    assert not torch.equal(noise, second)


def test_another_subject_takes_the_place() -> None:
    model = tiny()
    prompt = "{} is in the city of"
    one, other = Fact(prompt.format("Rome"), "Rome"), Fact(prompt.format("Italy"), "Italy")
    asked = questions(model, [one, other])
    if len(asked[0].prompt) != len(asked[1].prompt):
        pytest.fail("the subjects of this test must have as many tokens")
    config = CausalTracingConfig(corruption="substitute", substitutes=("Rome", "Italy"))
    found = CausalTracingLocator(config).locate(model, [one])[0]
    answer = asked[0].answer
    ids = torch.tensor([asked[1].prompt])
    with torch.no_grad():
        swapped = torch.softmax(model.hf(ids).logits[0, -1], dim=-1)[answer[0]]
    assert found.baselines["corrupted"] == pytest.approx(float(swapped), rel=1e-4)


def test_no_fitting_substitute() -> None:
    config = CausalTracingConfig(corruption="substitute", substitutes=("Rome",))
    with pytest.raises(ConfigError, match="Danielle Darrieux"):
        CausalTracingLocator(config).locate(tiny(), [DARRIEUX])


def test_level_of_the_noise(tmp_path: Path) -> None:
    model = tiny()
    config = CausalTracingConfig()
    own = 3 * embedding_std(model, ["Rome"])
    assert noise_level(model, config, ["Rome"]) == pytest.approx(own)
    assert noise_level(model, CausalTracingConfig(noise_level=0.1), ["Rome"]) == 0.1
    facts = [SPACE_NEEDLE, DARRIEUX]
    shared = CausalTracingLocator(config).for_facts(model, facts).config
    names = [fact.subject for fact in facts]
    assert shared.noise_level == pytest.approx(3 * embedding_std(model, names))
    file = tmp_path / "subjects.json"
    file.write_text(json.dumps(names), encoding="utf-8")
    named = CausalTracingConfig(subjects=file, samples=2)
    assert dependencies(named, "", name="causal-tracing")["subjects"]
    a = CausalTracingLocator(named).locate(model, [DARRIEUX])
    b = CausalTracingLocator(shared.model_copy(update={"samples": 2})).locate(model, [DARRIEUX])
    assert a[0].scores == b[0].scores


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}', "[1]"])
def test_a_file_of_subjects_that_is_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "subjects.json"
    file.write_text(content, encoding="utf-8")
    config = CausalTracingConfig(subjects=file)
    with pytest.raises(ConfigError, match="subjects"):
        CausalTracingLocator(config).locate(tiny(), [DARRIEUX])


# ---------------------------------------------------------------- facts that cannot be traced


def test_a_subject_that_stands_twice() -> None:
    with pytest.raises(RequestError, match="more than once"):
        locate(tiny(), Fact("Rome is near Rome, in", "Rome"))


def test_a_prompt_that_is_too_long() -> None:
    with pytest.raises(ModelError, match="context"):
        locate(tiny(), Fact("word " * 80 + "Rome is in", "Rome"))


def test_presets() -> None:
    offer = default_registry().get("locator", "causal-tracing")
    assert list(offer.spec.presets) == ["published", "paper", "paper-v1", "corrected"]
    for values in offer.spec.presets.values():
        CausalTracingConfig(**values)
