"""Every number of a report as one long CSV table, in full precision.

A line is one number: a score of an editor, over all records or one relation; a paired difference;
a published number; or the share of an editor's edits that did not work in some way, with the
sentence about them as its note. Numbers are as stores have them: fractions, not times 100.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import SUMMARY, Estimate, by_group, paired_differences
from editkit.report.display import cell_text
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

Place = Mapping[str, Any]


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """All numbers of all runs.

    The column ``table`` is one of ``scores``, ``relations``, ``differences`` (to one cell),
    ``published`` and ``edits``.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for place, estimates in _estimates(section, against):
            writer.writerows(map(_safe, _lines(section, place, estimates)))
        writer.writerows(map(_safe, _edits(section)))
    return text.getvalue()


def _safe(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line whose texts no spreadsheet takes for formulas."""
    return {
        key: cell_text(value) if isinstance(value, str) else value for key, value in line.items()
    }


def _estimates(
    section: Section, against: str | None
) -> Iterator[tuple[Place, Mapping[str, Estimate]]]:
    run = section.run
    cells = range(len(run.cells))
    for i in cells:
        yield {"table": "scores", **_cell(section, i)}, section.estimates[i]
    for i in cells:
        groups = by_group(section.rows[i], section.relations, run.scores)
        for relation, found in groups.items():
            yield {"table": "relations", **_cell(section, i), "relation": relation}, found
    other = section.reference(against)
    for i in cells:
        if other is not None and i != other:
            found = paired_differences(section.rows[i], section.rows[other], run.scores)
            label = section.labels[other]
            yield {"table": "differences", **_cell(section, i), "against": label}, found
    for published in section.published:
        for editor, row in published.rows.items():
            exact = {
                key: Estimate(mean, mean, mean, published.n_records) for key, mean in row.items()
            }
            yield {"table": "published", "editor": editor, "label": published.source}, exact


def _edits(section: Section) -> Iterator[dict[str, Any]]:
    for i, found in enumerate(section.outcomes):
        for kind, count in found.counts().items():
            yield {
                **_run(section),
                "table": "edits",
                **_cell(section, i),
                "score": f"edits/{kind}",
                "mean": count / found.n if found.n else 0.0,
                "n": found.n,
                "note": found.summary if count else "",
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
    section: Section, place: Place, estimates: Mapping[str, Estimate]
) -> Iterator[dict[str, Any]]:
    run = section.run
    labels = {score.key: score.label for score in (SUMMARY, *run.scores)}
    for key, found in estimates.items():
        published = place["table"] == "published"
        yield {
            **_run(section),
            **place,
            "score": key,
            "column": labels.get(key, ""),
            "mean": found.mean,
            "ci_low": "" if published else found.ci_low,
            "ci_high": "" if published else found.ci_high,
            "n": found.n,
        }
