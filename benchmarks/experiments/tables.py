"""Tables of an experiment beside that of the scores, printed and written as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from editkit.benchmark.aggregate import SUMMARY
from editkit.benchmark.intervals import Estimate
from editkit.benchmark.samples import COLLAPSED
from editkit.data_types import Score
from editkit.report.lines import Result
from editkit.report.sections import Section
from editkit.report.tables import Entry, Line, Table, score_entry
from editkit.safe_text import spreadsheet_text
from editkit.storage.cache import write_atomically
from editkit_benchmarks.experiments.curves import (
    Curve,
    curves_of,
    falls_below,
    geometric_mean,
)
from editkit_benchmarks.experiments.spec import NOTE, Names, TableSpec

__all__ = [
    "endurance",
    "largest",
    "single_edits",
    "single_fact_curves",
    "table_of",
    "write_csv",
]


def table_of(spec: TableSpec, section: Section, names: Names) -> Table:
    """The table that an experiment file describes.

    Args:
        spec: The description.
        section: The run.
        names: Names of values.
    """
    draw = {"endurance": endurance, "largest": largest}[spec.kind]
    return draw(spec, section, names)


def write_csv(table: Table, folder: Path) -> Path:
    """Write a table as ``NAME.csv`` and return the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.head)
    writer.writerows([spreadsheet_text(e.plain) for e in line.entries] for line in table.lines)
    path = folder / f"{table.name}.csv"
    write_atomically(path, text.getvalue().encode())
    return path


# ---------------------------------------------------------------- endurance


def endurance(spec: TableSpec, section: Section, names: Names) -> Table:
    """After how many facts a score falls below a level, longest first in each way of editing."""
    [score] = [each for each in (SUMMARY, *section.run.scores) if each.key == spec.score]
    level = spec.below or 0.0
    label, limit = score.label or score.key, f"{score.scale * level:g}"
    by_way: dict[str, list[tuple[float, bool, float, Curve]]] = {}
    for curve in curves_of(section, names):
        points = [(at, estimate.mean) for at, estimate in curve.estimates(spec.score)]
        if len(points) > 1:
            lasts = falls_below(points, level)
            reached = curve.end if lasts is None else lasts
            order = -reached, lasts is not None, -points[-1][1]
            by_way.setdefault(curve.way, []).append((*order, curve))
    lines, longest = [], []
    for way, curves in by_way.items():
        curves.sort(key=lambda each: each[:3])
        lines += [_endurance_line(curve, score, level) for *_, curve in curves]
        if len(curves) > 1:
            longest.append(f"{way}, {_longest(curves)}")
    notes = [
        f"{label} < {limit}: facts in a model from which on {label} is below {limit}, interpolated "
        "between checkpoints in the logarithm; ≤: already at the first checkpoint; >: not up to "
        "the last. Sequences: geometric mean over models, with Student's t; several orders are "
        "several models. At once: from the mean, and from the bounds of its interval.",
        "collapsed at: the first checkpoint with a model past the collapse threshold.",
    ]
    if longest:
        notes.insert(0, f"Lasts longest: {'; '.join(longest)}.")
    head = ("editor", "edits", f"{label} < {limit}", "models", f"{label} at the end", "end",
            "collapsed at")  # fmt: skip
    return Table(spec.name, spec.title or spec.name, head, tuple(lines), notes=tuple(notes), keys=2)


def _longest(curves: Sequence[tuple[float, bool, float, Curve]]) -> str:
    """The curve that lasts longest; all that are still above the level at the same last point."""
    best, fell, _, curve = curves[0]
    tied = [each.label for reached, down, _, each in curves if not down and reached == best]
    if fell or len(tied) == 1:
        return f"{curve.label}{_not_followed(curves)}"
    return f"{', '.join(tied[:-1])} and {tied[-1]} (tied at > {curve.end}){_not_followed(curves)}"


def _not_followed(curves: Sequence[tuple[float, bool, float, Curve]]) -> str:
    """The curves that end, still above the level, before the longest one does."""
    best = -curves[0][0]
    open_ends = [curve for reached, fell, _, curve in curves if not fell and -reached < best]
    listed = ", ".join(f"{curve.label} to {curve.end}" for curve in open_ends)
    return f" (not followed as far: {listed})" if listed else ""


def _endurance_line(curve: Curve, score: Score, level: float) -> Line:
    estimates = curve.estimates(score.key)
    models = curve.results[-1].state.facts.n_models
    collapse = curve.first_collapse()
    at = f"> {curve.end}"
    if collapse is not None:
        facts, collapsed, of = collapse
        at = str(facts) if collapsed == of else f"{facts} ({collapsed} of {of} models)"
    return Line(
        (
            Entry(curve.label),
            Entry(curve.way),
            Entry(_fall(curve, estimates, score, level)),
            Entry(str(models)),
            score_entry(score, estimates[-1][1]),
            Entry(str(curve.end)),
            Entry(at),
        )
    )


