"""Show what edited models wrote on one case, editor beside editor.

On a terminal the new object is bold and green, the true one is underlined. Texts are stored by
metrics that let the model write: 'editkit run-benchmark atlas-generation' has them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from editkit.cli.wrapping import column_width, columns, wrapped
from editkit.data_types import EditRequest
from editkit.report.generations import CaseTexts, texts_on_case

_NEW, _TRUE, _BOLD, _END = "\x1b[1;32m", "\x1b[4m", "\x1b[1m", "\x1b[0m"
_NARROWEST = 24  # columns; narrower ones are hard to read
_FALLBACK = (100, 24)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("case", type=int, metavar="CASE", help="case id of a record")
    add("--editor", action="append", default=[], metavar="E", help="only this one; repeatable")
    add("--out", type=Path, default=Path("editkit-results"), metavar="DIR", help="%(default)s")
    add("--width", type=int, metavar="N", help="columns to use; the terminal's by default")
    add("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Show the texts."""
    cases = texts_on_case(args.out, args.case, args.editor)
    if args.json:
        sys.stdout.write(json.dumps(_document(args.case, cases), indent=2) + "\n")
        return 0
    width = args.width or shutil.get_terminal_size(_FALLBACK).columns
    terminal = sys.stdout.isatty()
    sys.stdout.write("\n".join(_section(each, width, terminal=terminal) for each in cases))
    return 0


def _section(found: CaseTexts, width: int, *, terminal: bool) -> str:
    """The texts of one run."""
    marks = _marks(found.request) if terminal else {}
    lines = [*_heading(found, width, marks), ""]
    labels, texts = list(found.texts), list(found.texts.values())
    side_by_side = column_width(len(labels), width) >= _NARROWEST
    if side_by_side:
        heads = columns(labels, width, dict.fromkeys(labels, _BOLD) if terminal else {})
        lines += heads
    for number in range(max(map(len, texts))):
        written_here = [some[number] if number < len(some) else "" for some in texts]
        if side_by_side:
            lines += ["-" * width, *columns(written_here, width, marks)]
            continue
        lines.append("-" * width)
        for label, text in zip(labels, written_here, strict=True):
            lines += [f"{_BOLD}{label}{_END}" if terminal else label]
            lines += [f"  {line}" for line, _ in wrapped(text, max(width - 2, 1), marks)]
    return "\n".join(lines) + "\n"


def _heading(found: CaseTexts, width: int, marks: dict[str, str]) -> list[str]:
    run = found.run
    place = f"case {found.case_id} of {run.dataset['name']}, {run.benchmark} on {run.model['name']}"
    if found.request is None:
        return [place]
    request = found.request
    true = f", not {request.target_true}" if request.target_true else ""
    edit = f"{request.statement}{true}"
    return [f"{place}:", *(line for line, _ in wrapped(edit, width, marks))]


def _marks(request: EditRequest | None) -> dict[str, str]:
    if request is None:
        return {}
    true = {request.target_true: _TRUE} if request.target_true else {}
    return {**true, request.target_new: _NEW}


def _document(case_id: int, found: list[CaseTexts]) -> dict[str, object]:
    return {
        "schema": 1,
        "case_id": case_id,
        "runs": [
            {
                "benchmark": each.run.benchmark,
                "model": each.run.model["name"],
                "dataset": each.run.dataset["name"],
                "request": each.request.to_dict() if each.request else None,
                "texts": each.texts,
            }
            for each in found
        ],
    }
