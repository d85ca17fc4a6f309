"""Single records in the HTML report: where editors did worst, and what edited models wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from editkit.data_types import EditRequest
from editkit.report.judging import BASELINE
from editkit.report.sections import Section
from editkit.results import Row

_HARDEST = 5
_MOST_TEXTS = 20


def hardest(section: Section) -> str:
    """For each editor, the records on which it did worst, with what was to be written."""
    parts = []
    for i, cell in enumerate(section.run.cells):
        rows = _worst(section, section.rows[i]) if cell.editor != BASELINE else []
        if rows:
            lines = "".join(_line(section, row) for row in rows)
            scores = [score for score in section.run.scores if score.label]
            heads = "".join(f'<th scope="col">{escape(score.label)}</th>' for score in scores)
            parts.append(
                f"<details><summary>{escape(section.labels[i])}</summary>\n"
                f'<div class="wide"><table><thead><tr><th>record</th>{heads}</tr></thead><tbody>\n'
                f"{lines}</tbody></table></div></details>\n"
            )
    if not parts:
        return ""
    note = (
        "The records with the lowest mean of the scores that enter S; of equal ones, those with "
        "the lowest margins."
    )
    return f'<h3>Hardest records</h3>\n<p class="note">{note}</p>\n{"".join(parts)}'


def _worst(section: Section, rows: Sequence[Row]) -> list[Row]:
    summary = [score.key for score in section.run.scores if score.summary]
    margins = [score.key for score in section.columns if score.signed and not score.summary]

    def badness(row: Row) -> tuple[float, float, int]:
        chosen = [row.scores[key] for key in summary if key in row.scores]
        others = [row.scores[key] for key in margins if key in row.scores]
        return sum(chosen) / len(chosen), sum(others), row.case_id

    scored = [
        row for row in rows if row.status == "done" and any(key in row.scores for key in summary)
    ]
    return sorted(scored, key=badness)[:_HARDEST]


def _line(section: Section, row: Row) -> str:
    numbers = []
    for score in section.run.scores:
        if score.label:
            value = row.scores.get(score.key)
            sign = "+" if score.signed else ""
            text = "-" if value is None else f"{score.scale * value + 0.0:{sign}.1f}"
            numbers.append(f"<td>{text}</td>")
    return f"<tr><td>{_about(section, row.case_id)}</td>{''.join(numbers)}</tr>\n"


def _about(section: Section, case_id: int) -> str:
    """A record in a few words: its edit, where the store knows it."""
    request = section.requests.get(case_id)
    if request is None:
        return f"case {case_id}"
    before = request.statement.removesuffix(request.target_new)
    about = (
        f'<span class="soft">{case_id}</span> <span class="edit">{escape(before)}'
        f"<b>{escape(request.target_new)}</b></span>"
    )
    if request.target_true:
        about += f' <span class="soft">(was {escape(request.target_true)})</span>'
    return about


def texts(section: Section) -> str:
    """What edited models wrote, editors side by side, the objects highlighted."""
    cases = sorted({row.case_id for rows in section.rows for row in rows if row.texts})
    if not cases:
        return ""
    rows = [{row.case_id: row for row in found} for found in section.rows]
    parts = []
    for case_id in cases[:_MOST_TEXTS]:
        cards = "".join(
            _card(label, found[case_id], section.requests.get(case_id))
            for label, found in zip(section.labels, rows, strict=True)
            if case_id in found and found[case_id].texts
        )
        parts.append(
            f"<details><summary>{_about(section, case_id)}</summary>\n"
            f'<div class="cards">{cards}</div></details>\n'
        )
    more = f" The first {_MOST_TEXTS} of {len(cases)} records." if len(cases) > _MOST_TEXTS else ""
    note = (
        "What each edited model wrote; <mark>the new object</mark> and "
        f'<mark class="true">the true one</mark> are marked.{more}'
    )
    return f'<h3>Generations</h3>\n<p class="note">{note}</p>\n{"".join(parts)}'


def _card(label: str, row: Row, request: EditRequest | None) -> str:
    written = "".join(
        f"<p>{_highlighted(text, request)}</p>" for kind in row.texts for text in row.texts[kind]
    )
    return f'<div class="card"><h4>{escape(label)}</h4>{written}</div>'


def _highlighted(text: str, request: EditRequest | None) -> str:
    targets = {} if request is None else {request.target_new: "", request.target_true: "true"}
    words = [word for word in targets if word]
    if not words:
        return escape(text)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words))
    parts, end = [], 0
    for match in pattern.finditer(text):
        kind = ' class="true"' if targets[match[0]] else ""
        parts += [escape(text[end : match.start()]), f"<mark{kind}>{escape(match[0])}</mark>"]
        end = match.end()
    return "".join([*parts, escape(text[end:])])
