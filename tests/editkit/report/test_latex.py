"""LaTeX tables fit the text of their page."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from editkit import EditRequest, Score
from editkit.benchmark.store import Store
from editkit.regimes import INDEPENDENT, Regime
from editkit.report import latex
from editkit.report.sections import Section, sections_of
from editkit.results import Cell, Row, Run
from tests.editkit.report.shared_runs import cell, write_shared

COMPARED = tuple(
    Score(f"{kind}/{what}", f"{kind[0].upper()}{what[0].upper()}", summary=what == "score",
          signed=what == "magnitude", name=f"{kind}, {what}")
    for kind in ("efficacy", "paraphrase", "neighborhood", "attribute", "same_subject")
    for what in ("score", "magnitude")
)  # fmt: skip
AS_USED = (
    *COMPARED,
    *(Score(f"free/{kind}", f"Free {kind[0].upper()}") for kind in ("rewrite", "paraphrase")),
    Score("shift/neighborhood_kl", "NKL", higher_is_better=False, scale=1.0, digits=2),
    Score("perplexity/value", "PPL", higher_is_better=False, scale=1.0, digits=3),
)
LONG = "an-editor-with-a-long-name_and_settings (learning_rate 0.00012, layers 3,4,5,6,7, seed 17)"


def write(out: Path, editors: list[str], scores: tuple[Score, ...], regime: Regime) -> Run:
    """A run of 12 facts, the same numbers for all editors but the first."""
    cells = tuple(
        dataclasses.replace(cell(editor, regime), fingerprint=f"{i:012d}")
        for i, editor in enumerate(editors)
    )
    run = Run(
        out=out,
        benchmark="as-used",
        model={"name": "org/Big_Model-6b_v2", "fingerprint": "f" * 20, "dtype": "bfloat16"},
        dataset={"name": "facts", "digest": "d" * 20, "n_records": 12, "config": {}, "rejected": 0},
        metrics=({"name": "efficacy", "protocol": "e/v1"},),
        scores=scores,
        seeds=(0,),
        cells=cells,
        batch=4,
    )
    with Store(run.store) as store:
        requests = {
            i: (EditRequest("{} is", f"S{i}", "Rome", relation_id=f"relation_{i % 4}"),)
            for i in range(12)
        }
        store.put_requests(run.dataset["digest"], requests)
        for place, each in enumerate(cells):
            store.put_cell(each.fingerprint, run.describe(each))
            store.put_rows(each.fingerprint, rows_of(each, place, scores))
    return run


def rows_of(each: Cell, place: int, scores: tuple[Score, ...]) -> list[Row]:
    return [
        Row(
            i,
            "done",
            {score.key: value(i, place) * (100 / score.scale) for score in scores},
            times={"edit_s": 0.5},
            completed_at=1e9 + i,
            **({} if each.regime.is_independent else {"group": i // 4, "place": i % 4 + 1}),
        )
        for i in range(12)
    ]


def value(i: int, place: int) -> float:
    return 0.93 - 0.07 * (i % 3) - 0.02 * (place % 5)


def section_of(run: Run) -> Section:
    [section] = sections_of([run], [()])
    return section


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Section]:
    """A run of each shape that benchmarks have."""
    folder = tmp_path_factory.mktemp("runs")
    editors = ["none", *(f"editor-{i}" for i in range(9))]
    many = ["none", *(f"my-method+{i}" for i in range(18)), LONG]
    shapes = {
        "default": write(folder / "default", editors, COMPARED, INDEPENDENT),
        "as-used": write(folder / "as-used", editors, AS_USED, INDEPENDENT),
        "joint": write(folder / "joint", editors, COMPARED, Regime.joint(4)),
        "many": write(folder / "many", many, AS_USED, INDEPENDENT),
        "sequential": write_shared(folder / "sequential"),
    }
    return {name: section_of(run) for name, run in shapes.items()}


def test_a_table_has_the_columns_that_fit_and_notes_below_a_caption_of_one_sentence(
    sections: dict[str, Section],
) -> None:
    text = latex.report([sections["default"]], against=None)
    table = text[: text.index(r"\end{table}")]
    [head] = re.findall(r"editor & .*", table)
    assert {"S", "ES", "PS", "NS"} < set(head.split())
    assert "% Columns left out: PM, NM, " in table
    [caption] = re.findall(r"\\caption\{(.*)\}", table)
    assert caption.count(".") == 1
    assert caption.endswith("intervals.")
    assert r"\label{tab:as-used-scores}" in table
    notes = table[table.index(r"\begin{minipage}") :]
    assert "S: harmonic mean of ES, PS, NS" in notes
    assert "Bold: best of its column" in notes
    assert r"org/Big\_Model-6b\_v2" in table
    chosen = dataclasses.replace(sections["default"], chosen=("NS", "s/edit"))
    assert "editor & NS & s/edit \\\\" in latex.report([chosen], against=None)


def test_wide_tables_are_continued_and_every_label_is_unique(sections: dict[str, Section]) -> None:
    text = latex.report([sections["default"], sections["default"]], against=None, wide=True)
    assert "(part 2 of " in text
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert len(set(labels)) == len(labels)
    first = [part for part in text.split(r"\begin{table}") if "{Scores" in part]
    assert all("\neditor & " in part for part in first)
    shown = {head for part in first for head in re.findall(r"\neditor & (.*) \\\\", part)}
    assert {"S", "EM", "s/edit", "records"} <= set(" & ".join(shown).split(" & "))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["default", "as-used", "joint", "sequential", "many"])
def test_no_line_is_too_long_for_a_page_or_a_column(
    shape: str, sections: dict[str, Section], tmp_path: Path
) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-recommended")
    for width, wide in [(345, False), (345, True), (397, False), (219, False), (219, True)]:
        text = latex.report([sections[shape]], against=None, wide=wide, text_width=width)
        name = f"{width}-{wide}"
        (tmp_path / f"{name}.tex").write_text(
            "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage{xcolor}\n"
            f"\\setlength{{\\textwidth}}{{{width}pt}}\n\\begin{{document}}\n{text}\n"
            "\\end{document}\n",
            encoding="utf-8",
        )
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
        log = (tmp_path / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        assert done.returncode == 0, log[-2000:]
        assert "Overfull" not in log, (name, re.findall(r"Overfull.*\n.*", log))
        assert "Float too large" not in log, name
        assert "multiply" not in log, name
