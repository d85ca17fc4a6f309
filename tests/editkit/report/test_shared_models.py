"""Tables of runs in which facts share models: regimes, checkpoints, and scores of the models."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest

from editkit.benchmark.aggregate import Estimate, cell_document
from editkit.benchmark.published import Published
from editkit.benchmark.samples import Age, Series, series_of
from editkit.benchmark.store import Store
from editkit.regimes import Regime
from editkit.report import csv_table, html_page, text
from editkit.report.labels import edits_labels, labels_of, regimes_of
from editkit.report.sections import Section, sections_of
from editkit.results import Row, Run
from tests.editkit.report.shared_runs import SEQUENTIAL, cell, shared_run, write_shared


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_shared(tmp_path / "out")


@pytest.fixture
def section(run: Run) -> Section:
    [section] = sections_of([run], [()])
    return section


def lines_of(section: Section, name: str) -> list[list[str]]:
    [table] = [table for table in section.tables() if table.name == name]
    return [[entry.plain for entry in line.entries] for line in table.lines]


def test_every_line_names_its_regime_and_checkpoint_and_orders_are_one_line(
    section: Section,
) -> None:
    keys = [tuple(line[:4]) for line in lines_of(section, "scores")]
    assert keys == [
        (editor, edits, at, models)
        for edits, at, models in [
            ("independent", "1", "20"),
            ("joint 10", "10", "2"),
            ("sequential 20", "1", "6"),
            ("sequential 20", "10", "6"),
            ("sequential 20", "20", "6"),
        ]
        for editor in ("none", "rome", "memit")
    ]


def test_scores_are_over_all_facts_so_far_and_the_newest_are_a_table_of_their_own(
    section: Section,
) -> None:
    def efficacy(name: str) -> dict[str, float]:
        rows = [line for line in lines_of(section, name) if line[:2] == ["rome", "sequential 20"]]
        return {line[2]: float(line[5].split()[0]) for line in rows}

    # A fact of rome loses 2 points per later fact, and all facts of odd orders 2 points more.
    assert efficacy("scores") == {"1": 99.0, "10": 90.0, "20": 80.0}
    assert efficacy("newest") == {"1": 99.0, "10": 99.0, "20": 99.0}
    [retention] = [
        line for line in lines_of(section, "retention") if line[0] == "rome" and line[3] == "ES"
    ]
    assert [entry.split()[0] for entry in retention[4:]] == ["99.0", "89.0", "70.0"]
    [table] = [table for table in section.tables() if table.name == "retention"]
    assert table.head[-3:] == ("age 0", "age 1-9", "age 10-99")


def test_the_best_is_marked_within_a_regime_and_checkpoint(section: Section) -> None:
    [table] = [table for table in section.tables() if table.name == "scores"]
    bold = {
        tuple(entry.text for entry in line.entries[:3])
        for line in table.lines
        if line.entries[5].bold
    }
    assert bold >= {("memit", "sequential 20", at) for at in ("1", "10", "20")}
    assert not bold & {("rome", "sequential 20", at) for at in ("1", "10", "20")}


def test_models_have_their_scores_and_a_line_on_collapse(section: Section) -> None:
    lines = lines_of(section, "models")
    assert ["rome", "sequential 20", "20", "6", "28.2 ±0.2", "100.0 -39.0/+0"] in lines
    [table] = [table for table in section.tables() if table.name == "models"]
    assert (
        "First checkpoint with perplexity past its collapse threshold (10): rome (sequential 20) "
        "at 10 to 20 facts in 6 of 6 models; not up to 20 facts: none (sequential 20), memit "
        "(sequential 20)."
    ) in table.notes


def test_differences_are_within_a_regime_and_checkpoint_and_over_models(section: Section) -> None:
    lines = lines_of(section, "differences")
    assert {line[3] for line in lines if line[1] == "sequential 20"} == {"memit"}
    [line] = [line for line in lines if line[:3] == ["rome", "sequential 20", "20"]]
    # By order, rome minus memit is -14.25 or -15.75; t of 5 degrees would give ±0.9.
    assert line[5] == "-15.0 ±1.3"
    assert len(lines) == 2 * 5
    only = section.tables("rome")
    [table] = [table for table in only if table.name == "differences"]
    assert {line.entries[3].text for line in table.lines} == {"rome"}


def test_published_numbers_are_next_to_independent_edits_only(run: Run) -> None:
    published = Published(
        "a paper", 100, {"rome": {"efficacy/score": Estimate(0.9, None, None, 100)}}
    )
    [section] = sections_of([run], [(published,)])
    places = [i for i, line in enumerate(lines_of(section, "scores")) if "published" in line[0]]
    assert places == [2]
    assert lines_of(section, "scores")[2][1:4] == ["independent", "1", "100"]


def test_one_order_has_no_interval_anywhere(tmp_path: Path) -> None:
    alone = cell("rome", SEQUENTIAL)
    run = write_shared(tmp_path / "out", cells=(alone,))
    document = cell_document(run, alone)
    assert [each["at"] for each in document["checkpoints"]] == [1, 10, 20]
    for estimate in (
        document["metrics"]["efficacy/score"],
        document["checkpoints"][1]["newest"]["summary/score"],
        document["checkpoints"][2]["models"]["perplexity/value"],
        document["retention"][0]["metrics"]["efficacy/score"],
    ):
        assert estimate["ci_low"] is estimate["ci_high"] is None
    sections = sections_of([run], [()])
    printed = text.report(sections, against=None, terminal=False)
    assert "±" not in printed.partition("\n")[2]
    assert "±" not in html_page.report(sections, against=None).partition("</h2>")[2]
    spreadsheet = csv.DictReader(io.StringIO(csv_table.report(sections, against=None)))
    assert {line["ci_low"] for line in spreadsheet} == {""}


def test_the_document_of_a_cell_has_its_regime_and_checkpoints(run: Run) -> None:
    by_name = {cell.fingerprint: cell_document(run, cell) for cell in run.cells}
    independent, sequence = by_name["rome-independent-0"], by_name["rome-sequential-1"]
    assert (independent["regime"], independent["checkpoints"]) == ({"independent": 1}, [])
    assert sequence["regime"] == SEQUENTIAL.to_dict()
    assert sequence["edits"]["n"] == 20  # what went wrong, as in the other regimes
    assert sequence["collapsed"] == {"perplexity/collapsed": [10]}
    assert [(each["at"], each["age"]) for each in sequence["retention"]] == [
        *[(1, [0, 0])],
        *[(10, [0, 0]), (10, [1, 9])],
        *[(20, [0, 0]), (20, [1, 9]), (20, [10, 99])],
    ]
    json.dumps(by_name, allow_nan=False)


def test_a_failed_fact_of_a_sequence_counts_once(tmp_path: Path) -> None:
    alone = cell("rome", SEQUENTIAL)
    run = shared_run(tmp_path / "out", cells=(alone,))
    marks = SEQUENTIAL.checkpoints
    rows = [Row(0, "failed", error="no", place=1, checkpoint=mark) for mark in marks]
    with Store(run.store) as store:
        store.put_cell(alone.fingerprint, run.describe(alone))
        store.put_rows(alone.fingerprint, rows[:-1], ended=False)
        store.put_rows(alone.fingerprint, rows[-1:])
    document = cell_document(run, alone)
    assert document["records"] == {"done": 0, "failed": 1}
    assert document["edits"]["n"] == 1


def test_ages_count_steps_not_facts(tmp_path: Path) -> None:
    regime = Regime.sequential(20, step=5, checkpoints=[10])
    each = dataclasses.replace(cell("rome", regime), fingerprint="by five")
    [series] = series_of(write_shared(tmp_path, cells=(each,)))
    first, end = series.states
    assert [row.place for row in series.newest(first).rows] == [6, 7, 8, 9, 10]
    ages = {age: [row.place for row in facts.rows] for age, facts in series.by_age(end).items()}
    assert ages == {Age(0, 0): [16, 17, 18, 19, 20], Age(1, 9): list(range(1, 16))}


def test_the_end_of_a_run_prints_the_same_lines(run: Run) -> None:
    entries = [cell_document(run, cell) for cell in run.cells]
    table = text.run_table(run, entries, terminal=False)
    assert re.search(r"^rome +sequential 20 +10 +6 +85.3 -8.8/\+5.9", table, re.M)
    assert "Newest facts" in table
    assert "First checkpoint with perplexity" in " ".join(table.split())


def test_labels_name_regimes_and_equal_labels_are_equal_regimes(run: Run) -> None:
    assert labels_of(run)[0] == "none"
    assert labels_of(run)[-1] == "memit (seed 5, sequential 20)"
    other = Regime.sequential(20, checkpoints=[5], groups=2)
    assert edits_labels([SEQUENTIAL, other, SEQUENTIAL, Regime()]) == (
        "sequential 20, scored at 1, 10, 20",
        "sequential 20, scored at 5, 20, 2 models",
        "sequential 20, scored at 1, 10, 20",
        "independent",
    )


def test_regimes_have_no_more_models_than_the_records_allow(run: Run) -> None:
    regimes = [Regime.joint(15, groups=groups) for groups in (5, 1)]
    two = [Series((cell(name, it),), ()) for name, it in zip("ab", regimes, strict=True)]
    assert edits_labels(regimes_of(run, two)) == ("joint 15, 2 models", "joint 15, 1 model")
    twins = [Series((cell("a", Regime.joint(20, groups=groups)),), ()) for groups in (5, 1)]
    assert [each.groups for each in regimes_of(run, twins)] == [5, 1]


def test_the_page_has_a_chart_of_the_score_against_edits(section: Section) -> None:
    page = html_page.report([section], against=None)
    assert (
        "rome (sequential 20): S 94.3 -12.0/+4.0 at 1, 85.3 -8.8/+5.9 at 10, 75.2 ±5.0 at 20"
        in page
    )
