"""Tests of consequences in SmolLM2's records."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from editkit.storage.resources import resource_text
from editkit_benchmarks.smollm2 import consequences
from editkit_benchmarks.smollm2.consequences import SPLITS


def records_of(split: str) -> list[dict[str, Any]]:
    text = resource_text(f"editkit_benchmarks:smollm2/records/{split}.json")
    return list(json.loads(text))


def test_the_command_reproduces_the_packaged_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert consequences.main(["--out", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(SPLITS)
    for split in SPLITS:
        packaged = resource_text(f"editkit_benchmarks:smollm2/records/{split}.json")
        assert (tmp_path / f"{split}.json").read_text(encoding="utf-8") == packaged


def test_most_records_have_tests() -> None:
    records = records_of("test")
    groups = Counter(group for each in records for group in each.get("consequences", {}))
    assert groups["compositionality_1"] >= 70
    assert groups["relation_specificity"] >= 50
    assert groups["compositionality_2"] >= 8


@pytest.mark.parametrize("split", SPLITS)
def test_conditions_lead_to_the_answers(split: str) -> None:
    for record in records_of(split):
        rewrite = record["requested_rewrite"]
        subject, new = rewrite["subject"], rewrite["target_new"]["str"]
        for group, tests in record.get("consequences", {}).items():
            for test in tests:
                [question], [condition] = test["questions"], test["conditions"]
                if group == "compositionality_1":
                    assert subject in question["prompt"]
                    assert new in condition["prompt"]
                    assert question["answers"] == condition["answers"]
                elif group == "compositionality_2":
                    assert question["answers"] == [[new]]
                    assert [subject] in condition["answers"]
                else:
                    assert group == "relation_specificity"
                    assert question == condition
                    assert subject in question["prompt"]


def test_a_moved_capital_is_asked_about_its_country_and_continent() -> None:
    edit = {
        "subject": "Kingdom of Bavaria",
        "relation_id": "P36",
        "target_true": {"str": "Munich"},
        "target_new": {"str": "New Delhi"},
    }
    country, continent = (
        test["questions"][0] for test in consequences.tests_of_edit(edit)["compositionality_1"]
    )
    assert country["prompt"] == "The capital of Kingdom of Bavaria is a city in the country of"
    assert (country["answers"], continent["answers"]) == ([["India"]], [["Asia"]])
