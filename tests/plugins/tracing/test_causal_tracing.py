from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit import ConfigError, Fact, ModelError, RequestError, make_locator
from editkit.benchmark.dependencies import dependencies
from editkit.registry.plugins import default_registry
from editkit_plugins.tracing.causal_tracing import (
    CausalTracingLocator,
    Probabilities,
    trace_fact,
)
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draw_noise, embedding_std, noise_level
from editkit_plugins.tracing.restored_runs import (
    SEVERED,
    pack_groups,
    plan_runs,
    window_of,
    window_size,
)
from editkit_plugins.tracing.tokenized_facts import tokenize_facts
from tests.plugins.tracing.oracle import trace_site_by_site
from tests.slow_cases import by_default
from tests.tiny import ARCHITECTURES, EACH_WITH_EXPERTS, tiny

SPACE_NEEDLE = Fact("The Space Needle is in the city of", "The Space Needle", "Seattle")
DARRIEUX = Fact("The mother tongue of Danielle Darrieux is", "Danielle Darrieux", "French")
KINDS: tuple[Kind, ...] = ("state", "mlp", "attn", *SEVERED)


def both_ways(model: Any, fact: Fact, **values: Any) -> tuple[Probabilities, Probabilities]:
    """What the locator computes, and what the oracle does."""
    config = CausalTracingConfig(**{"samples": 2, "noise_level": 0.5, **values})
    [tokenized] = tokenize_facts(model, [fact])
    noise = draw_noise(model, tokenized, config, noise_level(model, config, [fact.subject]))
    traced, expected = (
        function(model, tokenized, noise, config, KINDS)
        for function in (trace_fact, trace_site_by_site)
    )
    return traced, expected


def assert_close(traced: Probabilities, expected: Probabilities) -> None:
    assert traced.clean == pytest.approx(expected.clean, rel=1e-4, abs=1e-7)
    assert traced.corrupted == pytest.approx(expected.corrupted, rel=1e-4, abs=1e-7)
    for kind in KINDS:
        difference = float((traced.restored[kind] - expected.restored[kind]).abs().max())
        assert difference < 1e-5
        assert difference < 1e-3 * float(expected.restored[kind].max())


def test_matches_the_oracle_for_answers_of_several_tokens() -> None:
    fact = Fact(SPACE_NEEDLE.prompt, SPACE_NEEDLE.subject, "Lima")
    assert_close(*both_ways(tiny(), fact, window=3))


@pytest.mark.parametrize("architecture", by_default(ARCHITECTURES, "gpt2"))
@pytest.mark.parametrize(
    "prompt",
    ["Rome", "They all live in Rome", "Rome is", "They say that Rome lies"],
)
def test_matches_the_oracle_wherever_the_subject_is(prompt: str, architecture: str) -> None:
    """The subject is first, last, or both. The last block runs at several positions."""
    model = tiny(architecture)
    assert len(model.complete([prompt], ["Lima"])[0].target) > 1
    assert_close(*both_ways(model, Fact(prompt, "Rome", "Lima"), window=2))


@pytest.mark.parametrize("architecture", EACH_WITH_EXPERTS)
def test_matches_the_oracle(architecture: str) -> None:
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
def test_matches_the_oracle_under_every_setting(values: dict[str, Any]) -> None:
    assert_close(*both_ways(tiny(), SPACE_NEEDLE, **values))


