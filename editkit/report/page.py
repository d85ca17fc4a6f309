"""The report as one HTML file: tables, plots, hard records and texts. It needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from editkit.benchmark.aggregate import SUMMARY
from editkit.data_types import Score
from editkit.report import svg
from editkit.report.grid import Entry, Grid
from editkit.report.judging import BASELINE
from editkit.report.page_records import hardest, texts
from editkit.report.sections import MOST_CELLS, Section
from editkit.storage.resources import resource_text


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """The whole page.

    Args:
        sections: The runs.
        against: Editor that others are compared with.
    """
    names = ", ".join(dict.fromkeys(section.run.benchmark for section in sections))
    title = escape(f"editkit report: {names}")
    links = "".join(
        f'<a href="#run{i}">{escape(section.title)}</a>' for i, section in enumerate(sections)
    )
    body = "".join(_section(i, section, against) for i, section in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_file('style.css')}</style>\n</head>\n"
        f"<body>\n<h1>{title}</h1>\n{f'<nav>{links}</nav>' if len(sections) > 1 else ''}\n"
        f"{body}<script>\n{_file('sort.js')}</script>\n</body>\n</html>\n"
    )


def _file(name: str) -> str:
    return resource_text(f"editkit.report:{name}")


def _section(i: int, section: Section, against: str | None) -> str:
    parts = [f'<section id="run{i}">\n<h2>{escape(section.title)}</h2>\n']
    parts += [f'<p class="warning">{escape(warning)}</p>\n' for warning in section.warnings]
    parts.append(_metrics(section))
    parts.append(table(section.scores(), sortable=True, titled=False))
    parts.append(_plots(section))
    parts.append(_distributions(section))
    for grid in (section.differences(against), section.matrix(), section.by_relation()):
        if grid.lines:
            parts.append(table(grid, sortable=grid.name != "matrix"))
    parts += [hardest(section), texts(section), "</section>\n"]
    return "".join(parts)


def _metrics(section: Section) -> str:
    told = ", ".join(
        f"{metric['name']} ({metric['protocol']})" if metric["protocol"] else metric["name"]
        for metric in section.run.metrics
    )
    model = section.run.model
    facts = [f"Model {model['name']}, fingerprint {str(model['fingerprint'])[:12]}"]
    facts.append(f"records {str(section.run.dataset['digest'])[:12]}")
    facts.append(f"metrics {told}" if told else "")
    return f'<p class="note">{escape("; ".join(fact for fact in facts if fact))}.</p>\n'


def table(grid: Grid, *, sortable: bool, titled: bool = True) -> str:
    """A table in a box that scrolls where it is wider than the page."""
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(head)}</button></th>'
        if sortable
        else f'<th scope="col">{escape(head)}</th>'
        for head in grid.head
    )
    diverging = grid.name in ("differences", "matrix")
    lines = "".join(
        "<tr>"
        + "".join(_entry(entry, faint=line.faint, diverging=diverging) for entry in line.entries)
        + "</tr>\n"
        for line in grid.lines
    )
    title = f"<h3>{escape(grid.title)}</h3>\n" if titled else ""
    notes = "".join(
        f'<p class="note">{escape(note.replace(" (* in plain text)", ""))}</p>\n'
        for note in grid.notes
    )
    warnings = "".join(f'<p class="warning">{escape(each)}</p>\n' for each in grid.warnings)
    return (
        f'{title}<div class="wide"><table class="{grid.name}">\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{lines}</tbody></table></div>\n{warnings}{notes}"
    )


def _entry(entry: Entry, *, faint: bool, diverging: bool) -> str:
    css = [
        name
        for name, holds in (("bold", entry.bold), ("failed", entry.failed), ("faint", faint))
        if holds
    ]
    kind = f' class="{" ".join(css)}"' if css else ""
    style = "" if entry.level is None else f' style="{_shade(entry.level, diverging)}"'
    half = f" <small>±{escape(entry.half)}</small>" if entry.half else ""
    return f"<td{kind}{style}>{escape(entry.text.strip())}{half}</td>"


def _shade(level: float, diverging: bool) -> str:
    """A background that grows stronger with the value; two colours around the middle."""
    color, strength = (
        ("shade", level)
        if not diverging
        else (("shade", 2 * level - 1) if level >= 0.5 else ("warm", 1 - 2 * level))
    )
    return f"background:rgba(var(--{color}),{0.55 * strength:.2f})"


# ---------------------------------------------------------------- plots


def _plots(section: Section) -> str:
    figures = list(_figures(section))
    return f'<div class="figures">{"".join(figures)}</div>\n' if figures else ""


def _figures(section: Section) -> Iterator[str]:
    cells = list(zip(section.run.cells, section.labels, section.estimates, strict=True))
    if len(cells) > 2 * MOST_CELLS:
        return
    if any(SUMMARY.key in found for *_, found in cells):
        means = [
            (label, found[SUMMARY.key], cell.editor == BASELINE)
            for cell, label, found in cells
            if SUMMARY.key in found
        ]
        plot = svg.intervals(means, SUMMARY.label, scale=SUMMARY.scale)
        yield _figure(plot, "The summary score of each editor, with its 95% interval.")
    pair = [score for score in section.columns if score.summary][-2:]
    if len(pair) == 2:
        x, y = pair
        points = [
            svg.Point(label, found[x.key], found[y.key], cell.editor == BASELINE)
            for cell, label, found in cells
            if x.key in found and y.key in found
        ]
        plot = svg.scatter(points, x.label, y.label, scale=x.scale)
        yield _figure(
            plot,
            f"{y.label} against {x.label}: a good edit lies in the upper right corner. Crosses are "
            "95% intervals.",
        )


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _distributions(section: Section) -> str:
    scores = [score for score in section.columns if score != SUMMARY]
    if not scores or len(section.labels) > 2 * MOST_CELLS:
        return ""
    heads = "".join(f'<th scope="col">{escape(score.label)}</th>' for score in scores)
    lines = []
    for i, label in enumerate(section.labels):
        entries = "".join(f"<td>{_histogram(section, i, score)}</td>" for score in scores)
        lines.append(f'<tr><td class="{svg.color(i)}">{escape(label)}</td>{entries}</tr>\n')
    ranges = ", ".join(
        f"{score.label} {score.scale * low:g} to {score.scale * high:g}"
        for score in scores
        for low, high in [_range(section, score)]
    )
    return (
        f'<h3>How records are spread</h3>\n<div class="wide"><table class="histograms">'
        f"<thead><tr><th>editor</th>{heads}</tr></thead><tbody>\n{''.join(lines)}</tbody></table>"
        '</div>\n<p class="note">Share of records over the range of each score '
        f"({escape(ranges)}); the line is the mean.</p>\n"
    )


def _histogram(section: Section, i: int, score: Score) -> str:
    values = _values(section, i, score)
    if not values:
        return "-"
    told = f"{score.label} of {section.labels[i]}: spread over {len(values)} records"
    return svg.histogram(values, *_range(section, score), i, told)


def _range(section: Section, score: Score) -> tuple[float, float]:
    """The whole range of fractions and their differences; of others what occurs."""
    every = [v for i in range(len(section.labels)) for v in _values(section, i, score)]
    low, high = min(every, default=0.0), max(every, default=1.0)
    if low >= -1 and high <= 1:
        return (-1.0, 1.0) if score.signed else (0.0, 1.0)
    return low, high


def _values(section: Section, i: int, score: Score) -> list[float]:
    return [
        row.scores[score.key]
        for row in section.rows[i]
        if row.status == "done" and score.key in row.scores
    ]
