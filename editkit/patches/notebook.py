"""Patches as HTML for notebooks: a small table that needs no script and no other file.

All texts are escaped. Colours are the page's own, so that it suits light and dark pages.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from editkit.patches.content import PatchContent
from editkit.patches.overview import heading, measures_of, origin_line, sections_of
from editkit.safe_text import one_line

__all__ = ["patch_html", "patches_html"]

_TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;max-width:56em"
_LABEL = "text-align:left;padding:2px 12px 2px 0;max-width:38em;overflow-wrap:anywhere"
_NUMBER = "text-align:right;padding:2px 0 2px 12px;white-space:nowrap"
_HEAD = "border-bottom:1px solid rgba(128,128,128,.5);padding-top:8px"
_BAD = "background:rgba(220,60,40,.18)"
_LEVELS = {
    "good": "background:rgba(40,160,70,.22)",
    "mixed": "background:rgba(220,160,20,.22)",
    "bad": _BAD,
}
_QUIET = "opacity:.7"
_COLUMNS = 3
_MOST_LINES = 20


def patch_html(content: PatchContent) -> str:
    """What an edit did, as a table in HTML."""
    return _page(_title(content), _details(content))


def patches_html(contents: Sequence[PatchContent]) -> str:
    """Several patches: a column each, then the details of each, folded."""
    if not contents:
        return "<div>no patches</div>"
    folded = (
        f"<details><summary>{_text(each.editor)}</summary>{patch_html(each)}</details>"
        for each in contents
    )
    return _page(f"<b>{_text(heading(contents[0]))}</b>", _comparison(contents)) + "".join(folded)


def _page(title: str, rows: Iterator[str]) -> str:
    return f'<div><div>{title}</div><table style="{_TABLE}">{"".join(rows)}</table></div>'


def _title(content: PatchContent) -> str:
    return f"<b>{_text(heading(content))}</b> {_text(origin_line(content))}"


# ---------------------------------------------------------------- rows


def _details(content: PatchContent) -> Iterator[str]:
    for section in sections_of(content):
        yield _head(section.title, section.heads, _LEVELS.get(section.level or "unknown", ""))
        for line in section.lines[:_MOST_LINES]:
            style = _BAD if line.good is False else ""
            remark = f" <i>{_text(line.remark)}</i>" if line.remark else ""
            mark = "! " if line.good is False else ""
            yield _row(f"{mark}{line.label}", line.numbers, style=style, more=remark)
        if (more := len(section.lines) - _MOST_LINES) > 0:
            yield _row(f"… and {more} more", [])
        for label, text in section.texts:
            yield _text_row(label, text)


def _comparison(contents: Sequence[PatchContent]) -> Iterator[str]:
    yield _head("", ["before", *(content.editor for content in contents)])
    measured = [measures_of(content) for content in contents]
    for name in dict.fromkeys(name for each in measured for name in each):
        before = next(each[name].before for each in measured if name in each)
        yield _row(name, [before, *(e[name].after if name in e else "-" for e in measured)])


# ---------------------------------------------------------------- cells


def _head(label: str, numbers: Sequence[str], style: str = "") -> str:
    cells = "".join(f'<th style="{_NUMBER};{_HEAD}">{_text(each)}</th>' for each in numbers)
    return (
        f'<tr><th{_span(numbers)} style="{_LABEL};{_HEAD};{style}">{_text(label)}</th>{cells}</tr>'
    )


def _row(label: str, numbers: Sequence[str], *, style: str = "", more: str = "") -> str:
    cells = "".join(f'<td style="{_NUMBER}">{_text(each)}</td>' for each in numbers)
    first = f'<td{_span(numbers)} style="{_LABEL}">{_text(label)}{more}</td>'
    return f'<tr style="{style}">{first}{cells}</tr>'


def _text_row(label: str, text: str) -> str:
    """A text over all columns."""
    name = f'<span style="{_QUIET}">{_text(label)}:</span> ' if label else ""
    return (
        f'<tr><td colspan="{_COLUMNS}" style="{_LABEL}">{name}{_text(" ".join(text.split()))}'
        "</td></tr>"
    )


def _span(numbers: Sequence[str]) -> str:
    """How many columns the first cell takes, where there are fewer numbers than two."""
    free = _COLUMNS - len(numbers)
    return f' colspan="{free}"' if free > 1 else ""


def _text(text: str) -> str:
    """Text of any origin; its characters mean themselves."""
    return html.escape(one_line(text))
