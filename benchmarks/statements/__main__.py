"""``python -m editkit_benchmarks.statements [DIR]``: which statements of the paper hold here.

Reads the output folders of experiments, DIR/NAME each (``editkit-results`` by default, where
``editkit run-experiment NAME`` leaves them), and prints a table in Markdown. Nothing is computed
anew. A difference is paired over records or facts and comes with its 95% interval; a statement is
open where the interval holds zero.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from editkit.errors import UsageError
from editkit_benchmarks.statements.results import MissingResultsError, Results
from editkit_benchmarks.statements.statements import STATEMENTS, Statement

_WORDS = {True: "yes", False: "**no**", None: "open"}


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.statements", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("editkit-results"))
    folder: Path = parser.parse_args(arguments).folder
    names = {each.experiment for each in STATEMENTS}
    if not any((folder / name).is_dir() for name in names):
        sys.stderr.write(
            f"error: {folder} holds no output folder of an experiment that statements are tried "
            "on.\n  try: Run 'editkit run-experiment counterfact', and name the folder that "
            f"its output folder is in{': ' + str(folder.parent) if folder.name in names else ''}.\n"
        )
        return UsageError.exit_code
    results = {name: Results(folder / name) for name in names}
    rows = [_row(statement, results[statement.experiment]) for statement in STATEMENTS]
    sys.stdout.write(table(rows))
    return 0


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows in Markdown, below the table's head."""
    head = ("the paper says", "evidence there", "experiment", "holds here", "evidence here")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(statement: Statement, results: Results) -> tuple[str, ...]:
    about = statement.says, statement.paper, f"`{statement.experiment}`"
    try:
        verdict = statement.check(results)
    except MissingResultsError as error:
        missing = f"`editkit run-experiment {statement.experiment}` has not left {error} yet"
        return *about, "-", missing
    return *about, _WORDS[verdict.holds], verdict.numbers


if __name__ == "__main__":
    sys.exit(main())
