"""Print what an output folder holds as the papers' table: with intervals, the best in bold, clear
failures marked, published numbers beside ours; then paired differences and scores by relation.

Works at any time, also while a run goes on. The HTML report is one file that needs no network; it
adds plots, the hardest records and what the edited models wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from editkit.benchmark.published import published_for
from editkit.benchmark.store import runs_in
from editkit.errors import StoreError, UsageError, did_you_mean
from editkit.registry.plugins import default_registry
from editkit.report import Section, sections_of
from editkit.results import STORE_FILE

FORMATS = ("text", "markdown", "latex", "html", "csv")
_ENDINGS = {
    ".txt": "text",
    ".md": "markdown",
    ".tex": "latex",
    ".html": "html",
    ".htm": "html",
    ".csv": "csv",
}
_PAGE = "report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add(
        "out",
        type=Path,
        nargs="?",
        default=Path("editkit-results"),
        metavar="OUT",
        help="output folder of benchmark runs, %(default)s by default",
    )
    add("--format", choices=FORMATS, help="by default what the ending of FILE says, or text")
    add("--against", metavar="E", help="compare with this editor; the best one by default")
    add("--to", type=Path, metavar="FILE", help=f"write there; html goes to OUT/{_PAGE} by default")


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    registry = default_registry()
    inside = sorted(str(store.parent) for store in args.out.glob(f"*/{STORE_FILE}"))
    if inside and not (args.out / STORE_FILE).exists():
        raise StoreError(
            f"there is no store in {args.out}, but in folders of it.",
            hint=f"Name one of them: {', '.join(inside)}.",
        )
    runs = runs_in(args.out)
    if not runs:
        raise StoreError(
            f"the store in {args.out} holds no results of a benchmark yet.",
            hint=f"Run 'editkit run-benchmark --out {args.out}' first. Average traces have their "
            "pictures and tables in files of their own, in its folder figures or traces.",
        )
    sections = sections_of(runs, [published_for(run, registry) for run in runs])
    _check_against(args.against, sections)
    target = args.to
    form = args.format or _format_of(target)
    if target is None and form == "html":
        target = args.out / _PAGE
    terminal = target is None and sys.stdout.isatty()
    text = _written(sections, form, args.against, terminal=terminal)
    if target is None:
        sys.stdout.write(text)
    else:
        _write(target, text)
        sys.stdout.write(f"{target}\n")
    return 0


def _format_of(target: Path | None) -> str:
    """The format that a file's ending stands for."""
    if target is None or not target.suffix:
        return "text"
    form = _ENDINGS.get(target.suffix.lower())
    if form is None:
        raise UsageError(
            f"--to is {str(target)!r}, and {target.suffix!r} is the ending of no format.",
            hint=f"Use one of {', '.join(_ENDINGS)}, or name the format with --format.",
        )
    return form


def _written(sections: Sequence[Section], form: str, against: str | None, *, terminal: bool) -> str:
    if form == "text":
        from editkit.report import terminal as text_report

        return text_report.report(sections, against=against, terminal=terminal)
    if form == "csv":
        from editkit.report import csv_table as spreadsheet

        return spreadsheet.report(sections, against=against)
    if form == "markdown":
        from editkit.report import markdown

        return markdown.report(sections, against=against)
    if form == "latex":
        from editkit.report import latex

        return latex.report(sections, against=against)
    from editkit.report import html_page

    return html_page.report(sections, against=against)


def _check_against(against: str | None, sections: Sequence[Section]) -> None:
    if against is None:
        return
    known = {label for section in sections for label in section.labels}
    known |= {cell.editor for section in sections for cell in section.run.cells}
    if against not in known:
        raise UsageError(
            f"--against is {against!r}, and no run here has such an editor.",
            hint=did_you_mean(against, sorted(known)) or f"There are {', '.join(sorted(known))}.",
        )


def _write(target: Path, text: str) -> None:
    from editkit.storage.cache import write_atomically

    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise UsageError(
            f"the report cannot be written to {target}: {error.strerror or error}.",
            hint="Choose another file with --to.",
        ) from error
