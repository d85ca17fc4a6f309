"""Averages of effects by role of a token, over facts and as in the published notebook."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

import editkit
from editkit import Fact, Localization
from editkit.benchmark.store import Store
from editkit.registry.config import resolve_config
from editkit.registry.plugins import default_registry
from editkit.results import STORE_FILE
from editkit_plugins.tracing.averages import (
    PLACES,
    ROLES,
    average_by_role,
    average_largest,
    effects_by_role,
    largest_effects,
    tokens_by_role,
)
from editkit_plugins.tracing.bench import Tools, identity_of
from editkit_plugins.tracing.stored_traces import average_trace

LAYERS = 3


def random_localization(seed: int, n_tokens: int, subject: tuple[int, int]) -> Localization:
    draw = random.Random(seed)
    return Localization(
        fact=Fact("A prompt about it is", "it", "x"),
        tokens=tuple("t" * n_tokens),
        kind="state",
        scores=tuple(tuple(draw.random() for _ in range(LAYERS)) for _ in range(n_tokens)),
        subject=subject,
    )


FACTS = [
    random_localization(0, 7, (1, 5)),  # two tokens in the middle
    random_localization(1, 3, (0, 1)),  # one token; one in between; the last one
    random_localization(2, 3, (0, 2)),  # the first subsequent token is the last one
    random_localization(3, 9, (2, 4)),  # four further tokens
    random_localization(4, 6, (1, 6)),  # the subject ends the prompt
]


def notebook_rows(facts: list[Localization]) -> dict[str, np.ndarray]:
    """The notebook's rows by role: every token of every fact, some of them twice."""
    pools: dict[str, list[np.ndarray]] = {role: [] for role in ROLES}
    for fact in facts:
        scores = np.array(fact.scores)
        assert fact.subject is not None
        first, after = fact.subject
        last_subject, last = after - 1, len(scores) - 1
        pools[ROLES[0]].append(scores[first])
        pools[ROLES[1]].extend(scores[first + 1 : last_subject])
        pools[ROLES[2]].append(scores[last_subject])
        if after <= last:
            pools[ROLES[3]].append(scores[after])
            pools[ROLES[4]].extend(scores[after + 1 : last])
        pools[ROLES[5]].append(scores[last])
    return {role: np.array(rows) for role, rows in pools.items() if rows}


def test_by_token_averages_like_the_notebook() -> None:
    expected = notebook_rows(FACTS)
    averages = average_by_role([effects_by_role(fact, "by_token") for fact in FACTS])
    assert averages.keys() == expected.keys() == set(ROLES)
    for role, rows in expected.items():
        for layer, mean in enumerate(averages[role]):
            column = rows[:, layer]
            half = 1.96 * column.std() / len(column) ** 0.5
            assert mean.n == len(column)
            assert mean.mean == pytest.approx(column.mean(), rel=1e-12)
            if mean.n >= 5:
                assert mean.by_paper.half_width == pytest.approx(half, rel=1e-9)
            else:
                assert mean.half_width is None


def test_by_fact_counts_facts_and_gives_tokens_one_role() -> None:
    averages = average_by_role([effects_by_role(fact) for fact in FACTS])
    further = np.array(FACTS[3].scores)[5:8].mean(axis=0)  # the others have none
    assert averages["further tokens"][0].n == 1
    assert averages["further tokens"][1].mean == pytest.approx(further[1])
    assert averages["first subsequent token"][0].n == 3
    assert averages["first subject token"][0].n == 4
    published = average_by_role([effects_by_role(fact, "by_token") for fact in FACTS])
    assert published["further tokens"][0].n == 3
    assert published["first subsequent token"][0].n == 4
    assert published["first subject token"][0].n == 5


def test_a_token_may_have_two_roles_in_the_notebook() -> None:
    tokens = tokens_by_role(2, (0, 1), "by_token")
    assert tokens["first subject token"] == tokens["last subject token"] == [0]
    assert tokens["first subsequent token"] == tokens["last token"] == [1]
    assert tokens_by_role(4, (1, 4), "by_token")["last token"] == [3]


def test_the_largest_effects_are_taken_per_fact() -> None:
    corrupted = [0.1, 0.0, 0.2, 0.05, 0.3]
    averages = average_largest([largest_effects(fact) for fact in FACTS], corrupted)
    scores = [np.array(fact.scores) for fact in FACTS]
    expected = {
        "any token": [s.max() for s in scores],
        "last subject token": [
            s[fact.subject[1] - 1].max() for s, fact in zip(scores, FACTS, strict=True)
        ],
        "last token": [s[-1].max() for s in scores],
    }
    assert tuple(averages) == PLACES
    for place, values in expected.items():
        assert averages[place].effect.mean == pytest.approx(np.mean(values))
        assert averages[place].effect.n == len(FACTS)
        probability = averages[place].probability
        assert probability is not None
        assert probability.mean == pytest.approx(np.mean(np.add(values, corrupted)))
    without = average_largest([largest_effects(fact) for fact in FACTS], [None] * len(FACTS))
    assert all(each.probability is None for each in without.values())


