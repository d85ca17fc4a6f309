"""Every number of a report as one long CSV table, in full precision.

A line is one number: a score of an editor, over all records or one relation; a paired difference;
a published number; or the share of an editor's edits that failed in some way, explained in the
column ``note``. Scores are fractions, as in the store.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import SUMMARY, Estimate, by_group, paired_differences
from editkit.report.safe_text import spreadsheet_text
from editkit.report.sections import Section

COLUMNS = (
    "table",
    "benchmark",
    "model",
    "dtype",
    "dataset",
    "dataset_digest",
    "editor",
    "preset",
    "seed",
    "label",
    "fingerprint",
    "against",
    "relation",
    "score",
    "column",
    "mean",
    "ci_low",
    "ci_high",
    "n",
    "note",
)

Key = Mapping[str, Any]
"""The columns that identify the numbers of a line."""


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """All numbers of all runs.

    The column ``table`` is ``scores``, ``relations``, ``differences``, ``published`` or ``edits``.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for key, estimates in _estimates(section, against):
            writer.writerows(map(_safe, _lines(section, key, estimates)))
        writer.writerows(map(_safe, _edits(section)))
    return text.getvalue()


def _safe(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: spreadsheet_text(value) if isinstance(value, str) else value
        for key, value in line.items()
    }


def _estimates(
    section: Section, against: str | None
) -> Iterator[tuple[Key, Mapping[str, Estimate]]]:
    run = section.run
    cells = range(len(run.cells))
    for i in cells:
        yield {"table": "scores", **_cell(section, i)}, section.estimates[i]
    for i in cells:
        groups = by_group(section.rows[i], section.relations, run.scores)
        for relation, estimates in groups.items():
            yield {"table": "relations", **_cell(section, i), "relation": relation}, estimates
    other = section.reference(against)
    for i in cells:
        if other is not None and i != other:
            minus = paired_differences(section.rows[i], section.rows[other], run.scores)
            label = section.labels[other]
            yield {"table": "differences", **_cell(section, i), "against": label}, minus
    for published in section.published:
        for editor, row in published.rows.items():
            exact = {
                key: Estimate(mean, mean, mean, published.n_records) for key, mean in row.items()
            }
            yield {"table": "published", "editor": editor, "label": published.source}, exact


def _edits(section: Section) -> Iterator[dict[str, Any]]:
    for i, outcome in enumerate(section.outcomes):
        for kind, count in outcome.counts().items():
            yield {
                **_run(section),
                "table": "edits",
                **_cell(section, i),
                "score": f"edits/{kind}",
                "mean": count / outcome.n if outcome.n else 0.0,
                "n": outcome.n,
                "note": outcome.summary if count else "",
            }


def _run(section: Section) -> dict[str, Any]:
    run = section.run
    return {
        "benchmark": run.benchmark,
        "model": run.model["name"],
        "dtype": run.model["dtype"],
        "dataset": run.dataset["name"],
        "dataset_digest": run.dataset["digest"],
    }


def _cell(section: Section, i: int) -> dict[str, Any]:
    cell = section.run.cells[i]
    return {
        "editor": cell.editor,
        "preset": cell.preset,
        "seed": cell.seed,
        "label": section.labels[i],
        "fingerprint": cell.fingerprint,
    }


def _lines(
    section: Section, key: Key, estimates: Mapping[str, Estimate]
) -> Iterator[dict[str, Any]]:
    labels = {score.key: score.label for score in (SUMMARY, *section.run.scores)}
    published = key["table"] == "published"
    for score, estimate in estimates.items():
        yield {
            **_run(section),
            **key,
            "score": score,
            "column": labels.get(score, ""),
            "mean": estimate.mean,
            "ci_low": None if published else estimate.ci_low,
            "ci_high": None if published else estimate.ci_high,
            "n": estimate.n,
        }
