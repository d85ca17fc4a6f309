from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from editkit import Score
from editkit.benchmark.aggregate import Estimate
from editkit.report.labels import distinct_titles, labels_of
from editkit.report.tables import Entry, Line, Table, score_entry
from editkit.report.text import run_table, text_table
from editkit.results import Cell, Run

SCORES = (
    Score("x/score", "XS", summary=True),
    Score("x/magnitude", "XM", signed=True),
    Score("x/loss", "XL", higher_is_better=False),
    Score("x/hidden", ""),
    Score("x/absent", "XA"),
)


def cell(editor: str, preset: str | None = None, seed: int = 0) -> Cell:
    return Cell(editor, preset, {}, {}, "d", "1", seed, f"{editor}{preset}{seed}", {})


def entry(editor: str, score: float, loss: float, failed: int = 0) -> dict[str, Any]:
    def estimate(mean: float) -> dict[str, float]:
        return {"mean": mean, "ci_low": mean - 0.02, "ci_high": mean + 0.02, "n": 10}

    metrics = {"x/score": score, "x/magnitude": -0.0001, "x/loss": loss, "x/hidden": 1.0}
    return {
        "editor": editor,
        "metrics": {key: estimate(mean) for key, mean in metrics.items()},
        "time": {"edit_s_mean": score / 1000},
        "records": {"done": 10, "failed": failed},
        "edits": {"summary": ""},
    }


def run(*cells: Cell) -> Run:
    model = {"name": "m", "dtype": "float32"}
    dataset = {"name": "d", "n_records": 10}
    return Run(Path("out"), "b", model, dataset, (), SCORES, (0,), cells, 5)


ENTRIES = [entry("none", 1.0, 0.0), entry("ft", 0.5, 0.3, failed=2), entry("rome", 0.9, 0.4)]
RUN = run(cell("none"), cell("ft"), cell("rome"))


def test_the_table_matches_the_papers() -> None:
    lines = run_table(RUN, ENTRIES, terminal=False).splitlines()
    assert lines[2].split() == ["editor", "XS", "XM", "XL", "s/edit", "records"]
    assert lines[5].split() == [
        "ft", "50.0", "±2.0", "+0.0", "±2.0", "30.0", "±2.0", "<0.001", "10", "(2", "failed)",
    ]  # fmt: skip


def test_the_best_is_bold_on_a_terminal_and_the_unedited_model_is_not_ranked() -> None:
    plain, bold = (run_table(RUN, ENTRIES, terminal=terminal) for terminal in (False, True))
    assert "\x1b" not in plain
    assert bold.count("\x1b[1m") == 4  # two of them tie
    assert "\x1b[1m 90.0 ±2.0" in bold
    assert "\x1b[1m30.0 ±2.0" in bold
    assert bold.replace("\x1b[1m", "").replace("\x1b[0m", "") == plain


def test_a_score_without_a_direction_has_no_best() -> None:
    drift = tuple(dataclasses.replace(each, higher_is_better=None) for each in SCORES)
    table = run_table(dataclasses.replace(RUN, scores=drift), ENTRIES, terminal=True)
    assert "\x1b[1m" not in table


def test_labels_distinguish_cells_of_one_editor_and_titles_name_shards() -> None:
    made = run(cell("rome", "published"), cell("rome", "paper", 1))
    text = run_table(
        dataclasses.replace(made, shard=(2, 3)), [entry("rome", 0.5, 0.5)] * 2, terminal=False
    )
    assert "rome (published, seed 0)" in text
    assert "rome (paper, seed 1)" in text
    assert "part 2 of 3" in text


def test_cells_that_differ_in_many_settings_are_labelled_by_the_file_of_values() -> None:
    named = dataclasses.replace(
        cell("rome", "published"), config=dict.fromkeys(("weight_decay", "a", "b", "c"), 0.5)
    )
    default = dataclasses.replace(
        named,
        config=dict.fromkeys(named.config, 0.1),
        sources={"weight_decay": "editkit_configs/rome/atlas.yaml"},
    )
    assert labels_of(run(named, default)) == ("rome (published)", "rome (published + atlas.yaml)")


