"""Short reprs: one line that says what a value is, and tables for notebooks.

A repr reads nothing from disk, computes nothing on a model, and never fails, whatever texts a value
holds or lacks.
"""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from editkit.redaction import redacted
from editkit.safe_text import one_line, shortened

__all__ = [
    "arrow",
    "changed_fields",
    "changed_values",
    "counted",
    "html_table",
    "listed",
    "notebook_html",
    "quoted",
    "rounded",
    "summary",
]

_T = TypeVar("_T")
_LONGEST = 300  # characters of a repr
_LONGEST_TEXT = 80
_LONGEST_FIELD = 100


def summary(describe: Callable[[_T], str]) -> Callable[[_T], str]:
    """A ``__repr__`` with the described text on one line, in angle brackets."""

    @functools.wraps(describe)
    def short(self: _T) -> str:
        try:
            return f"<{shortened(one_line(redacted(describe(self))), _LONGEST)}>"
        except Exception:  # a value that is half built, or of a subclass with other attributes
            return object.__repr__(self)

    return short


def notebook_html(describe: Callable[[_T], str]) -> Callable[[_T], str]:
    """A ``_repr_html_``; where it fails, because there is nothing to plot, it is the repr."""

    @functools.wraps(describe)
    def shown(self: _T) -> str:
        try:
            return describe(self)
        except Exception:
            return f"<div>{_escaped(repr(self))}</div>"

    return shown


def changed_fields(self: Any) -> str:
    """A ``__repr__`` of dataclasses: the call that makes the value, without defaults."""
    try:
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING or value != field.default:
                shown.append(f"{field.name}={_short(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"
    except Exception:
        return object.__repr__(self)


def _short(value: object) -> str:
    if isinstance(value, str):
        return repr(shortened(value, _LONGEST_FIELD))
    return shortened(repr(value), _LONGEST_FIELD)


def quoted(text: str, longest: int = _LONGEST_TEXT) -> str:
    """A text in quotes, cut to a readable length."""
    return f'"{shortened(one_line(text), longest)}"'


def arrow(prompt: str, answer: str) -> str:
    """``"The Space Needle is in the city of" -> "Seattle"``."""
    return f"{quoted(prompt)} -> {quoted(answer)}"


def counted(n: int, noun: str) -> str:
    """``1 fact``, ``2 facts``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def rounded(n: int) -> str:
    """``950``, ``8.9M``, ``1.5B``."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if n >= size:
            return f"{n / size:.1f}{unit}"
    return f"{n:,}"


def listed(parts: Sequence[str], most: int = 3) -> str:
    """The first parts with commas, and how many more there are."""
    more = f", and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more


def html_table(
    title: str, rows: Sequence[Sequence[object]], head: Sequence[str] = (), note: str = ""
) -> str:
    """A table for a notebook; every text is escaped.

    Args:
        title: What the table shows.
        rows: The cells of each row; with ``head``, as many as it has.
        head: The columns' titles.
        note: A line below the table.
    """

    def cells(row: Sequence[object], tag: str) -> str:
        inside = "".join(
            f'<{tag} style="text-align: left">{_escaped(str(cell))}</{tag}>' for cell in row
        )
        return f"<tr>{inside}</tr>"

    body = "".join(cells(row, "td") for row in rows)
    top = f"<thead>{cells(head, 'th')}</thead>" if head else ""
    below = f"<div>{_escaped(note)}</div>" if note else ""
    return (
        f"<div><strong>{_escaped(title)}</strong></div>"
        f"<table>{top}<tbody>{body}</tbody></table>{below}"
    )


def _escaped(text: str) -> str:
    return html.escape(shortened(one_line(redacted(text)), _LONGEST))


def changed_values(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested values as ``optimizer.lr=0.1``."""
    shown: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            shown += changed_values(value, f"{prefix}{name}.")
        else:
            shown.append(f"{prefix}{name}={_short(value)}")
    return shown
