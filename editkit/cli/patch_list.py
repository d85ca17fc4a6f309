"""List the patches of a ledger: what they write, and who applied or reverted them when."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_examples, add_flag, add_flags
from editkit.errors import LedgerError
from editkit.safe_text import one_line
from editkit.terminal import aligned

if TYPE_CHECKING:
    from editkit.patches.ledger import Ledger
    from editkit.patches.ledger_state import LedgerEntry, LogLine

EXIT_DAMAGED = 1
_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_flag(parser, "--ledger", required=True)
    add_examples(parser, "editkit patch list --ledger patched --log")
    add_flag(parser, "--log", action="store_true", help="print every action, oldest first")
    add_flag(
        parser,
        "--check",
        action="store_true",
        help="read all files of the ledger and of the base model, and report what has changed",
    )
    add_flags(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Print the list; the exit code is 1 if the check finds damage."""
    from editkit.patches.ledger import Ledger

    ledger = Ledger(args.ledger)
    problems = ledger.check() if args.check else None
    try:
        entries, log = ledger.entries, ledger.log()
    except LedgerError:
        if problems is None:
            raise
        entries, log = (), ()
    if problems is None:
        try:
            _ = ledger.model  # compares the files' sizes and times with the record
        except LedgerError as error:
            _log.warning("%s", error)
    if args.json:
        document = _document(ledger, entries, log if args.log else None, problems)
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(_text(ledger, entries, log if args.log else None, problems))
    return EXIT_DAMAGED if problems else 0


# ---------------------------------------------------------------- text


def _text(
    ledger: Ledger,
    entries: Sequence[LedgerEntry],
    log: Sequence[LogLine] | None,
    problems: Sequence[str] | None,
) -> str:
    applied = sum(entry.applied for entry in entries)
    parts = [f"{applied} of {len(entries)} patches applied to {ledger.base}\n"]
    if entries:
        rows = [("no.", "state", "when", "who", "editor", "digest", "fact")]
        parts += ["\n", aligned([*rows, *map(_row, entries)])]
    if log is not None:
        parts += ["\n", aligned([("when", "who", "action", "patch"), *map(_action, log)])]
    if problems is not None:
        parts += ["\n", *_check(problems)]
    return "".join(parts)


def _row(entry: LedgerEntry) -> tuple[str, ...]:
    last = entry.reverted or entry.line
    state = "applied" if entry.applied else "reverted"
    forced = " (forced)" if entry.line.forced else ""
    return (
        str(entry.number),
        f"{state}{forced}",
        last.time,
        last.by,
        entry.line.editor,
        entry.digest[:12],
        entry.fact,
    )


def _action(line: LogLine) -> tuple[str, ...]:
    patch = "" if line.number is None else f"{line.number}: {'; '.join(line.facts)}"
    reasons = [f"forced: {reason}" for reason in line.forced]
    repaired = [f"repaired: {problem}" for problem in line.repaired]
    return line.time, line.by, line.action, "; ".join(filter(None, [patch, *reasons, *repaired]))


def _check(problems: Sequence[str]) -> Iterator[str]:
    for problem in problems:
        yield f"damaged: {one_line(problem)}\n"
    if not problems:
        yield "All files are as the ledger wrote them, and the base model has not changed.\n"


# ---------------------------------------------------------------- JSON


def _document(
    ledger: Ledger,
    entries: Sequence[LedgerEntry],
    log: Sequence[LogLine] | None,
    problems: Sequence[str] | None,
) -> dict[str, Any]:
    base = ledger.base
    return {
        "schema": 1,
        "ledger": str(ledger.folder),
        "model": {
            "name": base.name,
            "revision": base.revision,
            "path": base.path,
            "fingerprint": base.fingerprint,
        },
        "served": str(ledger.link),
        "patches": [_described(ledger, entry) for entry in entries],
        **({} if log is None else {"log": [line.to_dict() for line in log]}),
        **({} if problems is None else {"problems": list(problems)}),
    }


def _described(ledger: Ledger, entry: LedgerEntry) -> dict[str, Any]:
    line, reverted = entry.line, entry.reverted
    return {
        "number": entry.number,
        "state": "applied" if entry.applied else "reverted",
        "facts": list(entry.facts),
        "editor": line.editor,
        "digest": entry.digest,
        "file": str(ledger.folder / "patches" / line.file),
        "created": line.created,
        "applied": {"time": line.time, "by": line.by, "forced": list(line.forced)},
        "reverted": None if reverted is None else {"time": reverted.time, "by": reverted.by},
    }
