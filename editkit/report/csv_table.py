"""Every number of a report as one long CSV table, in full precision.

A line is one number: a score of an editor, over all records or one relation; a paired difference;
a published number; or the share of an editor's edits that failed in some way, explained in the
column ``note``. ``edits`` names the regime, ``at`` is the number of facts in a model and ``models``
the number of models; sequences have a line per checkpoint. Scores are fractions, as in the store. A
number without an interval has no ``ci_low`` and ``ci_high``. ``paper_ci_low`` and ``paper_ci_high``
are the bounds of the papers' formula.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import (
    SUMMARY,
    Difference,
    Estimate,
    by_group,
    metrics_of,
    model_metrics_of,
    retention,
)
from editkit.regimes import INDEPENDENT
from editkit.registry.values_label import values_from
from editkit.report.lines import Result
from editkit.report.sections import Section
from editkit.safe_text import spreadsheet_text

TEST_COLUMNS = ("p", "p_corrected", "effect", "higher", "lower", "needed")
"""Of paired differences: the test, Cohen's d_z, records with a higher and with a lower score, and
the records that would separate the editors."""

COLUMNS = (
    "table",
    "benchmark",
    "model",
    "dtype",
    "dataset",
    "dataset_digest",
    "editor",
    "preset",
    "values_from",
    "seed",
    "edits",
    "at",
    "models",
    "label",
    "fingerprint",
    "against",
    "relation",
    "relation_name",
    "age",
    "score",
    "column",
    "mean",
    "ci_low",
    "ci_high",
    "paper_ci_low",
    "paper_ci_high",
    "n",
    *TEST_COLUMNS,
    "note",
)

Key = Mapping[str, Any]
"""The columns that identify the numbers of a line."""


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """All numbers of all runs.

    The column ``table`` is ``scores``, ``newest``, ``retention``, ``models``, ``relations``,
    ``differences``, ``published`` or ``edits``.

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
    for result in section.results:
        yield {"table": "scores", **_key(result)}, result.estimates
        if result.series.regime.kind == "sequential":
            newest = metrics_of(result.series.newest(result.state), run.scores)
            yield {"table": "newest", **_key(result)}, newest
            for age, estimates in retention(result.series, result.state, run.scores).items():
                yield {"table": "retention", **_key(result), "age": age.label}, estimates
        models = model_metrics_of(result.state.models, run.model_scores)
        yield {"table": "models", **_key(result)}, models
    for result in section.last:
        groups = by_group(result.series.last, section.relations, run.scores)
        for relation, estimates in groups.items():
            name = section.relation_names.get(relation, "")
            key = {**_key(result), "relation": relation, "relation_name": name}
            yield {"table": "relations", **key}, estimates
    for each in section.comparisons(against):
        key = {"table": "differences", **_key(each.result), "against": each.reference.label}
        yield key, each.scores
    for published in section.published:
        for editor, row in published.rows.items():
            key = {"table": "published", "editor": editor, "label": published.source}
            yield {**key, "edits": INDEPENDENT.label, "at": 1}, row


def _edits(section: Section) -> Iterator[dict[str, Any]]:
    for result, outcome in zip(section.last, section.outcomes, strict=True):
        for kind, count in outcome.counts().items():
            yield {
                **_run(section),
                "table": "edits",
                **_key(result),
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


def _key(result: Result) -> dict[str, Any]:
    cells = result.series.cells
    return {
        "editor": result.editor,
        "preset": cells[0].preset,
        "values_from": values_from(cells[0]),
        "seed": " ".join(str(cell.seed) for cell in cells),
        "edits": result.edits,
        "at": result.state.at,
        "models": result.state.facts.n_models,
        "label": result.label,
        "fingerprint": " ".join(cell.fingerprint for cell in cells),
    }


def _lines(
    section: Section, key: Key, estimates: Mapping[str, Estimate]
) -> Iterator[dict[str, Any]]:
    scores = (SUMMARY, *section.run.scores, *section.run.model_scores)
    labels = {score.key: score.label for score in scores}
    published = key["table"] == "published"
    chosen = {*section.chosen}
    for score, estimate in estimates.items():
        if chosen and not chosen & {score, labels.get(score, "")}:
            continue
        yield {
            **_run(section),
            **key,
            "score": score,
            "column": labels.get(score, ""),
            "mean": estimate.mean,
            "ci_low": None if published else estimate.ci_low,
            "ci_high": None if published else estimate.ci_high,
            "paper_ci_low": estimate.paper_ci_low,
            "paper_ci_high": estimate.paper_ci_high,
            **(_test(estimate) if isinstance(estimate, Difference) else {}),
            "n": estimate.n,
        }


def _test(difference: Difference) -> dict[str, Any]:
    return {name: getattr(difference, name) for name in TEST_COLUMNS}
