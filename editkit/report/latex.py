"""Tables in LaTeX; they use the packages booktabs and xcolor."""

from __future__ import annotations

from collections.abc import Sequence

from editkit.report.sections import Section
from editkit.report.tables import Entry, Line, Table
from editkit.safe_text import one_line

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
}
_HEAD = r"""% In the preamble: \usepackage{booktabs} \usepackage{xcolor} \usepackage[T1]{fontenc}
"""


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """The tables of every run, each in a table environment.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
    """
    parts = [_HEAD]
    for section in sections:
        parts += [f"% warning: {one_line(warning)}\n" for warning in section.warnings]
        for table in section.tables(against):
            parts.append(_environment(section, table))
    return "\n".join(parts)


def _environment(section: Section, table: Table) -> str:
    about = section.title if table.name == "scores" else f"{table.title}. {section.title}"
    caption = " ".join([f"{about}.", *table.warnings, *table.legend()])
    columns = "".join("l" if left else "r" for left in table.left_aligned)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{tab:{_label(section.run.benchmark)}-{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _line([escaped(head) for head in table.head]),
            r"\midrule",
            *(_line([_text(entry, line) for entry in line.entries]) for line in table.lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text that LaTeX typesets literally, in one paragraph."""
    return "".join(_SPECIAL.get(character, character) for character in one_line(text))


def _line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _text(entry: Entry, line: Line) -> str:
    text = escaped(entry.text.strip())
    indent = r"\quad " if line.faint and entry is line.entries[0] else ""
    if entry.spread:
        text = rf"{text}\,{_spread(entry.spread)}"
    if text.startswith(("-", "+")) and len(entry.text) > 1:
        text = f"${text[0]}${text[1:]}"
    if entry.bold:
        text = rf"\textbf{{{text}}}"
    if entry.failed:
        text = rf"\textcolor{{red}}{{{text}}}!"
    elif line.faint:
        text = rf"\textcolor{{gray}}{{{text}}}"
    return indent + text


def _spread(spread: str) -> str:
    """``±1.7`` in parentheses; ``-4.2/+1.8`` as a subscript and a superscript."""
    if spread.startswith("±"):
        return rf"{{\scriptsize($\pm${spread[1:]})}}"
    below, above = spread.split("/")
    return rf"${{}}_{{{below}}}^{{{above}}}$"


def _label(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower())
