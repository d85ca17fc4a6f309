"""Tests of what follows from the edits of SmolLM2's records: ``facts/consequences.json``.

::

    relations   facts about old and new objects, and about subjects, each with a wording
    follows     compositionality_1: a relation of the new object, asked of the subject
    reaches     compositionality_2: the edited relation of a country, asked of its cities
    tied        what an edit may change, so that relation_specificity does not ask about it

Run the module to write the tests into ``records/``::

    python -m editkit_benchmarks.smollm2.consequences --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from editkit import Consequence, OpenQuestion
from editkit.storage.resources import resource_text

__all__ = ["SPLITS", "render", "tests_of_edit"]

SPLITS = ("test", "train")
_PACKAGE = "editkit_benchmarks:smollm2"

Facts = Mapping[str, Sequence[str]]
"""Spellings of the object, by subject."""


def tests_of_edit(rewrite: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tests of a record by group, as in its JSON; without empty groups.

    Args:
        rewrite: The record's ``requested_rewrite``.
    """
    edit = (
        rewrite["subject"],
        rewrite["relation_id"],
        rewrite["target_true"]["str"],
        rewrite["target_new"]["str"],
    )
    groups = {
        "compositionality_1": _of_new_object(*edit),
        "compositionality_2": _of_cities(*edit),
        "relation_specificity": _of_subject(*edit),
    }
    listed = {name: [test.to_dict() for test in tests] for name, tests in groups.items()}
    return {name: tests for name, tests in listed.items() if tests}


def render(split: str) -> str:
    """The file of records of a split, with its tests."""
    records = json.loads(resource_text(f"{_PACKAGE}/records/{split}.json"))
    lines = []
    for record in records:
        tests = tests_of_edit(record["requested_rewrite"])
        kept = {key: value for key, value in record.items() if key != "consequences"}
        lines.append({**kept, "consequences": tests} if tests else kept)
    return "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in lines) + "\n]\n"


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(resource_text(f"{_PACKAGE}/facts/consequences.json"))
    return table


def _facts(relation: str) -> Facts:
    facts: Facts = _table()["relations"][relation]["facts"]
    return facts


def _ask(wording: str, subject: str, answer: Sequence[str]) -> OpenQuestion:
    return OpenQuestion(wording.replace("{}", subject), (tuple(answer),))


def _of_new_object(subject: str, edited: str, old: str, new: str) -> Iterator[Consequence]:
    """What the new object implies about the subject, if it differs from what the old one did."""
    for rule in _table()["follows"]:
        facts = _facts(rule["relation"])
        if edited in rule["edited"] and new in facts and facts[new] != facts.get(old):
            condition = _ask(_table()["relations"][rule["relation"]]["wording"], new, facts[new])
            yield Consequence((_ask(rule["wording"], subject, facts[new]),), "any", (condition,))


def _of_cities(subject: str, edited: str, old: str, new: str) -> Iterator[Consequence]:
    """What was edited about a country, asked about its cities."""
    cities = _table()["cities"]
    for rule in _table()["reaches"]:
        for city, countries in cities["facts"].items():
            if edited == rule["edited"] and subject in countries:
                condition = _ask(cities["wording"], city, countries)
                yield Consequence((_ask(rule["wording"], city, [new]),), "any", (condition,))


def _of_subject(subject: str, edited: str, old: str, new: str) -> Iterator[Consequence]:
    """Other facts about the subject, which the model must answer beforehand."""
    for name, relation in _table()["relations"].items():
        if subject in relation["facts"] and name not in _table()["tied"].get(edited, ()):
            question = _ask(relation["wording"], subject, relation["facts"][subject])
            yield Consequence((question,), "any", (question,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the records of both splits, with their tests."""
    parser = argparse.ArgumentParser(prog="python -m editkit_benchmarks.smollm2.consequences")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files of records")
    out: Path = parser.parse_args(arguments).out
    texts = {out / f"{split}.json": render(split) for split in SPLITS}
    out.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8", newline="\n")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
