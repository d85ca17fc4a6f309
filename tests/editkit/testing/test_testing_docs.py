"""docs/testing.md lists the rules of the suites, word for word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from editkit.testing import Contract, Rule, rules_of
from editkit.testing.checking import CONTRACTS, outcome_of
from editkit.testing.model_contract import ModelContract

DOCS = Path(__file__).resolve().parents[3] / "docs" / "testing.md"
SHARED = {
    "Everything": Contract,
    "Editors, locators and metrics of both kinds": ModelContract,
}
TITLES = {
    "Editors": "editor",
    "Locators": "locator",
    "Metrics": "metric",
    "Metrics of models": "model_metric",
    "Judges": "judge",
    "Datasets": "dataset",
}


def printed(title: str) -> list[tuple[str, str]]:
    """The rows of the table below a title."""
    _, _, after = DOCS.read_text(encoding="utf-8").partition(f"\n{title}:\n\n")
    table = after.partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in row.strip("| ").split(" | ")) for row in table]


def own(suite: type[Contract], base: type[Contract] | None) -> list[Rule]:
    inherited = {rule.method for rule in rules_of(base)} if base else set()
    return [rule for rule in rules_of(suite) if rule.method not in inherited]


@pytest.mark.parametrize("title", [*SHARED, *TITLES])
def test_the_documented_rules_are_the_rules(title: str) -> None:
    if title in SHARED:
        suite = SHARED[title]
        rules = own(suite, None if suite is Contract else Contract)
    else:
        suite = CONTRACTS[TITLES[title]]
        rules = own(suite, ModelContract if issubclass(suite, ModelContract) else Contract)
    assert printed(title) == [(rule.text, rule.advice) for rule in rules]


def test_every_kind_has_a_table() -> None:
    assert set(TITLES.values()) == set(CONTRACTS)


@pytest.mark.parametrize("suite", CONTRACTS.values())
def test_every_rule_has_advice(suite: type[Contract]) -> None:
    rules = rules_of(suite)
    assert all(rule.text and rule.advice.endswith(".") for rule in rules)
    assert len({rule.text for rule in rules}) == len(rules)


def test_the_examples_are_suites() -> None:
    """Each example of the page, with the name of an editor that is installed."""
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        names: dict[str, Any] = {"__name__": "examples"}
        exec(code.replace('"mine"', '"ft"'), names)
        suite = names["TestMine"]
        [rule] = [rule for rule in rules_of(suite) if rule.method == "test_deltas_are_finite"]
        assert outcome_of(suite, rule).status == "ok"
