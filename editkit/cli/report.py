"""Print the results in an output folder: the papers' table, paired differences, scores by relation.

The table has intervals, the best editor of each column in bold, clear failures marked, and
published numbers next to ours. It can be printed while a run is in progress. The HTML report is one
file that needs no network; it adds plots, the hardest records, what the edited models wrote, and
the figures and traces in the folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.benchmark.aggregate import SUMMARY
from editkit.benchmark.published import published_for
from editkit.benchmark.store import runs_in
from editkit.cli.arguments import add_alternative, add_examples, add_flag, positive
from editkit.errors import StoreError, UsageError, did_you_mean
from editkit.registry.plugins import default_registry
from editkit.report import latex
from editkit.report.sections import Section, sections_of
from editkit.report.tables import CELL_COLUMNS
from editkit.results import STORE_FILE, Run

if TYPE_CHECKING:
    from editkit.report.folder_figures import FolderContent

FORMATS = ("text", "markdown", "latex", "html", "csv")
_SUFFIXES = {
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
    add_flag(parser, "--out", group="", help="folder of results to show")
    add_alternative(parser, "--out", metavar="FOLDER")
    add_flag(
        parser,
        "--format",
        choices=FORMATS,
        help="format (default: from the suffix of --save, or else text)",
    )
    add_flag(
        parser,
        "--intervals",
        choices=("wilson", "paper"),
        help="wilson: within the range of a score; paper: 1.96 standard errors (default: wilson, "
        "but paper next to published numbers)",
    )
    add_flag(
        parser,
        "--columns",
        also=("--column",),
        several=True,
        metavar="C,...",
        help="columns to show, by head or key, in every format: S,ES,PS,NS (default: in text and "
        "LaTeX all that fit, elsewhere all)",
    )
    add_flag(parser, "--wide", help="print all columns, in text and LaTeX (default: what fits)")
    add_flag(
        parser,
        "--text-width",
        type=positive,
        default=latex.ARTICLE,
        metavar="PT",
        help="for latex: width of the page's text in points, such as 397 (NeurIPS), 219 (a column "
        f"of ACL) or 455 (both) (default: {latex.ARTICLE}, a plain article)",
    )
    add_flag(
        parser,
        "--against",
        metavar="E",
        complete="editor",
        help="editor to compare with (default: the best)",
    )
    add_flag(
        parser,
        "--save",
        also=("--to",),
        dest="to",
        shown_default=f"standard output; for html {_PAGE} in the folder of results",
    )
    add_examples(
        parser,
        "editkit report",
        "editkit report -o results --save table.tex",
        "editkit report --format html --against rome",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    registry = default_registry()
    inside = sorted(str(store.parent) for store in args.out.glob(f"*/{STORE_FILE}"))
    if inside and not (args.out / STORE_FILE).exists():
        raise StoreError(
            f"there is no store in {args.out}, but there are some in its subfolders.",
            hint=f"Name one of them: {', '.join(inside)}.",
        )
    target = args.to
    form = args.format or _format_of(target)
    folder = _folder_content(args.out) if form == "html" else None
    runs = _runs_in(args.out, folder)
    # CSV has both intervals, in columns of their own.
    intervals = args.intervals if form != "csv" else None
    published = [published_for(run, registry) for run in runs]
    sections = sections_of(runs, published, intervals, args.columns)
    _check_against(args.against, sections)
    _check_columns(args.columns, sections)
    if target is None and form == "html":
        target = args.out / _PAGE
    terminal = target is None and sys.stdout.isatty()
    text = _written(sections, form, args, folder, terminal=terminal)
    if target is None:
        sys.stdout.write(text)
    else:
        _write(target, text)
        sys.stdout.write(f"{target}\n")
    return 0


def _folder_content(out: Path) -> FolderContent:
    from editkit.report.folder_figures import folder_content

    return folder_content(out)


def _runs_in(out: Path, folder: FolderContent | None) -> Sequence[Run]:
    """The runs in a folder; none if a page shows its figures alone.

    Args:
        out: The folder.
        folder: Its figures, for a page.
    """
    has_store = (out / STORE_FILE).exists()
    if folder and not has_store:
        return []
    figures = folder is None and _folder_content(out)
    if has_store or not figures:
        runs = runs_in(out)
        if runs or folder:
            return runs
    raise StoreError(
        f"{'the store in ' if has_store else ''}{out} has no benchmark results yet.",
        hint="For a page with its figures and traces, add --format html."
        if figures
        else f"Run 'editkit run-benchmark --out {out}' first.",
    )


def _format_of(target: Path | None) -> str:
    """The format for a file's suffix."""
    if target is None or not target.suffix:
        return "text"
    form = _SUFFIXES.get(target.suffix.lower())
    if form is None:
        raise UsageError(
            f"--to: got {str(target)!r}, and no format has the suffix {target.suffix!r}.",
            hint=f"Use one of {', '.join(_SUFFIXES)}, or give --format.",
        )
    return form


def _written(
    sections: Sequence[Section],
    form: str,
    args: argparse.Namespace,
    folder: FolderContent | None,
    *,
    terminal: bool,
) -> str:
    against: str | None = args.against
    if form == "text":
        from editkit.report import text as text_report

        return text_report.report(sections, against=against, terminal=terminal, wide=args.wide)
    if form == "csv":
        from editkit.report import csv_table as spreadsheet

        return spreadsheet.report(sections, against=against)
    if form == "markdown":
        from editkit.report import markdown

        return markdown.report(sections, against=against)
    if form == "latex":
        return latex.report(sections, against=against, wide=args.wide, text_width=args.text_width)
    from editkit.report import html_page

    if folder is None:
        raise AssertionError(form)
    return html_page.report(sections, against=against, folder=folder)


def _check_against(against: str | None, sections: Sequence[Section]) -> None:
    if against is None:
        return
    results = [result for section in sections for result in section.results]
    known = {each for result in results for each in (result.name, result.label, result.editor)}
    if against not in known:
        raise UsageError(
            f"--against: no run here has an editor {against!r}.",
            hint=did_you_mean(against, sorted(known)) or f"Known: {', '.join(sorted(known))}.",
        )


def _check_columns(columns: Sequence[str], sections: Sequence[Section]) -> None:
    runs = [section.run for section in sections]
    scores = [SUMMARY, *(s for run in runs for s in (*run.scores, *run.model_scores))]
    heads = [*(score.label for score in scores if score.label), *CELL_COLUMNS]
    known = {*heads, *(score.key for score in scores)}
    for column in columns:
        if column not in known:
            raise UsageError(
                f"--columns: no run here has a column or a score {column!r}.",
                hint=did_you_mean(column, sorted(known))
                or f"Columns: {', '.join(dict.fromkeys(heads))}.",
            )


def _write(target: Path, text: str) -> None:
    from editkit.storage.cache import write_atomically

    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise UsageError(
            f"cannot write the report to {target}: {error.strerror or error}.",
            hint="Choose another file with --to.",
        ) from error
