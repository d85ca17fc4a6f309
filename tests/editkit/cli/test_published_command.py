from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit import PublishedTableSpec, hookimpl
from editkit.registry.plugins import default_registry
from tests.editkit.cli.test_report_command import cell, run_of, write

Cli = Callable[..., tuple[int, str, str]]
PAPER = """
source: A paper
dataset: facts
columns: {e/score: {e: e/*}, p/score: {p: other/*}, n/score: {n: n/*}}
tables:
  - model: big_model
    records: 100
    place: table 1
    rows: {good: [90.0 (2.0), 10.0, 1.5], x: [1.0]}
  - {model: small, records: 100, rows: {good: [80.0]}}
"""
AGAIN = """
source: The same
dataset: facts
columns: {summary/score: {e: other/*}, e/score: {e: e/*}, n/score: {n: n/*}}
tables:
  - {model: big_model, records: 100, rows: {none: [5.0, 10.0], good: [7.0, 90.0 (1.0), 1.5]}}
"""


class PaperPlugin:
    @hookimpl
    def editkit_published_tables(self) -> list[PublishedTableSpec]:
        return [
            PublishedTableSpec("a-paper", "some_package:published.yaml", "a paper"),
            PublishedTableSpec("b-paper", "some_package:again.yaml", "its second version"),
        ]


@pytest.fixture
def paper(fake_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "some_package", raising=False)
    folder = fake_world / "some_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "published.yaml").write_text(PAPER, encoding="utf-8")
    (folder / "again.yaml").write_text(AGAIN, encoding="utf-8")
    default_registry().register(PaperPlugin(), name="paper-plugin")
    return folder / "published.yaml"


def test_the_list_names_every_table(paper: Path, editkit: Cli) -> None:
    rows = [line.split() for line in editkit("published")[1].splitlines()]
    assert ["a-paper", "big_model", "facts", "100", "good", "x", "table", "1"] in rows
    assert ["a-paper", "small", "facts", "100", "good"] in rows


def test_a_table_is_printed_with_its_intervals(paper: Path, editkit: Cli) -> None:
    text = editkit("published", "a-paper", "--model", "big_model")[1]
    assert "90.0 ±2.0" in text
    assert "A paper, table 1." in text
    assert "small" not in text


def test_differences_have_intervals_and_a_warning_names_what_is_not_the_same(
    tmp_path: Path, paper: Path, editkit: Cli
) -> None:
    out = write(run_of(tmp_path / "out", cell("none"), cell("good")))
    [report] = [
        line
        for line in csv.DictReader(io.StringIO(editkit("report", out, "--format", "csv")[1]))
        if (line["table"], line["editor"], line["score"]) == ("scores", "good", "e/score")
    ]
    document = json.loads(editkit("published", "a-paper", "--beside", out, "--json")[1])
    assert [(each["score"], each["same_procedure"]) for each in document["beside"]] == [
        ("e/score", True), ("p/score", False), ("n/score", False)
    ]  # fmt: skip
    first = document["beside"][0]
    assert (first["same_model"], first["same_dataset"]) == (True, True)
    mean, low, high = (float(report[key]) for key in ("mean", "paper_ci_low", "paper_ci_high"))
    assert first["ours"]["mean"] == mean
    assert first["difference"]["mean"] == pytest.approx(mean - 0.9)
    half = (((high - low) / 2) ** 2 + 0.02**2) ** 0.5
    assert first["difference"]["ci_high"] - first["difference"]["mean"] == pytest.approx(half)
    assert document["beside"][1]["difference"]["ci_low"] is None  # none was published
    text = editkit("published", "a-paper", "--beside", out)[1]
    assert [line.split()[0] for line in text.splitlines() if "±" in line] == [
        "good", "published", "ours"
    ]  # fmt: skip
    assert "the procedure of p/score, n/score" in " ".join(text.split())
    assert "the model" not in text
    other = editkit("published", "a-paper", "--beside", out, "--model", "small")[1]
    assert "the model (ours: org/Big_Model; published: small)" in " ".join(other.split())


@pytest.mark.parametrize(
    ("number", "is_valid"), [("90.0 (2.0)", True), ("-4.8", True), ("90 +- 2", False)]
)
def test_numbers_are_written_as_they_are_printed(
    number: str, is_valid: bool, paper: Path, editkit: Cli
) -> None:
    paper.write_text(PAPER.replace("[80.0]", f"[{number}]"), encoding="utf-8")
    code, _, err = editkit("published")
    assert code == (0 if is_valid else 2)
    assert ("22.2 (0.9)" in err) is not is_valid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rome-2022-zrse"], "rome-2022-zsre"),
        (["--model", "gpt2-xll"], "gpt2-xl"),
    ],
)
def test_unknown_names_get_a_hint(arguments: list[str], message: str, editkit: Cli) -> None:
    code, _, err = editkit("published", *arguments)
    assert code == 2
    assert message in err


def test_tables_beside_results_repeat_no_numbers_and_compare_no_other_summaries(
    tmp_path: Path, paper: Path, editkit: Cli
) -> None:
    out = write(run_of(tmp_path / "out", cell("none"), cell("good")))
    document = json.loads(editkit("published", "--beside", out, "--json")[1])
    assert [
        (each["table"], each["editor"], each["score"])
        for each in document["beside"]
        if each["published_model"] == "big_model"
    ] == [
        *(("a-paper", "good", score) for score in ("e/score", "p/score", "n/score")),
        ("b-paper", "none", "e/score"),
    ]