@given(window=st.integers(1, 12), n_layers=st.integers(1, 12), above=st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_layer_has_one_run(window: int, n_layers: int, above: bool) -> None:
    side = "above" if above else "below"
    config = CausalTracingConfig(window=window, window_side=side)
    for kind in KINDS:
        groups = plan_runs(kind, n_layers, config)
        runs = [run for group in groups for run in group]
        assert sorted(layer for run in runs for layer in run.layers) == list(range(n_layers))
        assert [run for batch in pack_groups(groups, 3) for run in batch] == runs


def test_windows() -> None:
    config = CausalTracingConfig(window=10)
    assert window_of(20, 48, config) == range(15, 25)
    assert window_of(2, 48, config) == range(0, 7)
    above = config.model_copy(update={"window_side": "above"})
    assert window_of(20, 48, above) == range(16, 26)


def test_the_default_window_suits_the_depth_and_presets_keep_theirs() -> None:
    sizes = [window_size(depth, CausalTracingConfig()) for depth in (1, 6, 12, 28, 48)]
    assert sizes == [1, 2, 3, 6, 10]
    model = tiny()  # 4 layers
    for preset, window in ((None, 1), ("published", 10), ("paper", 10), ("corrected", 1)):
        locator = make_locator("causal-tracing", model, preset=preset, samples=1)
        _, mlp, _ = locator.maps(model, [DARRIEUX])[0]
        assert mlp.window == window
        assert locator.for_facts(model, [DARRIEUX]).config.window == window


# ---------------------------------------------------------------- effects


def locate(model: Any, fact: Fact, **values: Any) -> Any:
    config = CausalTracingConfig(**{"samples": 3, "noise_level": 0.5, **values})
    return CausalTracingLocator(config).locate(model, [fact])[0]


def test_restoring_the_last_state_restores_the_answer() -> None:
    effects = locate(tiny(), SPACE_NEEDLE)
    total = effects.baselines["clean"] - effects.baselines["corrupted"]
    assert effects.scores[-1][-1] == pytest.approx(total, rel=1e-5)
    # No block reads the first token after the last one.
    assert effects.scores[0][-1] == pytest.approx(0.0, abs=1e-8)


def test_there_is_no_effect_left_of_the_subject() -> None:
    effects = locate(tiny(), DARRIEUX)
    first, end = effects.subject
    assert "".join(effects.tokens[first:end]).strip() == "Danielle Darrieux"
    assert all(score == 0.0 for row in effects.scores[:first] for score in row)
    assert any(score != 0.0 for row in effects.scores[first:] for score in row)


def test_the_probability_of_an_answer_covers_all_its_tokens() -> None:
    model = tiny()
    fact = Fact(SPACE_NEEDLE.prompt, SPACE_NEEDLE.subject, "Lima")
    whole, first = (locate(model, fact, answer_tokens=n) for n in ("all", "first"))
    assert len(model.complete([fact.prompt], ["Lima"])[0].target) > 1
    assert whole.answer == " Lima"
    assert " Lima".startswith(first.answer)
    assert whole.baselines["clean"] < first.baselines["clean"]


def test_the_baseline_predicted() -> None:
    model = tiny()
    assert locate(model, SPACE_NEEDLE).baselines["predicted"] == 0.0
    own = locate(model, Fact(SPACE_NEEDLE.prompt, SPACE_NEEDLE.subject))
    assert own.baselines["predicted"] == 1.0


def test_maps_hold_all_kinds() -> None:
    config = CausalTracingConfig(samples=2, noise_level=0.5, kinds=KINDS)
    [maps] = CausalTracingLocator(config).maps(tiny(), [SPACE_NEEDLE])
    assert tuple(each.kind for each in maps) == KINDS


# ---------------------------------------------------------------- corruption


def test_matched_noise_has_the_covariance_of_the_embeddings() -> None:
    model = tiny()
    [fact] = tokenize_facts(model, [DARRIEUX])
    table = model.module(model.architecture.embedding).get_parameter("weight").detach()
    expected = torch.cov(table.T.double())
    for corruption, tolerance in (("multivariate", 0.1), ("student_t", 0.4)):
        config = CausalTracingConfig(corruption=corruption, samples=3000, degrees=8.0)
        noise = draw_noise(model, fact, config, 1.0)[0].flatten(0, 1).double()
        assert float((torch.cov(noise.T) - expected).norm() / expected.norm()) < tolerance


def test_uniform_noise_has_a_bound() -> None:
    model = tiny()
    [fact] = tokenize_facts(model, [DARRIEUX])
    noise, second = draw_noise(model, fact, CausalTracingConfig(corruption="uniform"), 0.25)
    assert 0.2 < float(noise.abs().max()) <= 0.25
    assert not torch.equal(noise, second)


def test_substitution_equals_a_run_on_the_other_subject() -> None:
    model = tiny()
    prompt = "{} is in the city of"
    one, other = Fact(prompt.format("Rome"), "Rome"), Fact(prompt.format("Italy"), "Italy")
    own, others = tokenize_facts(model, [one, other])
    if len(own.prompt) != len(others.prompt):
        pytest.fail("the subjects of this test must have the same number of tokens")
    config = CausalTracingConfig(corruption="substitute", substitutes=("Rome", "Italy"))
    effects = CausalTracingLocator(config).locate(model, [one])[0]
    with torch.no_grad():
        logits = model.hf(torch.tensor([others.prompt])).logits[0, -1]
    swapped = torch.softmax(logits, dim=-1)[own.answer[0]]
    assert effects.baselines["corrupted"] == pytest.approx(float(swapped), rel=1e-4)


def test_without_a_substitute_of_the_same_length() -> None:
    config = CausalTracingConfig(corruption="substitute", substitutes=("Rome",))
    with pytest.raises(ConfigError, match="Danielle Darrieux"):
        CausalTracingLocator(config).locate(tiny(), [DARRIEUX])


def test_the_noise_level(tmp_path: Path) -> None:
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
def test_a_broken_file_of_subjects(tmp_path: Path, content: str) -> None:
    file = tmp_path / "subjects.json"
    file.write_text(content, encoding="utf-8")
    config = CausalTracingConfig(subjects=file)
    with pytest.raises(ConfigError, match="subjects"):
        CausalTracingLocator(config).locate(tiny(), [DARRIEUX])


# ---------------------------------------------------------------- facts that are refused


def test_a_prompt_with_its_subject_twice() -> None:
    with pytest.raises(RequestError, match="more than once"):
        locate(tiny(), Fact("Rome is near Rome, in", "Rome"))


def test_a_prompt_that_is_too_long() -> None:
    with pytest.raises(ModelError, match="context"):
        locate(tiny(), Fact("word " * 80 + "Rome is in", "Rome"))


def test_presets() -> None:
    offer = default_registry().get("locator", "causal-tracing")
    assert list(offer.spec.presets) == ["scaled", "published", "paper", "paper-v1", "corrected"]
    for values in offer.spec.presets.values():
        CausalTracingConfig(**values)
