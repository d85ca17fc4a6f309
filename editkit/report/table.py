"""The table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.report.grid import Entry, Grid, Line, number
from editkit.report.judging import BASELINE, best_of
from editkit.report.labels import heading, labels_of, records, told_seconds
from editkit.report.text import aligned, wrapped
from editkit.results import Run


def run_table(run: Run, entries: Sequence[Mapping[str, Any]], *, terminal: bool) -> str:
    """The run's table: a heading, one line per cell, and below it what did not work.

    Args:
        run: The run.
        entries: Its cells as in the ``--json`` document.
        terminal: Whether the best value of each column may be set in bold.
    """
    found = [
        {key: Estimate(**values) for key, values in entry["metrics"].items()} for entry in entries
    ]
    columns = [
        score
        for score in (SUMMARY, *run.scores)
        if score.label and any(score.key in estimates for estimates in found)
    ]
    competes = [entry["editor"] != BASELINE for entry in entries]
    competing = [estimates for estimates, own in zip(found, competes, strict=True) if own]
    best = {score.key: best_of(score, competing) for score in columns}
    lines = []
    for label, entry, estimates, own in zip(labels_of(run), entries, found, competes, strict=True):
        numbers = []
        for score in columns:
            mean = estimates[score.key].mean if own and score.key in estimates else None
            bold = mean is not None and mean == best[score.key]
            numbers.append(number(score, estimates.get(score.key), bold=bold))
        rest = told_seconds(entry["time"].get("edit_s_mean")), records(entry["records"])
        lines.append(Line((Entry(label), *numbers, *map(Entry, rest))))
    head = ("editor", *(score.label for score in columns), "s/edit", "records")
    grid = Grid("scores", "", head, tuple(lines))
    table = f"{heading(run)}\n\n{aligned(grid, terminal=terminal, starred=False)}"
    troubles = zip(labels_of(run), (entry["edits"]["summary"] for entry in entries), strict=True)
    below = "".join(wrapped(f"warning: {label}: {text}") for label, text in troubles if text)
    return f"{table}\n{below}" if below else table
