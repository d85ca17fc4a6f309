"""Edits that did not work stand below the table and in every form of the report."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit import Score
from editkit.benchmark.aggregate import Estimate
from editkit.palette import series_style
from editkit.report.marks import Mark
from editkit.report.svg import Point, scatter
from editkit.results import Row, Run
from tests.editkit.cli.test_report_command import cell, run_of, write

Cli = Callable[..., tuple[int, str, str]]
SCORES = (Score("e/score", "ES", summary=True, at_edit=True),)
STUCK = {"converged": False, "advice": "raise steps (20)", "loss": 2.0}


def stuck() -> list[Row]:
    """Twelve rows: seven not converged, of which three unstable, two with a claim that is wrong."""
    notes = [{**STUCK, "unstable": "norm 9"}] * 3 + [STUCK] * 4 + [{"converged": True}] * 5
    scores = [1.0] * 10 + [0.0] * 2
    return [
        Row(i, "done", {"e/score": score}, notes=note, times={"edit_s": 0.1})
        for i, (note, score) in enumerate(zip(notes, scores, strict=True))
    ]


def idle() -> list[Row]:
    return [Row(i, "done", {"e/score": 0.0}, notes={"delta_norm": 0.0}) for i in range(12)]


@pytest.fixture
def stored(tmp_path: Path, fake_world: Path) -> Run:
    run = run_of(tmp_path / "out", cell("none"), cell("good"), cell("bad"), scores=SCORES)
    good = [Row(i, "done", {"e/score": 1.0}, notes={"converged": True}) for i in range(12)]
    write(run, {"none": idle(), "good": good, "bad": stuck()})
    return run


LINE = (
    "bad: of 12 edits, 7 did not converge, 3 are unstable (case 0: norm 9) and 2 converged but did "
    "not take effect at the edited prompt. What to change: raise steps (20)."
)


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html", "csv"])
def test_every_report_has_the_line_and_only_where_something_is_wrong(
    stored: Run, editkit: Cli, form: str
) -> None:
    target = stored.out.parent / "report"
    code, _, err = editkit("report", stored.out, "--format", form, "--to", target)
    assert (code, err) == (0, "")
    words = " ".join(target.read_text(encoding="utf-8").split())
    if form == "csv":
        assert LINE.removeprefix("bad: ") in words
    else:
        assert LINE in words
        assert "good: of" not in words
        assert "none: of" not in words


def test_the_spreadsheet_counts_every_kind(stored: Run, editkit: Cli) -> None:
    text = editkit("report", stored.out, "--format", "csv")[1]
    lines = [line for line in csv.DictReader(io.StringIO(text)) if line["table"] == "edits"]
    shares = {(line["editor"], line["score"]): float(line["mean"]) for line in lines}
    assert shares["bad", "edits/unconverged"] == 7 / 12
    assert shares["bad", "edits/unstable"] == 3 / 12
    assert shares["bad", "edits/contradicted"] == 2 / 12
    assert sum(shares[key] for key in shares if key[0] != "bad") == 0


def test_warnings_about_edits_are_directly_below_the_table(stored: Run, editkit: Cli) -> None:
    text = editkit("report", stored.out)[1]
    table, warning, legend = "\nbad ", "warning: bad: of 12 edits", "\n*: best of its column"
    assert text.index(table) < text.index(warning) < text.index(legend)


def test_a_benchmark_ends_with_the_lines_and_its_document_has_the_counts(
    editkit: Cli, tmp_path: Path, fake_world: Path
) -> None:
    flags = ("run-benchmark", "small", "--out", tmp_path, "--editor", "one", "--editor", "two")
    stuck = ("--set", "editors.two.stuck=true")
    code, text, err = editkit(*flags, *stuck)
    assert code == 0
    table, _, below = text.partition("\nwarning: two: ")
    assert table.splitlines()[-2].startswith("two ")
    assert table.splitlines()[-1].startswith("S: harmonic mean")
    assert below.startswith("of 23 edits, 23 did not converge. What to change: be patient.")
    assert "warning: two: of 23 edits" in err  # standard output is no terminal here
    assert "warning: one" not in text + err
    code, text, err = editkit(*flags, *stuck, "--json")
    one, two = json.loads(text)["cells"]
    assert one["edits"]["summary"] == ""
    assert two["edits"]["unconverged"] == 23
    assert two["edits"]["advice"] == ["be patient"]
    assert err.count("did not converge") == 1


def test_labels_of_points_at_the_top_stay_inside_the_picture() -> None:
    """Failed edits leave everything as it was: all of them lie in one corner."""
    one, none = Estimate(1.0, 1.0, 1.0, 5), Estimate(0.0, 0.0, 0.0, 5)
    mark = Mark("color-0", series_style(0))
    plot = scatter([Point(str(i), none, one, mark) for i in range(6)], "x", "y", scale=100.0)
    places = sorted(float(y) for y in re.findall(r'y="([\d.-]+)" class="halo"', plot))
    assert len(places) == 6
    assert places[0] >= 10
    assert min(b - a for a, b in itertools.pairwise(places)) > 10
