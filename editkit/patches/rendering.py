"""Patches as text for terminals: what one edit did, and several editors side by side.

Texts of models and files are untrusted: they cannot control a terminal
(:func:`editkit.safe_text.one_line`), and rich's markup is off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from editkit.patches.content import PatchContent
from editkit.patches.numerals import percent
from editkit.patches.overview import (
    Measure,
    groups_of,
    heading,
    measures_of,
    origin_line,
    sections_of,
)
from editkit.patches.verdict import Level, verdict_of
from editkit.reprs import counted
from editkit.safe_text import one_line
from editkit.terminal import rendered

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["Edited", "comparison_text", "facts_text", "patch_text"]

_NUMBER = 8  # characters of a column of numbers, with its gap
_WIDEST_EDITOR = 10
_LABEL = 28  # characters of a measure's name
_MOST_LINES = 20
_BAD = "red"
_LEVELS: Mapping[Level, str] = {"good": "green", "mixed": "yellow", "bad": "red", "unknown": ""}


def patch_text(content: PatchContent, *, width: int = 80, terminal: bool = False) -> str:
    """What an edit did, for a person.

    Args:
        content: The patch.
        width: Characters per line.
        terminal: Whether to colour it.
    """
    parts = [_text(heading(content), "bold"), *_details(content, width)]
    return rendered(*parts, terminal=terminal, width=width)


def comparison_text(
    contents: Sequence[PatchContent], *, width: int = 80, terminal: bool = False
) -> str:
    """Several patches for one fact: a column each, then the details of each.

    Arguments as for :func:`patch_text`.
    """
    parts: list[RenderableType] = [_text(heading(contents[0]), "bold"), ""]
    column = max(_NUMBER, *(min(len(each.editor), _WIDEST_EDITOR) + 2 for each in contents))
    fitting = max(1, (width - _LABEL) // column - 1)
    for start in range(0, len(contents), fitting):
        parts += [*_comparison(contents[start : start + fitting], column), ""]
    for content in contents:
        rule = f"---- {one_line(content.editor)} ".ljust(width, "-")
        parts += [rule, *_details(content, width, advice=False), ""]
    return rendered(*parts[:-1], terminal=terminal, width=width)


# ---------------------------------------------------------------- one patch


def _details(content: PatchContent, width: int, *, advice: bool = True) -> Iterator[RenderableType]:
    """What a patch did; advice is for a single editor: try others, set its values."""
    yield _text(origin_line(content), "dim")
    for section in sections_of(content):
        yield ""
        if section.heads:
            yield _row(section.title, section.heads, width, "bold")
        else:
            yield _text(section.title, f"bold {_LEVELS[section.level or 'unknown']}".strip())
        for line in section.lines[:_MOST_LINES]:
            mark, style = ("! ", _BAD) if line.good is False else ("  ", "")
            yield _row(f"{mark}{line.label}", line.numbers, width, style)
            if line.remark:
                yield _indented(line.remark, style, 6)
        if (more := len(section.lines) - _MOST_LINES) > 0:
            yield f"  … and {more} more"
        for label, text in section.texts if advice or section.level is None else ():
            yield _labelled(label, text)


# ---------------------------------------------------------------- several patches


def _comparison(contents: Sequence[PatchContent], column: int) -> Iterator[RenderableType]:
    width = _LABEL + column * (1 + len(contents))
    editors = [content.editor for content in contents]
    yield _row("", ["before", *editors], width, "bold", column=column)
    measured = [measures_of(content) for content in contents]
    nothing = Measure("", "-")
    for name in dict.fromkeys(name for each in measured for name in each):
        before = next(each[name].before for each in measured if name in each)
        after = [each.get(name, nothing).after for each in measured]
        yield _row(name, [before, *after], width, column=column)


# ---------------------------------------------------------------- many facts


class Edited(NamedTuple):
    """An edit of a table of facts.

    Attributes:
        label: What identifies it: the number of its fact, and the editor if there are several.
        fact: The fact in words.
        patch: The patch; None if there is none.
        problem: Why there is none.
    """

    label: str
    fact: str
    patch: PatchContent | None
    problem: str = ""


_COUNTS: tuple[tuple[str, str], ...] = (
    ("words", "wording"),
    ("neighb.", "neighbor"),
    ("others", "subject"),
)


def facts_text(edits: Sequence[Edited], *, width: int = 80, terminal: bool = False) -> str:
    """A line per edit of many facts, and the totals.

    Args:
        edits: The edits.
        width: Characters per line.
        terminal: Whether to colour it.
    """
    return rendered(*_facts(edits, width), terminal=terminal, width=width)


def _facts(edits: Sequence[Edited], width: int) -> Iterator[RenderableType]:
    first = max(len(each.label) for each in edits) + 2
    heads = ["new", *(head for head, _ in _COUNTS), "verdict"]
    yield _row(" " * first + "fact", heads, width, "bold")
    for each in edits:
        if each.patch is None:
            yield _labelled(each.label, f"{each.fact} failed: {each.problem}", _BAD, first)
            continue
        groups = {group.role: group for group in groups_of(each.patch)}
        counts = [groups[role].share if role in groups else "-" for _, role in _COUNTS]
        level = verdict_of(each.patch).level
        numbers = [percent(groups["edit"].checks[0].after), *counts, level]
        yield _row(f"{each.label.ljust(first)}{each.fact}", numbers, width, _LEVELS[level])
    levels = ["failed" if each.patch is None else verdict_of(each.patch).level for each in edits]
    named = [f"{levels.count(name)} {name}" for name in (*_LEVELS, "failed") if name in levels]
    yield ""
    yield _text(f"{counted(len(edits), 'edit')}: {', '.join(named)}.", "bold")
    yield _text(
        "new: probability of the new object. words: other wordings that follow the edit. "
        "neighb., others: neighbours and other facts of the subject that stayed.",
        "dim",
    )


# ---------------------------------------------------------------- lines


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(one_line(text), style)


def _row(
    label: str, numbers: Sequence[str], width: int, style: str = "", *, column: int = _NUMBER
) -> Text:
    """A label, cut if it is too long, and numbers in columns on its right."""
    from rich.text import Text

    shown = "".join(_fitted(number, column - 1).rjust(column) for number in numbers)
    return Text(f"{_fitted(label, width - len(shown), pad=True)}{shown}", style)


def _fitted(text: str, width: int, *, pad: bool = False) -> str:
    """A text on one line of at most that many cells; its middle is cut out if it is longer."""
    from rich.cells import cell_len, set_cell_size

    line = one_line(text)
    if cell_len(line) > width:
        end = line[-(width // 3) :]
        while cell_len(end) > width // 3:
            end = end[1:]
        line = set_cell_size(line, width - 1 - cell_len(end)).rstrip() + "…" + end.lstrip()
    return set_cell_size(line, width) if pad else line


def _indented(text: str, style: str = "", by: int = 2) -> RenderableType:
    from rich.padding import Padding

    return Padding(_text(text, style), (0, 0, 0, by))


def _labelled(label: str, text: str, style: str = "", column: int = 0) -> RenderableType:
    """A text, wrapped on the right of its label.

    Args:
        label: The label; if it is empty, the text is only indented.
        text: The text.
        style: Style of both.
        column: Characters up to the text; 0: two of indentation and the label's own.
    """
    from rich.padding import Padding
    from rich.table import Table

    shown = _text(" ".join(text.split()), style)
    if not label:
        return Padding(shown, (0, 0, 0, 2))
    grid = Table.grid(padding=0)
    grid.add_column(no_wrap=True, width=column or len("before") + 2)
    grid.add_column(overflow="fold")
    grid.add_row(_text(label, style or "dim"), shown)
    return grid if column else Padding(grid, (0, 0, 0, 2))