def _fall(
    curve: Curve, estimates: Sequence[tuple[int, Estimate]], score: Score, level: float
) -> str:
    """The number of facts with its interval: ``92 (85 to 99)``, ``> 1000``, ``80 to > 300``."""
    first, end = estimates[0][0], estimates[-1][0]
    if not curve.is_sequence:
        fall = falls_below([(at, each.mean) for at, each in estimates], level)
        known = [(at, each.interval) for at, each in estimates if each.ci_low is not None]
        if fall is None or not known or fall > known[-1][0]:
            return _number(fall, first, end)
        bounds = (falls_below([(at, each[side]) for at, each in known], level) for side in (0, 1))
        low, high = (_number(bound, first, known[-1][0]) for bound in bounds)
        number = _number(fall, first, end)
        return number if number == low == high else f"{number} ({low} to {high})"
    falls = [falls_below(points, level) for points in curve.by_model(score.key)]
    some = sorted(fall for fall in falls if fall is not None)
    if len(some) < len(falls):
        return f"{_number(some[0], first, end)} to > {end}" if some else f"> {end}"
    mean = geometric_mean(some)
    number = _number(mean.mean, first, end)
    if mean.ci_low is None or mean.ci_high is None or some[-1] <= first:
        return number
    return f"{number} ({mean.ci_low:.0f} to {mean.ci_high:.0f})"


def _number(fall: float | None, first: int, end: int) -> str:
    if fall is None:
        return f"> {end}"
    return f"≤ {first}" if fall <= first * (1 + 1e-9) else f"{fall:.0f}"


# ---------------------------------------------------------------- single edits


def largest(spec: TableSpec, section: Section, names: Names) -> Table:
    """The single edits with the largest score of their model, or those with the largest note."""
    if spec.score.startswith(NOTE):
        return _largest_notes(spec, section, names)
    [score] = [each for each in section.run.model_scores if each.key == spec.score]
    lines, notes = [], []
    for curve in single_fact_curves(section, names):
        result = curve.results[0]
        ranked = single_edits(result, score.key)
        for value, case in ranked[: spec.top]:
            number = Entry(f"{score.scale * value:.4g}")
            lines.append(Line((Entry(curve.label), *_edit(section, case), number)))
        models = [row for rows in result.state.models.values() for row in rows]
        collapsed = sum(
            any(value > 0.5 for key, value in row.scores.items() if key.endswith(COLLAPSED))
            for row in models
        )
        notes.append(f"{curve.label}: {collapsed} of {len(models)} single edits break the model.")
    head = ("editor", "record", "edit", score.label or score.key)
    return Table(spec.name, spec.title or spec.name, head, tuple(lines), notes=tuple(notes), keys=3)


def _largest_notes(spec: TableSpec, section: Section, names: Names) -> Table:
    """The edits of the first sequence of each editor with the largest note."""
    name = spec.score.removeprefix(NOTE)
    lines = []
    for curve in curves_of(section, names):
        noted = curve.notes(name) if curve.is_sequence else []
        noted.sort(key=lambda each: -each[1])
        lines += [
            Line(
                (
                    Entry(curve.label),
                    Entry(curve.way),
                    *_edit(section, row.case_id),
                    Entry(str(row.place)),
                    Entry(f"{number:.4g}"),
                )
            )
            for row, number in noted[: spec.top]
        ]
    head = ("editor", "edits", "record", "edit", "fact", name)
    notes = ("fact: its place in the sequence. If there are several sequences, of the first.",)
    return Table(spec.name, spec.title or spec.name, head, tuple(lines), notes=notes, keys=4)


def single_fact_curves(section: Section, names: Names) -> list[Curve]:
    """The curves that begin with models of one fact each, without sequences."""
    return [
        curve
        for curve in curves_of(section, names)
        if not curve.is_sequence and curve.results[0].state.at == 1
    ]


def single_edits(result: Result, key: str) -> list[tuple[float, int]]:
    """The score of each model with one fact, and its case id, largest score first."""
    cases = {
        (seed, row.group): row.case_id
        for seed, rows in result.state.facts.by_seed.items()
        for row in rows
    }
    scored = [
        (row.scores[key], cases[seed, row.group])
        for seed, rows in result.state.models.items()
        for row in rows
        if key in row.scores and (seed, row.group) in cases
    ]
    return sorted(scored, reverse=True)


def _edit(section: Section, case: int) -> tuple[Entry, Entry]:
    """A record and what was written."""
    edits = section.requests.get(case, ())
    text = "; ".join(f"{edit.sentence} → {edit.target_new}" for edit in edits)
    return Entry(f"case {case}"), Entry(text)
