"""Tables in LaTeX that fit the text of a page; they use the packages booktabs and xcolor.

Widths are estimated from those of Computer Modern at 9 points. A table has the columns that fit
(:mod:`editkit.report.columns`); what still does not fit, or has too many lines for a page, is
continued in further tables. Notes are below a table, in a minipage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from editkit.report.columns import (
    kept_columns,
    legend_of,
    narrowed,
    note_on_left_out,
)
from editkit.report.lines import SIDES_NOTE
from editkit.report.sections import Section
from editkit.report.tables import Entry, Line, Table
from editkit.safe_text import one_line
from editkit.terminal import column_blocks

__all__ = ["ARTICLE", "report"]

ARTICLE = 345
"""Width of the text of a plain article at 10 points, in points."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "×": r"$\times$",
}
_HEAD = r"""% In the preamble: \usepackage{booktabs} \usepackage{xcolor}
"""
_MOST_LINES = 36  # of a table on one page
_SEPARATION = 4.0  # \tabcolsep: points on both sides of a column
_SIZE, _LINE, _SCRIPT = 9.0, 12.5, 6.0  # points
_LONG_WORD = 24  # characters that no line break divides
_SIDES = "Sub- and superscripts: how far the 95% interval extends below and above the mean."


def report(
    sections: Sequence[Section],
    *,
    against: str | None,
    wide: bool = False,
    text_width: int = ARTICLE,
) -> str:
    """The tables of every run, each in table environments.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
        wide: Whether all columns are shown, in several tables where they do not fit into one.
        text_width: Width of the page's text, or of a column of it, in points.
    """
    parts = [_HEAD]
    labels: set[str] = set()
    for section in sections:
        parts += [f"% warning: {one_line(warning)}\n" for warning in section.warnings]
        explained: set[str] = set()
        for table in section.tables(against):
            label = _label(f"{section.run.benchmark}-{table.name}", labels)
            kept = list(range(len(table.head)))
            if not wide:
                kept = kept_columns(table, _widths(table), text_width, 2 * _SEPARATION)
            shown = narrowed(table, kept)
            parts += [f"% warning: {one_line(warning)}\n" for warning in table.warnings]
            if left_out := note_on_left_out(table, kept):
                parts.append(f"% {one_line(left_out)} --wide shows all columns.\n")
            legend = legend_of(shown, explained)
            notes = [*([f"{legend}."] if legend else []), *table.legend()]
            notes = [_SIDES if note == SIDES_NOTE else note for note in notes]
            explained |= table.scores.keys()
            caption = f"{table.title}; {section.title}."
            parts += _environments(shown, caption, label, notes, text_width)
    return "\n".join(parts)


def _environments(
    table: Table, caption: str, label: str, notes: Sequence[str], text_width: float
) -> Iterator[str]:
    """The table; in parts if it is too wide or too long for a page."""
    keys = _key_columns(table, text_width)
    widths = [*(width for _, width in keys), *_widths(table)[table.keys :]]
    columns = list(column_blocks(widths, text_width, 2 * _SEPARATION, table.keys))
    starts = range(0, len(table.lines), _MOST_LINES)
    parts = [(block, start) for start in starts for block in columns]
    for i, (block, start) in enumerate(parts):
        own, last = narrowed(table, block), i == len(parts) - 1
        part = f" (part {i + 1} of {len(parts)})." if len(parts) > 1 else "."
        alignment = [form for form, _ in keys]
        alignment += ["l" if left else "r" for left in own.left_aligned[table.keys :]]
        lines = own.lines[start : start + _MOST_LINES]
        below = "\\par\n".join(map(_prose, notes)) if last else ""
        yield "\n".join(
            [
                r"\begin{table}",
                rf"\centering\fontsize{{{_SIZE:g}}}{{{_LINE:g}}}\selectfont",
                rf"\setlength{{\tabcolsep}}{{{_SEPARATION:g}pt}}",
                rf"\caption{{{_prose(caption.rstrip('.') + part)}}}",
                rf"\label{{tab:{label}{f'-part-{i + 1}' if i else ''}}}",
                r"\par\medskip",
                rf"\begin{{tabular}}{{@{{}}{''.join(alignment)}@{{}}}}",
                r"\toprule",
                _line([escaped(head) for head in own.head]),
                r"\midrule",
                *(
                    _line(
                        [
                            _wrapping(entry) if form.startswith("p") else _text(entry, line)
                            for entry, form in zip(line.entries, alignment, strict=True)
                        ]
                    )
                    for line in lines
                ),
                r"\bottomrule",
                r"\end{tabular}",
                *([_notes(below)] if below else []),
                r"\end{table}",
                "",
            ]
        )


