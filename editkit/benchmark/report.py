"""The table that a run ends with."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import SUMMARY
from editkit.benchmark.run import Cell, Run
from editkit.interfaces import Score

_BASELINE = "none"
_BOLD = "\x1b[1m", "\x1b[0m"


@dataclasses.dataclass(frozen=True)
class _Text:
    text: str
    bold: bool = False


def table(run: Run, entries: Sequence[Mapping[str, Any]], *, terminal: bool) -> str:
    """The run's table: a heading, and one line per cell.

    Args:
        run: The run.
        entries: Its cells as in the ``--json`` document.
        terminal: Whether the best value of each column may be set in bold.
    """
    columns = [
        score
        for score in (SUMMARY, *run.scores)
        if score.label and any(score.key in entry["metrics"] for entry in entries)
    ]
    best = {score.key: _best(score, entries) for score in columns}
    lines = [[_Text(head) for head in ("editor", *(s.label for s in columns), "s/edit", "records")]]
    for cell, entry in zip(run.cells, entries, strict=True):
        numbers = [
            _Text(
                _number(score, entry["metrics"].get(score.key)),
                _is_best(score, entry, best[score.key]),
            )
            for score in columns
        ]
        lines.append(
            [_Text(_label(run, cell)), *numbers, _Text(_seconds(entry)), _Text(_records(entry))]
        )
    return _heading(run) + _aligned(lines, terminal=terminal)


def _heading(run: Run) -> str:
    records = f"{run.dataset['n_records']} records of {run.dataset['name']}"
    part = f", part {run.shard[0]} of {run.shard[1]}" if run.shard[1] > 1 else ""
    return (
        f"{run.benchmark}: {records}{part}, on {run.model['name']} ({run.model['dtype']}); "
        "means x 100 ± 95%\n\n"
    )


def _label(run: Run, cell: Cell) -> str:
    """The editor, with whatever tells it from its namesakes."""
    same = [other for other in run.cells if other.editor == cell.editor]
    parts = []
    if len({other.preset for other in same}) > 1:
        parts.append(str(cell.preset))
    if len({other.seed for other in same}) > 1:
        parts.append(f"seed {cell.seed}")
    twins = Counter((other.preset, other.seed) for other in same)
    if twins[cell.preset, cell.seed] > 1:
        parts.append(cell.fingerprint[:6])
    return f"{cell.editor} ({', '.join(parts)})" if parts else cell.editor


def _best(score: Score, entries: Sequence[Mapping[str, Any]]) -> float | None:
    """The best mean among those that compete."""
    means = [_mean(score, entry) for entry in entries if _competes(score, entry)]
    if len(means) < 2 or score.higher_is_better is None:
        return None
    return max(means) if score.higher_is_better else min(means)


def _is_best(score: Score, entry: Mapping[str, Any], best: float | None) -> bool:
    return best is not None and _competes(score, entry) and _mean(score, entry) == best


def _competes(score: Score, entry: Mapping[str, Any]) -> bool:
    """Doing nothing does not count as best."""
    return score.key in entry["metrics"] and entry["editor"] != _BASELINE


def _mean(score: Score, entry: Mapping[str, Any]) -> float:
    return float(entry["metrics"][score.key]["mean"])


def _number(score: Score, estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "-"
    mean = round(score.scale * estimate["mean"], 1) + 0.0  # no minus before a zero
    half = score.scale * (estimate["ci_high"] - estimate["ci_low"]) / 2
    sign = "+" if score.signed else ""
    return f"{mean:{sign}.1f} ±{half:.1f}"


def _seconds(entry: Mapping[str, Any]) -> str:
    seconds = entry["time"].get("edit_s_mean")
    if seconds is None:
        return "-"
    return f"{seconds:.3f}" if seconds >= 0.001 else "<0.001"


def _records(entry: Mapping[str, Any]) -> str:
    done, failed = entry["records"]["done"], entry["records"]["failed"]
    return f"{done} ({failed} failed)" if failed else str(done)


def _aligned(lines: list[list[_Text]], *, terminal: bool) -> str:
    widths = [max(len(cell.text) for cell in column) for column in zip(*lines, strict=True)]
    aligned = []
    for line in lines:
        cells = []
        for i, (cell, width) in enumerate(zip(line, widths, strict=True)):
            text = cell.text.ljust(width) if i == 0 else cell.text.rjust(width)
            cells.append(f"{_BOLD[0]}{text}{_BOLD[1]}" if cell.bold and terminal else text)
        aligned.append("  ".join(cells).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([aligned[0], rule, *aligned[1:]]) + "\n"