@pytest.mark.parametrize(
    ("model", "preset", "values"),
    [
        ("gpt2-xl", "paper-v1", {"noise_level": 0.1, "window_side": "above", "samples": 10}),
        ("EleutherAI/gpt-j-6B", "paper-v1", {"noise_level": 0.025}),
        ("gpt2-xl", "paper", {"window": 10, "window_side": "above", "answer_tokens": "all"}),
        ("gpt2-xl", "published", {"answer_tokens": "first", "averaging": "by_token"}),
        ("gpt2-xl", None, {"answer_tokens": "first", "noise_level": None}),
        ("gpt2-xl", "corrected", {"answer_tokens": "all", "averaging": "by_fact"}),
    ],
)
def test_presets(model: str, preset: str | None, values: dict[str, object]) -> None:
    offer = default_registry().get("locator", "causal-tracing")
    config = resolve_config(offer, model=model, preset=preset).to_dict()
    assert {field: config[field] for field in values} == values


def test_the_unit_of_averages_is_the_locators(tmp_path: Path) -> None:
    model = editkit.load_model("atlas")
    facts = [
        Fact("Toyota Corolla is made by", "Toyota Corolla"),
        Fact("The mother tongue of Albert Einstein is", "Albert Einstein"),
    ]
    values = {"samples": 2, "kinds": ("state", "mlp"), "window": 2, "noise_level": 0.2}
    locators = {
        averaging: editkit.make_locator("causal-tracing", model, averaging=averaging, **values)
        for averaging in ("by_token", "by_fact")
    }
    averages = {
        averaging: average_trace(model, "causal-tracing", locator, facts, tmp_path)
        for averaging, locator in locators.items()
    }
    maps = locators["by_fact"].maps(model, facts)
    for averaging, average in averages.items():
        assert average.known == 2
        for i, kind in enumerate(values["kinds"]):
            expected = average_by_role([effects_by_role(of_fact[i], averaging) for of_fact in maps])
            assert average.effects[kind] == expected
            effects = [largest_effects(of_fact[i]) for of_fact in maps]
            lows = [of_fact[i].baselines["corrupted"] for of_fact in maps]
            assert average.largest[kind] == average_largest(effects, lows)
    assert averages["by_token"].fingerprint != averages["by_fact"].fingerprint
    # The stored rows give the same averages.
    assert (
        average_trace(model, "causal-tracing", locators["by_token"], facts, tmp_path)
        == (averages["by_token"])
    )


INVALID_ROWS = [
    ({}, {}),
    ({"predicted": 2.0}, {}),
    ({"predicted": 1.0}, {}),
    ({"predicted": 1.0}, {"state/last token": [0.1] * 6}),
    ({"predicted": 1.0}, {"state/layers": [0.0], "state/largest": [1.0, 1.0, 1.0]}),
    ({"predicted": 1.0}, {"state/layers": [], "state/largest": [1.0, 1.0, 1.0]}),
    ({"predicted": 1.0}, {"state/layers": [6.0], "state/largest": [1.0]}),
    (
        {"predicted": 1.0},
        {"state/layers": [6.0], "state/largest": [1.0] * 3, "state/last token": [0.1] * 7},
    ),
]


def test_invalid_rows_are_traced_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = editkit.load_model("atlas")
    facts = [Fact("Toyota Corolla is made by", "Toyota Corolla")]
    locator = editkit.make_locator(
        "causal-tracing", model, samples=1, kinds=("state",), window=2, noise_level=0.2
    )
    expected = average_trace(model, "causal-tracing", locator, facts, tmp_path)
    for scores, details in INVALID_ROWS:
        with Store(tmp_path / STORE_FILE) as store:
            [row] = store.rows(expected.fingerprint)
            assert store.environments()[row.environment]["torch"]
            store.put_rows(
                expected.fingerprint,
                [dataclasses.replace(row, scores=scores, details=details, completed_at=1.0)],
            )
        caplog.clear()
        average = average_trace(model, "causal-tracing", locator, facts, tmp_path)
        assert dataclasses.replace(average, finished=expected.finished) == expected
        assert "are not valid traces" in caplog.text


def test_rows_of_other_facts_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = editkit.load_model("atlas")
    facts = [Fact("Toyota Corolla is made by", "Toyota Corolla")]
    locator = editkit.make_locator(
        "causal-tracing", model, samples=1, kinds=("state",), window=2, noise_level=0.2
    )
    expected = average_trace(model, "causal-tracing", locator, facts, tmp_path)
    with Store(tmp_path / STORE_FILE) as store:
        [row] = store.rows(expected.fingerprint)
        store.put_rows(expected.fingerprint, [dataclasses.replace(row, case_id=1)])
    assert average_trace(model, "causal-tracing", locator, facts, tmp_path) == expected
    assert "fact 1: expected a number below 1" in caplog.text


def test_traces_stored_by_earlier_versions_are_used() -> None:
    """The configuration had a field ``plain``, and fingerprints of stored traces include it."""
    model = editkit.load_model("atlas")
    tools = Tools("causal-tracing", editkit.make_locator("causal-tracing", model))
    assert identity_of(model, tools, [])["config"]["plain"] is False