def _notes(text: str) -> str:
    return (
        "\\par\\medskip\n\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright\n"
        f"{text}\n\\end{{minipage}}"
    )


def _key_columns(table: Table, text_width: float) -> list[tuple[str, float]]:
    """Alignment and width of the columns that identify a line; long texts wrap."""
    widths, left = _widths(table)[: table.keys], table.left_aligned
    too_wide = sum(widths) > text_width / 2
    longest = text_width / 2 / max(1, sum(left[: table.keys])) - 2 * _SEPARATION
    columns = []
    for i, (width, is_text) in enumerate(zip(widths, left, strict=False)):
        texts = [table.head[i], *(line.entries[i].text for line in table.lines)]
        words = [part for text in texts for word in text.split() for part in _parts(word)]
        limit = max(longest, *map(_width_of_text, words)) if words else longest
        wraps = too_wide and is_text and width > limit
        columns.append(
            (rf"p{{{limit:.0f}pt}}", limit) if wraps else ("l" if is_text else "r", width)
        )
    return columns


def escaped(text: str) -> str:
    """Text that LaTeX typesets literally, in one paragraph."""
    return "".join(_SPECIAL.get(character, character) for character in one_line(text))


def _prose(text: str) -> str:
    """Text of a caption or a note, which may break in long names and paths."""
    words = re.sub(r"\bx 100\b", "× 100", one_line(text)).split(" ")
    escapes = (r"\allowbreak{}".join(map(escaped, _parts(word))) for word in words)
    return " ".join(escapes).replace(r" $\times$ 100", r"~$\times$~100")


def _parts(word: str) -> list[str]:
    """A long word in parts that may be on different lines."""
    if len(word) <= _LONG_WORD:
        return [word]
    return re.findall(rf".{{1,{_LONG_WORD}}}?(?:[-/:=.,_]|$)|.{{1,{_LONG_WORD}}}", word)


def _line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _text(entry: Entry, line: Line) -> str:
    text = escaped(entry.text.strip())
    indent = r"\quad " if line.faint and entry is line.entries[0] else ""
    if text.startswith(("-", "+")) and len(entry.text) > 1:
        text = f"${text[0]}${text[1:]}"
    if entry.bold:
        text = rf"\textbf{{{text}}}"
    if entry.spread:
        text += _spread(entry.spread)
    if entry.failed:
        text = rf"\textcolor{{red}}{{{text}}}!"
    elif line.faint:
        text = rf"\textcolor{{gray}}{{{text}}}"
    return indent + text


def _wrapping(entry: Entry) -> str:
    return rf"\raggedright {_prose(entry.text)}"


def _spread(spread: str) -> str:
    """``±1.7`` as a subscript; ``-4.2/+1.8`` as a subscript and a superscript."""
    if spread.startswith("±"):
        return rf"${{}}_{{\pm {spread[1:]}}}$"
    below, above = spread.split("/")
    return rf"${{}}_{{{below}}}^{{{above}}}$"


def _label(name: str, labels: set[str]) -> str:
    """A label that no other table has."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower())
    label, n = plain, 1
    while label in labels:
        n += 1
        label = f"{plain}-{n}"
    labels.add(label)
    return label


# ---------------------------------------------------------------- widths


def _widths(table: Table) -> list[float]:
    """Width of each column in points."""
    lines = [[_width_of_text(head) for head in table.head]]
    lines += [[_width_of_entry(entry, line) for entry in line.entries] for line in table.lines]
    return [max(column) for column in zip(*lines, strict=True)]


def _width_of_entry(entry: Entry, line: Line) -> float:
    text = _width_of_text(entry.text.strip()) * (1.15 if entry.bold else 1.0)
    sides = [_width_of_text(side, _SCRIPT) for side in entry.spread.split("/")]
    indent = _SIZE if line.faint and entry is line.entries[0] else 0.0
    return text + max(sides) + indent + (3.0 if entry.failed else 0.0)


def _width_of_text(text: str, size: float = _SIZE) -> float:
    """Width of a text in Computer Modern, rather too wide than too narrow.

    Args:
        text: The text.
        size: Of the font, in points; small fonts are wider in proportion.
    """
    return size * (1.03 if size == _SIZE else 1.24) * sum(map(_width_of_character, text))


def _width_of_character(character: str) -> float:
    """Width of a character of Computer Modern at 10 points, in em."""
    for characters, width in (
        ("ijl.,:;!'|", 0.28),
        ("()[]rstfI ", 0.4),
        ("mMwW", 0.95),
        ("-±+<>=→·×", 0.8),  # a leading hyphen is a minus sign
    ):
        if character in characters:
            return width
    if character.isupper() or not character.isascii():
        return 0.78 if character.isascii() else 1.0
    return 0.5 if character.isdecimal() else 0.56
