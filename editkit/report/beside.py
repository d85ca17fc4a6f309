"""Published tables, alone and beside the results of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.benchmark.published import PublishedTable
from editkit.data_types import Score
from editkit.report.lines import Estimates, score_columns
from editkit.report.sections import Section, by_paper
from editkit.report.tables import Entry, Line, Table, score_entry
from editkit.results import Run

__all__ = ["Beside", "beside", "beside_table", "published_table"]

_DIFFERENCE = "ours - published"


@dataclasses.dataclass(frozen=True)
class Beside:
    """One score of an editor, published and ours.

    Attributes:
        editor: Name of the editor.
        label: Its label in our table.
        score: The score.
        published: The published mean with its interval.
        ours: Our mean with the interval of the papers' formula.
        difference: Ours minus the published mean. Its interval takes the two as independent; none
            if one of them has none.
        same_procedure: Whether both were measured with the same protocols.
    """

    editor: str
    label: str
    score: Score
    published: Estimate
    ours: Estimate
    difference: Estimate
    same_procedure: bool


def published_table(table: PublishedTable, scores: Sequence[Score]) -> Table:
    """A published table as it was printed.

    Args:
        table: The table.
        scores: The known scores; others are shown with their keys.
    """
    columns = score_columns(_known(table, scores), table.rows.values())
    lines = [
        Line((Entry(editor), *(score_entry(score, row.get(score.key)) for score in columns)))
        for editor, row in table.rows.items()
    ]
    return Table(
        name=table.name,
        title=f"{table.model} on {table.dataset}, {table.n_records:,} records",
        head=("editor", *(score.label for score in columns)),
        lines=tuple(lines),
        notes=(f"{table.source}, {table.place}." if table.place else f"{table.source}.",),
    )


def beside(section: Section, table: PublishedTable, scores: Sequence[Score]) -> list[Beside]:
    """Every score that a run and a published table have of the same editor.

    Results of independent edits only: no published table here is about others.

    Args:
        section: The run.
        table: The published table.
        scores: The known scores.
    """
    pairs = []
    for result in section.results:
        row = table.rows.get(result.editor, {})
        if not result.series.regime.is_independent:
            continue
        ours = by_paper(result.estimates)
        for score in score_columns(_known(table, scores), [row]):
            same = table.same_procedure(section.run, score.key)
            # The summary score is a mean of other scores: of which ones, the procedure decides.
            if score.key in ours and (same or score.key != SUMMARY.key):
                pairs.append(
                    Beside(
                        editor=result.editor,
                        label=result.name,
                        score=score,
                        published=row[score.key],
                        ours=ours[score.key],
                        difference=_difference(ours[score.key], row[score.key]),
                        same_procedure=same,
                    )
                )
    return pairs


def beside_table(run: Run, table: PublishedTable, pairs: Sequence[Beside]) -> Table:
    """Three lines per editor: ours, published, and the difference.

    Args:
        run: The run.
        table: The published table.
        pairs: What :func:`beside` found for both.
    """
    columns = tuple({pair.score.key: pair.score for pair in pairs}.values())
    by_label: dict[str, dict[str, Beside]] = {}
    for pair in pairs:
        by_label.setdefault(pair.label, {})[pair.score.key] = pair
    lines = []
    for label, own in by_label.items():
        ours = {key: pair.ours for key, pair in own.items()}
        published = {key: pair.published for key, pair in own.items()}
        lines.append(_line(label, columns, ours))
        lines.append(dataclasses.replace(_line(f"  {table.label}", columns, published), faint=True))
        entries = [
            score_entry(
                score,
                own[score.key].difference if score.key in own else None,
                signed=True,
                bold=score.key in own and _is_clear(own[score.key].difference),
            )
            for score in columns
        ]
        lines.append(Line((Entry(f"  {_DIFFERENCE}"), *entries)))
    place = f", {table.place}" if table.place else ""
    return Table(
        name=table.name,
        title=f"{run.benchmark} on {run.model['name']}, beside {table.model} on {table.dataset}",
        head=("editor", *(score.label for score in columns)),
        lines=tuple(lines),
        bold="a difference whose 95% interval excludes zero",
        notes=(
            f"Published: {table.source}{place}; {table.n_records:,} records.",
            "Intervals have the papers' formula, 1.96 standard errors; that of S is a bootstrap, "
            "and the papers print none. The interval of a difference takes both as independent.",
        ),
        warnings=tuple(_warnings(run, table, pairs)),
    )


def _warnings(run: Run, table: PublishedTable, pairs: Iterable[Beside]) -> list[str]:
    """How the two differ, apart from the numbers."""
    differ = []
    if not table.is_measured_on(run):
        differ.append(f"the model (ours: {run.model['name']}; published: {table.model})")
    if table.dataset != run.dataset["name"]:
        differ.append(f"the dataset (ours: {run.dataset['name']}; published: {table.dataset})")
    others = dict.fromkeys(pair.score.label for pair in pairs if not pair.same_procedure)
    if others:
        differ.append(f"the procedure of {', '.join(others)}")
    if not differ:
        return []
    return [
        f"not the same: {', '.join(differ)}. The differences compare these, not two "
        "measurements of the same thing."
    ]


def _difference(ours: Estimate, published: Estimate) -> Estimate:
    mean = ours.mean - published.mean
    if ours.half_width is None or published.half_width is None:
        return Estimate(mean, None, None, ours.n)
    half = math.hypot(ours.half_width, published.half_width)
    return Estimate(mean, mean - half, mean + half, ours.n)


def _is_clear(difference: Estimate) -> bool:
    low, high = difference.interval
    return low > 0 or high < 0


def _line(label: str, columns: Sequence[Score], own: Estimates) -> Line:
    return Line((Entry(label), *(score_entry(score, own.get(score.key)) for score in columns)))


def _known(table: PublishedTable, scores: Sequence[Score]) -> list[Score]:
    """The scores of a table in the order of its columns; the summary score is always known."""
    by_key: Mapping[str, Score] = {score.key: score for score in scores}
    return [
        by_key.get(key) or Score(key, label=key) for key in table.protocols if key != SUMMARY.key
    ]
