"""The report as one HTML file: tables, plots, hard records and texts. It needs no network.

The markup is in ``templates/report.html``, which escapes every value; this module chooses what the
page shows.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.data_types import EditRequest, Score
from editkit.editing.outcomes import BASELINE
from editkit.registry.plugins import Registry, default_registry
from editkit.registry.specs import MetricSpec, ModelMetricSpec
from editkit.report import svg
from editkit.report.columns import by_importance, narrowed
from editkit.report.folder_figures import FolderContent
from editkit.report.lines import Result
from editkit.report.marks import Mark, marks_of, rules, swatch
from editkit.report.sections import MOST_CELLS, Section
from editkit.report.tables import Table, printed
from editkit.results import Row
from editkit.storage.digests import canonical_json

__all__ = ["html_template", "report"]

_NO_FIGURES = FolderContent()
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


def report(
    sections: Sequence[Section],
    *,
    against: str | None,
    folder: FolderContent = _NO_FIGURES,
) -> str:
    """The whole page.

    Args:
        sections: The runs; may be empty.
        against: Editor that the others are compared with; by default the best one.
        folder: Figures and tables of the output folder, to show below the runs.
    """
    names = ", ".join(dict.fromkeys(section.run.benchmark for section in sections))
    marks = _marks(sections)
    template = html_template(
        "editkit.report", "report.html", shade=_shade, highlighted=_highlighted
    )
    return template.render(
        title=f"editkit report: {names or folder.name}",
        against=against,
        sections=sections,
        marks=marks,
        rules=rules,
        swatch=swatch,
        provenance=_provenance,
        plots=_plots,
        folder=folder,
        helps=_helps,
        glossary=_glossary,
        histograms=_histograms,
        legend_lines=_legend,
        in_order=_in_order,
        hardest_records=_hardest_records,
        generations=_generations,
    )


def _marks(sections: Sequence[Section]) -> dict[str, Mark]:
    """How each series and curve on the page is drawn, by its name."""
    results = [result for section in sections for result in section.last]
    groups = {label: group for section in sections for label, group in _groups(section).items()}
    marks = marks_of({result.label: result.editor for result in results}, groups)
    of_series = {result.name: marks[result.label] for result in results}
    curves = {_curve(result): marks[result.label] for result in results}
    for section in sections:
        curves |= {
            curve: marks[label].with_next_dash() for label, curve in _second_curves(section).items()
        }
    return marks | of_series | curves


def _second_curves(section: Section) -> dict[str, str]:
    """The curve of joint edits, by label, of what has a curve of a sequence too."""
    sequences = {each.label for each in section.last if each.series.regime.kind == "sequential"}
    return {
        result.label: _curve(result)
        for result in section.last
        if _is_joint(result) and result.label in sequences
    }


def _groups(section: Section) -> dict[str, str]:
    """What the settings of one editor are grouped by: the value of the setting that changes least
    often from line to line, by label; empty for an editor with fewer than two such settings."""
    editors: dict[str, dict[str, Mapping[str, Any]]] = {}
    for result in section.last:
        config = result.series.cells[0].config
        editors.setdefault(result.editor, {}).setdefault(result.label, config)
    groups: dict[str, str] = {}
    for by_label in editors.values():
        changes: dict[str, int] = {}
        for field in dict.fromkeys(field for config in by_label.values() for field in config):
            values = [canonical_json(config.get(field)) for config in by_label.values()]
            if n := sum(one != other for one, other in itertools.pairwise(values)):
                changes[field] = n
        if len(changes) > 1:
            slowest = min(changes, key=lambda field: changes[field])
            for label, config in by_label.items():
                value = config.get(slowest)
                text = value if isinstance(value, str) else canonical_json(value)
                groups[label] = f"{slowest} {text}"
    return groups


def _legend(section: Section) -> list[tuple[str, list[tuple[str, str]]]]:
    """Lines of the legend: a heading, and labels with the words that are shown for them.

    The settings of one editor that share a value are one line, with that value as its heading.
    """
    groups = _groups(section)
    lines: dict[str, dict[str, str]] = {}
    for result in section.last:
        group = groups.get(result.label, "")
        heading = f"{result.editor}, {group}" if group else ""
        shown = result.label.replace(f", {group}", "").replace(f"{group}, ", "") if group else ""
        settings = shown.removeprefix(f"{result.editor} (").removesuffix(")")
        lines.setdefault(heading, {})[result.label] = settings or result.label
    for label, curve in _second_curves(section).items():
        next(words for words in lines.values() if label in words)[curve] = curve
    return [(heading, list(words.items())) for heading, words in lines.items()]


def _in_order(table: Table) -> Table:
    """The table with its columns by importance, as texts keep them: S, ES, PS, NS first."""
    return narrowed(table, [*range(table.keys), *by_importance(table)])


def _plot_names(section: Section) -> dict[str, str]:
    """A short name for each series in plots, by its name: without the regime if all have one."""
    is_one = len({result.edits for result in section.last}) == 1
    names = [result.label if is_one else result.name for result in section.last]
    drawn = svg.shown_names(names)
    return {result.name: name for result, name in zip(section.last, drawn, strict=True)}


# ---------------------------------------------------------------- what columns mean

_COLUMNS = {
    "editor": "the method, with the settings that set it apart from the same method in other lines",
    "edits": "how many facts each model has, and how they were written",
    "at": "facts in the model when it was scored",
    "models": "edited models behind the line",
    "minus": "the editor whose scores are subtracted",
    "s/edit": "mean seconds for one edit",
    "records": "records with scores; in parentheses, those that failed",
    "relation": "the relation of the edited facts",
    "record": "the edit: a prompt with the new object, and the true one",
    "score": "the score that the line is about",
}


def _glossary(section: Section) -> dict[str, str]:
    """What each column of a score means, by its head, in the order of the tables."""
    words: dict[str, list[str]] = {}
    for score in (*section.columns, *section.run.scores, *section.run.model_scores):
        meaning = _meaning(score)
        if score.label and meaning not in words.setdefault(score.label, []):
            words[score.label].append(meaning)
    return {label: " Or: ".join(meanings) for label, meanings in words.items()}


def _helps(table: Table) -> list[str]:
    """What each column of a table means; empty for one that needs no words."""
    return [
        _meaning(table.scores[head])
        if head in table.scores
        else f"{head.removeprefix('age ')} steps since the facts were written"
        if head.startswith("age ")
        else _COLUMNS.get(head, "")
        for head in table.head
    ]


def _meaning(score: Score) -> str:
    """A score in words: its name, description, direction and key."""
    known = (
        score if score.description else _declared_scores(default_registry()).get(score.key, score)
    )
    words = [": ".join(filter(None, (known.name, known.description))) or score.key]
    if score.higher_is_better is not None:
        words.append("higher is better" if score.higher_is_better else "lower is better")
    if score.scale != 1:
        words.append(f"shown x {score.scale:g}")
    if words[0] != score.key:
        words.append(f"in stores and JSON: {score.key}")
    return "; ".join(words)


@functools.cache
def _declared_scores(registry: Registry) -> dict[str, Score]:
    """The scores of installed metrics by key, for stores from versions without descriptions."""
    specs = [offer.spec for kind in ("metric", "model_metric") for offer in registry.offers(kind)]
    return {
        score.key: score
        for spec in specs
        if isinstance(spec, MetricSpec | ModelMetricSpec)
        for score in spec.scores
    }


# ---------------------------------------------------------------- text


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


def _plots(section: Section, marks: Mapping[str, Mark]) -> Iterator[tuple[Markup, str]]:
    """Plots with their captions.

    Args:
        section: The run.
        marks: How each name is drawn.
    """
    yield from _curves(section, marks)
    if len(section.last) > 2 * MOST_CELLS:
        return
    names = _plot_names(section)
    means = [
        (names[result.name], result.estimates[SUMMARY.key], marks[result.name])
        for result in section.last
        if SUMMARY.key in result.estimates
    ]
    if means:
        plot = svg.intervals(means, SUMMARY.label, scale=SUMMARY.scale)
        yield (
            plot,
            "The summary score of each editor"
            + _with_intervals((mean for _, mean, _ in means), ", with its 95% interval"),
        )
    pair = [score for score in section.columns if score.summary][-2:]
    if len(pair) == 2:
        x, y = pair
        points = [
            svg.Point(
                names[result.name],
                result.estimates[x.key],
                result.estimates[y.key],
                marks[result.name],
            )
            for result in section.last
            if x.key in result.estimates and y.key in result.estimates
        ]
        plot = svg.scatter(points, x.label, y.label, scale=x.scale)
        n = len(svg.labelled(points))
        yield (
            plot,
            f"{y.label} against {x.label}: good edits are at the upper right"
            + _with_intervals((p.x for p in points), "; crosses are 95% intervals")
            + (f" The {n} with the best sum are labelled." if n < len(points) else ""),
        )


def _with_intervals(estimates: Iterable[Estimate], words: str) -> str:
    """The end of a caption: the words if any of the estimates has an interval."""
    return f"{words}." if any(each.half_width is not None for each in estimates) else "."


def _curves(section: Section, marks: Mapping[str, Mark]) -> Iterator[tuple[Markup, str]]:
    """The summary score against the number of edits, if models have different numbers of them."""
    lines: dict[str, list[tuple[int, Estimate]]] = {}
    for result in section.results:
        regime = result.series.regime
        if SUMMARY.key in result.estimates and not regime.is_independent:
            lines.setdefault(_curve(result), []).append(
                (result.state.at, result.estimates[SUMMARY.key])
            )
    most = max((at for points in lines.values() for at, _ in points), default=1)
    if most > 1 and any(len(points) > 1 for points in lines.values()):
        names = _plot_names(section)
        drawn = [(names.get(name, name), marks[name], points) for name, points in lines.items()]
        plot = svg.curves(drawn, "facts in the model", SUMMARY.label, SUMMARY.scale)
        yield (
            plot,
            "The summary score against the number of edits"
            + _with_intervals(
                (mean for points in lines.values() for _, mean in points),
                ", with 95% intervals over models",
            ),
        )


def _curve(result: Result) -> str:
    """Name of its curve. Regimes of joint edits, which have one number of facts each, share one."""
    return f"{result.label} (joint)" if _is_joint(result) else result.name


def _is_joint(result: Result) -> bool:
    return result.series.regime.kind == "joint"


def _histograms(
    section: Section, marks: Mapping[str, Mark]
) -> tuple[list[Score], list[list[Markup | None]], str]:
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
            line.append(
                svg.histogram(values, low, high, marks[result.name], name, logarithmic=is_log)
                if values
                else None
            )
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
