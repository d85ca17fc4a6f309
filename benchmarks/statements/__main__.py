"""Print which statements of the ROME paper hold in your results, as a table in Markdown.

Reads the output folders DIR/NAME of experiments (``editkit-results`` by default, where
``editkit run-experiment NAME`` writes them) and computes nothing new. Differences are paired over
records or facts and have 95% intervals; a statement is open if the interval contains zero.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from editkit.errors import UsageError
from editkit_benchmarks.statements.results import MissingResultsError, Results
from editkit_benchmarks.statements.statements import STATEMENTS, Statement

_VERDICTS = {True: "yes", False: "**no**", None: "open"}


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.statements", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("editkit-results"))
    folder: Path = parser.parse_args(arguments).folder
    names = {each.experiment for each in STATEMENTS}
    if not any((folder / name).is_dir() for name in names):
        sys.stderr.write(
            f"error: {folder} contains no results of the experiments that statements are about.\n"
            "  hint: Run 'editkit run-experiment counterfact', and give the parent of its output "
            f"folder{': ' + str(folder.parent) if folder.name in names else ''}.\n"
        )
        return UsageError.exit_code
    results = {name: Results(folder / name) for name in names}
    rows = [_row(statement, results[statement.experiment]) for statement in STATEMENTS]
    sys.stdout.write(table(rows))
    return 0


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table of rows, with its header."""
    head = ("statement", "evidence in the paper", "experiment", "holds here", "evidence here")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(statement: Statement, results: Results) -> tuple[str, ...]:
    about = statement.text, statement.evidence, f"`{statement.experiment}`"
    try:
        verdict = statement.check(results)
    except MissingResultsError as error:
        missing = f"run `editkit run-experiment {statement.experiment}`: {error} is missing"
        return *about, "-", missing
    return *about, _VERDICTS[verdict.holds], verdict.numbers


if __name__ == "__main__":
    sys.exit(main())
