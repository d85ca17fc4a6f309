"""The report as one HTML file: tables, plots, hard records and texts. It needs no network.

The markup is in ``templates/report.html``, which escapes every value; this module chooses what the
page shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.data_types import EditRequest, Score
from editkit.editing.outcomes import BASELINE
from editkit.report import svg
from editkit.report.sections import MOST_CELLS, Section
from editkit.report.tables import printed
from editkit.results import Row

__all__ = ["html_template", "report"]

_HARDEST = 5
_MOST_TEXTS = 20
_LONG_RANGE = 100  # ratio of the largest to the smallest number


def html_template(package: str, name: str, **filters: Callable[..., Any]) -> Template:
    """A Jinja2 template that escapes every value.

    Args:
        package: Python package with a folder ``templates``.
        name: File name in that folder.
        filters: Filters of the template, by name.
    """
    templates = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(filters)
    return templates.get_template(name)


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """The whole page.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
    """
    names = ", ".join(dict.fromkeys(section.run.benchmark for section in sections))
    template = html_template(
        "editkit.report", "report.html", shade=_shade, highlighted=_highlighted
    )
    return template.render(
        title=f"editkit report: {names}",
        against=against,
        sections=sections,
        provenance=_provenance,
        figures=_figures,
        histograms=_histograms,
        hardest_records=_hardest_records,
        generations=_generations,
        color_class=svg.color_class,
    )


def _provenance(section: Section) -> str:
    """Model, records and metrics of a run, with the digests that identify them."""
    metrics = ", ".join(
        f"{metric['name']} ({metric['protocol']})" if metric["protocol"] else metric["name"]
        for metric in section.run.metrics
    )
    model, dataset = section.run.model, section.run.dataset
    facts = [f"Model {model['name']}, fingerprint {str(model['fingerprint'])[:12]}"]
    facts.append(f"records {str(dataset['digest'])[:12]}")
    facts += [f"metrics {metrics}"] if metrics else []
    return "; ".join(facts)


def _shade(level: float | None, *, diverging: bool) -> str | None:
    """CSS colour of a background: one hue for 0 to 1, or two hues that fade towards 0.5."""
    if level is None:
        return None
    color, strength = "shade", level
    if diverging:
        color, strength = ("shade", 2 * level - 1) if level >= 0.5 else ("warm", 1 - 2 * level)
    return f"rgba(var(--{color}),{0.55 * strength:.2f})"


# ---------------------------------------------------------------- plots


def _figures(section: Section) -> Iterator[tuple[Markup, str]]:
    """Plots with their captions."""
    yield from _curves(section)
    if len(section.last) > 2 * MOST_CELLS:
        return
    means = [
        (result.name, result.estimates[SUMMARY.key], result.editor == BASELINE)
        for result in section.last
        if SUMMARY.key in result.estimates
    ]
    if means:
        plot = svg.intervals(means, SUMMARY.label, scale=SUMMARY.scale)
        yield plot, "The summary score of each editor, with its 95% interval."
    pair = [score for score in section.columns if score.summary][-2:]
    if len(pair) == 2:
        x, y = pair
        points = [
            svg.Point(
                result.name,
                result.estimates[x.key],
                result.estimates[y.key],
                result.editor == BASELINE,
            )
            for result in section.last
            if x.key in result.estimates and y.key in result.estimates
        ]
        plot = svg.scatter(points, x.label, y.label, scale=x.scale)
        yield (
            plot,
            (
                f"{y.label} against {x.label}: good edits are at the upper right. Crosses are "
                "95% intervals."
            ),
        )


def _curves(section: Section) -> Iterator[tuple[Markup, str]]:
    """The summary score against the number of edits, if models have different numbers of them."""
    lines: dict[str, list[tuple[int, Estimate]]] = {}
    for result in section.results:
        regime = result.series.regime
        if SUMMARY.key in result.estimates and not regime.is_independent:
            # A joint regime has one number of facts, so a line has the points of several.
            name = result.name if regime.kind == "sequential" else f"{result.label} (joint)"
            lines.setdefault(name, []).append((result.state.at, result.estimates[SUMMARY.key]))
    most = max((at for points in lines.values() for at, _ in points), default=1)
    if most > 1 and any(len(points) > 1 for points in lines.values()):
        plot = svg.curves(list(lines.items()), "facts in the model", SUMMARY.label, SUMMARY.scale)
        yield plot, "The summary score against the number of edits, with 95% intervals over models."


def _histograms(section: Section) -> tuple[list[Score], list[list[Markup | None]], str]:
    """The scores, a histogram per cell and score, and the range of each score in words."""
    scores = [score for score in section.columns if score != SUMMARY]
    if not scores or len(section.series) > 2 * MOST_CELLS:
        return [], [], ""
    ranges = {score.key: _range(section, score) for score in scores}
    plots = []
    for i, result in enumerate(section.last):
        line: list[Markup | None] = []
        for score in scores:
            values = _values(section, i, score)
            name = f"{score.label} of {result.name}: distribution over {len(values)} records"
            low, high, is_log = ranges[score.key]
            plot = svg.histogram(values, low, high, i, name, logarithmic=is_log) if values else None
            line.append(plot)
        plots.append(line)
    words = [
        f"{score.label} {score.scale * low:.3g} to {score.scale * high:.3g}"
        + (" on a log axis" if is_log else "")
        for score, (low, high, is_log) in zip(scores, ranges.values(), strict=True)
    ]
    return scores, plots, ", ".join(words)


def _range(section: Section, score: Score) -> tuple[float, float, bool]:
    """Both bounds of the score; the range of the data if one is missing or violated. And whether
    the axis is logarithmic.

    Long ranges above 0 begin with the smallest positive number, up to nine powers of ten below the
    largest, on a logarithmic axis.
    """
    every = [v for i in range(len(section.series)) for v in _values(section, i, score)]
    low, high = min(every, default=0.0), max(every, default=1.0)
    least, most = score.limits
    if least is not None and most is not None and least <= low and high <= most:
        return least, most, False
    if least == 0 <= low and high > _LONG_RANGE * low:
        return max(min(v for v in every if v > 0), 1e-9 * high), high, True
    return low, high, False


def _values(section: Section, i: int, score: Score) -> list[float]:
    return [
        row.scores[score.key]
        for row in section.series[i].last.rows
        if row.status == "done" and score.key in row.scores
    ]


# ---------------------------------------------------------------- single records


def _hardest_records(section: Section) -> list[tuple[str, list[tuple[int, list[str]]]]]:
    """By editor, the case ids of the worst records and their scores as printed."""
    scores = [score for score in section.run.scores if score.label]
    return [
        (result.name, [(row.case_id, [_printed(score, row) for score in scores]) for row in worst])
        for result in section.last
        if result.editor != BASELINE and (worst := _worst(section, result.series.last.rows))
    ]


def _worst(section: Section, rows: Sequence[Row]) -> list[Row]:
    summary = [score.key for score in section.run.scores if score.summary]
    margins = [
        score.key
        for score in section.columns
        if score.signed and score.higher_is_better and not score.summary
    ]

    def quality(row: Row) -> tuple[float, float, int]:
        main = [row.scores[key] for key in summary if key in row.scores]
        ties = [row.scores[key] for key in margins if key in row.scores]
        return sum(main) / len(main), sum(ties), row.case_id

    scored = [
        row for row in rows if row.status == "done" and any(key in row.scores for key in summary)
    ]
    return sorted(scored, key=quality)[:_HARDEST]


def _printed(score: Score, row: Row) -> str:
    value = row.scores.get(score.key)
    sign = "+" if score.signed else ""
    return (
        "-"
        if value is None
        else printed(score.scale * value, sign, digits=score.significant_digits)
    )


def _generations(section: Section) -> tuple[list[tuple[int, list[tuple[str, list[str]]]]], int]:
    """The first cases with what each edited model wrote, by label; and the number of cases."""
    cases = sorted({row.case_id for rows in section.rows for row in rows if row.texts})
    cells = [{row.case_id: row for row in rows if row.texts} for rows in section.rows]
    shown = [
        (
            case_id,
            [
                (label, [text for texts in rows[case_id].written.values() for text in texts])
                for label, rows in zip(section.labels, cells, strict=True)
                if case_id in rows
            ],
        )
        for case_id in cases[:_MOST_TEXTS]
    ]
    return shown, len(cases)


def _highlighted(text: str, requests: Sequence[EditRequest]) -> Iterator[tuple[str, str]]:
    """Pieces of a text, each with its mark: ``new``, ``true`` or none."""
    marks = {request.target_new: "new" for request in requests}
    for request in requests:
        if request.target_true:
            marks.setdefault(request.target_true, "true")
    words = list(marks)
    end = 0
    if words:
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words))
        for match in pattern.finditer(text):
            yield text[end : match.start()], ""
            yield match[0], marks[match[0]]
            end = match.end()
    yield text[end:], ""