def test_many_warnings_are_folded() -> None:
    made = run(*(cell("rome", "paper", seed) for seed in range(5)))
    entries = [entry("rome", 0.5, 0.5) for _ in range(5)]
    for each in entries:
        each["edits"] = {**each["edits"], "summary": "of 2 edits, 1 did not converge"}
    folded = run_table(made, entries, terminal=False, most_warnings=3)
    assert folded.count("did not converge") == 3
    assert "warning: 2 more settings" in folded
    assert run_table(made, entries, terminal=False).count("did not converge") == 5


def numbers_table() -> Table:
    head = ("editor", *(f"score {n}" for n in range(9)))
    lines = [
        Line((Entry(editor), *(Entry(f"{n}.0", "1.5", bold=n == 3) for n in range(9))))
        for editor in ("rome", "漢字")
    ]
    return Table("scores", "", head, tuple(lines))


def test_piped_tables_have_one_line_per_editor_and_no_control_codes() -> None:
    head, rule, *lines = text_table(numbers_table(), terminal=False).splitlines()
    assert len(lines) == 2
    assert {cell_len(line) for line in (head, *lines)} == {len(rule)}
    assert rule.strip("-") == ""
    assert len(rule) <= 100
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [5, 30, 80])
def test_wide_tables_continue_in_blocks_on_a_terminal(width: int) -> None:
    table = numbers_table()
    text = text_table(table, terminal=True, width=width)
    blocks = [block.splitlines() for block in text.split("\n\n")]
    columns = [re.split(r"  +", block[0].strip()) for block in blocks]
    assert all(heads[0] == "editor" for heads in columns)
    assert ["editor", *(head for heads in columns for head in heads[1:])] == list(table.head)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert width < 30 or max(map(cell_len, plain.splitlines())) <= width


@pytest.mark.parametrize(
    ("mean", "half", "shown"),
    [
        (0.5, 0.25, "0.500 ±0.250"),
        (99_999.0, 1.0, "99999.0 ±1.0"),
        (8_363_078.6, 6_795_596.0, "8.4e+06 ±6.8e+06"),
    ],
)
def test_huge_numbers_are_short(mean: float, half: float, shown: str) -> None:
    perplexity = Score("essence/perplexity", "perplexity", scale=1.0)
    assert score_entry(perplexity, Estimate(mean, mean - half, mean + half, 3)).plain == shown


def test_means_of_fewer_records_and_missing_scores_have_a_note() -> None:
    complete, partial = entry("ft", 0.5, 0.3), entry("rome", 0.9, 0.4)
    partial["metrics"]["x/loss"]["n"] = 3
    text = " ".join(
        run_table(run(cell("ft"), cell("rome")), [complete, partial], terminal=False).split()
    )
    assert "Records behind a mean, if not all: XL 3 of 10." in text
    assert "No record has a score for XA." in text
    assert "Records behind" not in run_table(run(cell("ft")), [complete], terminal=False)


def test_runs_with_equal_titles_name_the_procedures_in_which_they_differ() -> None:
    def judged_by(judge: str) -> Run:
        metrics = ({"name": "efficacy", "protocol": "cf/v1"}, {"name": "judged", "protocol": judge})
        made = dataclasses.replace(RUN, metrics=metrics)
        described = {**made.model, "fingerprint": "f"}
        return dataclasses.replace(made, model=described, dataset={**made.dataset, "digest": "d"})

    one, other, third = distinct_titles(
        [
            judged_by("contained/v1"),
            judged_by("openai/m/v1"),
            dataclasses.replace(RUN, benchmark="c"),
        ]
    )
    assert one.endswith("]; contained/v1")
    assert other.endswith("]; openai/m/v1")
    assert "cf/v1" not in one + other
    assert third.startswith("c: ")
    assert "[" not in third
