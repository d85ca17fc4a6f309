"""The suites: sound plugins keep every rule, and each rule has a plugin that breaks it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy
import pytest
import torch

from editkit.testing import Rule, rules_of
from editkit.testing.checking import CONTRACTS
from editkit.testing.model_contract import ModelContract
from editkit.testing.regime_contract import RegimeContract
from tests.editkit.testing import (
    broken_datasets,
    broken_editors,
    broken_judges,
    broken_locators,
    broken_metrics,
    broken_model_metrics,
    broken_regimes,
    careless_editors,
)
from tests.editkit.testing.in_process_plugins import HERE, Broken, outcome

CASES = [
    case
    for module in (
        broken_editors,
        broken_regimes,
        careless_editors,
        broken_locators,
        broken_metrics,
        broken_model_metrics,
        broken_judges,
        broken_datasets,
    )
    for case in module.CASES
]
ALL = [(kind, rule) for kind, suite in CONTRACTS.items() for rule in rules_of(suite)]


@pytest.fixture(autouse=True)
def repaired() -> Iterator[None]:
    """Put back what broken guests leave behind in the process."""
    python, arrays, tensors = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    yield
    torch.set_grad_enabled(True)
    random.setstate(python)
    numpy.random.set_state(arrays)
    torch.set_rng_state(tensors)


@pytest.mark.parametrize(("kind", "rule"), ALL, ids=lambda value: getattr(value, "method", value))
def test_sound_plugins_keep_every_rule(kind: str, rule: Rule) -> None:
    result = outcome(kind, rule.method, {}, {})
    assert (result.status, result.reason) == ("ok", "")


@pytest.mark.parametrize("rule", rules_of(RegimeContract), ids=lambda rule: rule.method)
def test_a_sound_editor_with_state_keeps_the_rules_of_sequences(rule: Rule) -> None:
    spec = {"factory": f"{HERE}.sound_plugins:SoundSequentialEditor",
            "regimes": ("independent", "joint", "sequential")}  # fmt: skip
    result = outcome("editor", rule.method, spec, {})
    assert (result.status, result.reason) == ("ok", "")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_broken_plugins_are_reported(case: Broken) -> None:
    result = outcome(case.kind, case.rule, case.spec, case.attributes)
    assert result.status == "fail"
    assert case.message in result.reason


def test_every_rule_can_be_broken() -> None:
    shared = {rule.method for rule in rules_of(ModelContract)}
    broken = {(case.kind, case.rule) for case in CASES}
    missing = [
        f"{kind}: {rule.method}"
        for kind, rule in ALL
        if (kind, rule.method) not in broken
        and not (rule.method in shared and ("editor", rule.method) in broken)
    ]
    assert not missing


def test_an_unexpected_error_is_reported_with_its_line_in_the_plugin() -> None:
    [case] = [case for case in CASES if case.what == "MixesTypes"]
    result = outcome(case.kind, case.rule, case.spec, case.attributes)
    assert "broken_editors.py, line " in result.reason
