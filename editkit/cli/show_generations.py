"""Show what edited models wrote on one case, one column per editor.

On a terminal, the new object is bold and green and the true one is underlined. Metrics that
generate text store it: try 'editkit run-benchmark atlas-generation'. With --judge, what a judge was
sent about these texts, and what it replied.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from editkit.cli.arguments import add_examples, add_flag, add_flags, positive
from editkit.data_types import EditRequest
from editkit.report.generations import CaseTexts, texts_on_case
from editkit.safe_text import one_line
from editkit.terminal import columns, rendered

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_NARROWEST = 24  # characters of a column; narrower ones are hard to read
_FALLBACK = (100, 24)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("case", type=int, metavar="CASE", help="case id of a record")
    add_flag(
        parser,
        "--editor",
        help="only these editors, in this order, or labels of the table (default: all)",
    )
    add_flags(parser, "--out")
    add_flag(
        parser,
        "--width",
        type=positive,
        metavar="N",
        help="characters per line (default: the terminal's width)",
    )
    add_flag(
        parser,
        "--judge",
        action="store_true",
        help="show what a judge was sent and what it replied",
    )
    add_flag(parser, "--json")
    add_examples(parser, "editkit show-generations 0 -e rome,ft")


def run(args: argparse.Namespace) -> int:
    """Show the texts."""
    cases = texts_on_case(args.out, args.case, args.editor)
    if args.json:
        sys.stdout.write(json.dumps(_document(args.case, cases), indent=2) + "\n")
        return 0
    width = args.width or shutil.get_terminal_size(_FALLBACK).columns
    terminal = sys.stdout.isatty()
    section = _correspondence if args.judge else _section
    shown = [rendered(*section(case, width), terminal=terminal, width=width) for case in cases]
    sys.stdout.write("\n".join(shown))
    return 0


def _section(case: CaseTexts, width: int) -> Iterator[RenderableType]:
    """The texts of one run, as rich shows them."""
    from rich.padding import Padding
    from rich.text import Text

    marks = _marks(case.requests)
    yield from _heading(case, marks)
    yield ""
    labels, keys = list(case.written), case.keys
    in_columns = (width - 3 * (len(labels) - 1)) // len(labels) >= _NARROWEST
    for key in keys:
        texts = [case.written[label].get(key, []) for label in labels]
        if len(keys) > 1:
            yield from ([""] if key != keys[0] else [])
            yield Text(one_line(key), "italic")
        if in_columns:
            rows = zip_longest(*texts, fillvalue="")
            yield columns(labels, [[_marked(text, marks) for text in row] for row in rows])
            continue
        for number in range(max(map(len, texts))):
            yield "-" * width
            for label, written in zip(labels, texts, strict=True):
                yield Text(one_line(label), "bold")
                if number < len(written):
                    yield Padding(_marked(written[number], marks), (0, 0, 0, 2))


def _correspondence(case: CaseTexts, width: int) -> Iterator[RenderableType]:
    """What a judge was sent about one run's texts, and what it replied."""
    from rich.padding import Padding
    from rich.text import Text

    yield from _heading(case, _marks(case.requests))
    exchanges = [
        (f"{label}, {kind} {number}", *exchange)
        for label, by_kind in case.judged.items()
        for kind, of_kind in by_kind.items()
        for number, exchange in enumerate(of_kind, 1)
    ]
    if not exchanges:
        yield "nothing was sent to a judge: none was asked, or it compares by a rule"
    for title, sent, received in exchanges:
        yield "-" * width
        yield Text(one_line(title), "bold")
        for line in sent.strip().splitlines():
            yield Padding(Text(one_line(line)), (0, 0, 0, 2))
        yield Text(f"reply: {one_line(received)}")


def _heading(case: CaseTexts, marks: Mapping[str, str]) -> Iterator[RenderableType]:
    run = case.run
    place = f"case {case.case_id} of {run.dataset['name']}, {run.benchmark} on {run.model['name']}"
    if not case.requests:
        yield one_line(place)
        return
    yield one_line(f"{place}:")
    for request in case.requests:
        true = f", not {request.target_true}" if request.target_true else ""
        yield _marked(f"{request.statement}{true}", marks)


def _marks(requests: Sequence[EditRequest]) -> dict[str, str]:
    """Styles by object; where both match, the new object's style is added to the true one's."""
    true = {request.target_true: "underline" for request in requests if request.target_true}
    return {**true, **{request.target_new: "bold green" for request in requests}}


def _marked(text: str, marks: Mapping[str, str]) -> Text:
    """A text with single spaces, nothing that controls a terminal, and its objects marked."""
    from rich.text import Text

    marked = Text(" ".join(one_line(text).split()))
    for words, style in marks.items():
        pattern = r"\s+".join(map(re.escape, one_line(words).split()))
        if pattern:
            marked.highlight_regex(re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE), style)
    return marked


def _document(case_id: int, cases: list[CaseTexts]) -> dict[str, object]:
    return {
        "schema": 1,
        "case_id": case_id,
        "runs": [
            {
                "benchmark": each.run.benchmark,
                "model": each.run.model["name"],
                "dataset": each.run.dataset["name"],
                "request": each.requests[0].to_dict() if each.requests else None,
                "also": [request.to_dict() for request in each.requests[1:]],
                "texts": each.texts,
                "written": each.written,
                "judge": {
                    label: {
                        kind: [{"sent": sent, "received": received} for sent, received in of_kind]
                        for kind, of_kind in by_kind.items()
                    }
                    for label, by_kind in each.judged.items()
                    if by_kind
                },
            }
            for each in cases
        ],
    }
