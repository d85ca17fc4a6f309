"""Print published results, alone or beside yours.

Without NAME, the list of tables. With NAME, these tables as they were printed, with their
intervals. With --beside FOLDER, every score that the results in FOLDER and a table have of the same
editor: ours, published, and the difference. A warning names what differs: model, dataset or
procedure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_examples, add_flag, path
from editkit.errors import UsageError, did_you_mean
from editkit.registry.plugins import default_registry

if TYPE_CHECKING:
    from editkit.benchmark.intervals import Estimate
    from editkit.benchmark.published import PublishedNumber, PublishedTable
    from editkit.data_types import Score
    from editkit.report.beside import Beside
    from editkit.report.sections import Section
    from editkit.report.tables import Table

_FORMATS = ("text", "markdown")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser, "name", nargs="*", metavar="NAME", help="tables of these files (default: list all)"
    )
    add_flag(
        parser,
        "--beside",
        type=path,
        metavar="FOLDER",
        complete="folder",
        help="folder of results to compare with (default: none)",
    )
    add_flag(
        parser,
        "--model",
        help="only tables of this model, such as gpt2-xl (default: all; with --beside that of the "
        "results, or else the first one of each file)",
    )
    add_flag(parser, "--format", choices=_FORMATS, default="text", help="format of the tables")
    add_flag(parser, "--json")
    add_examples(
        parser,
        "editkit published",
        "editkit published rome-2022-counterfact -m gpt2-xl",
        "editkit published --beside editkit-results/counterfact",
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables, or the comparison."""
    from editkit.benchmark.published import published_numbers, published_tables

    registry = default_registry()
    tables, numbers = published_tables(registry), published_numbers(registry)
    named = (*(each.name for each in tables), *(each.name for each in numbers))
    names = list(dict.fromkeys(named))
    for name in args.name:
        if name not in names:
            raise UsageError(
                f"there is no published table {name!r}.",
                hint=did_you_mean(name, names) or f"Known: {', '.join(names)}.",
            )
    chosen = [each for each in tables if each.name in (args.name or names)]
    if args.model is not None:
        chosen = _of_model(chosen, args.model)
    if args.beside is not None:
        return _beside(args, chosen)
    wanted = [
        each
        for each in numbers
        if each.name in (args.name or names) and args.model in (None, each.model)
    ]
    if args.json:
        return _print_json(
            {"tables": [_table_document(each) for each in chosen]}
            | {"numbers": [dataclasses.asdict(each) for each in wanted]}
        )
    if not args.name and args.model is None:
        sys.stdout.write(_listing(tables, numbers))
        return 0
    from editkit.report.beside import published_table

    scores = _scores()
    _print([published_table(each, scores) for each in chosen], args.format)
    if wanted:
        _print([_numbers_table(wanted)], args.format, first=not chosen)
    return 0


def _beside(args: argparse.Namespace, tables: Sequence[PublishedTable]) -> int:
    from editkit.benchmark.store import runs_in
    from editkit.report.beside import beside, beside_table
    from editkit.report.sections import sections_of

    runs = runs_in(args.beside)
    sections = sections_of(runs, [()] * len(runs), "paper")
    scores = _scores()
    matches = [
        (section, table, pairs)
        for section in sections
        for table, pairs in _without_repetitions(
            (table, beside(section, table, scores))
            for table in (tables if args.model else _default_tables(tables, section))
        )
    ]
    if not matches:
        raise UsageError(
            f"no published table has a score of an editor in {args.beside}.",
            hint="'editkit published' lists the tables.",
        )
    if args.json:
        return _print_json(
            {
                "beside": [
                    _pair_document(section, table, pair)
                    for section, table, pairs in matches
                    for pair in pairs
                ]
            }
        )
    _print(
        [beside_table(section.run, table, pairs) for section, table, pairs in matches], args.format
    )
    return 0


def _without_repetitions(
    tables: Iterable[tuple[PublishedTable, list[Beside]]],
) -> Iterator[tuple[PublishedTable, list[Beside]]]:
    """Tables without the editors whose numbers all are in an earlier table of the same model."""
    shown: set[tuple[str, str, str, str, float]] = set()

    def named(table: PublishedTable, pair: Beside) -> tuple[str, str, str, str, float]:
        return table.model, table.dataset, pair.label, pair.score.key, pair.published.mean

    for table, pairs in tables:
        new = {pair.label for pair in pairs if named(table, pair) not in shown}
        shown |= {named(table, pair) for pair in pairs}
        if kept := [pair for pair in pairs if pair.label in new]:
            yield table, kept


def _default_tables(tables: Sequence[PublishedTable], section: Section) -> list[PublishedTable]:
    """Of each file, the tables of the run's model, or else the first one."""
    own = [each for each in tables if each.is_measured_on(section.run)]
    if own:
        return own
    return list({each.name: each for each in reversed(tables)}.values())[::-1]


def _of_model(tables: Sequence[PublishedTable], model: str) -> list[PublishedTable]:
    from editkit.registry.model_identity import short_name

    known = list(dict.fromkeys(each.model for each in tables))
    chosen = [each for each in tables if each.model == short_name(model)]
    if not chosen:
        raise UsageError(
            f"--model: no published table has a model {model!r}.",
            hint=did_you_mean(model, known) or f"Known: {', '.join(known)}.",
        )
    return chosen


def _scores() -> list[Score]:
    """The scores of all installed metrics."""
    scores: list[Score] = []
    for offer in default_registry().offers("metric"):
        spec: Any = offer.spec
        scores += spec.scores
    return scores


# ---------------------------------------------------------------- output


def _listing(tables: Sequence[PublishedTable], numbers: Sequence[PublishedNumber]) -> str:
    from editkit.terminal import aligned

    rows = [("name", "model", "dataset", "records", "editors", "where")]
    rows += [
        (
            each.name,
            each.model,
            each.dataset,
            f"{each.n_records:,}",
            " ".join(each.rows),
            each.place,
        )
        for each in tables
    ]
    for name in dict.fromkeys(each.name for each in numbers):
        own = [each for each in numbers if each.name == name]
        subjects = ", ".join(dict.fromkeys(each.about for each in own))
        rows.append((name, "", "", "", "", f"{len(own)} numbers: {subjects}"))
    return f"{aligned(rows)}\n'editkit published NAME' prints the tables of a file.\n"


def _numbers_table(numbers: Sequence[PublishedNumber]) -> Table:
    from editkit.report.tables import Entry, Line, Table

    lines = [
        Line(
            tuple(
                map(
                    Entry,
                    (
                        each.about,
                        each.what,
                        each.value,
                        each.model or "-",
                        "-" if each.n_records is None else f"{each.n_records:,}",
                        each.place,
                    ),
                )
            )
        )
        for each in numbers
    ]
    return Table(
        name="numbers",
        title="Single numbers",
        head=("about", "number", "published", "model", "records", "where"),
        lines=tuple(lines),
        notes=tuple(dict.fromkeys(f"{each.source}." for each in numbers)),
        keys=6,
    )


def _print(tables: Sequence[Table], form: str, *, first: bool = True) -> None:
    from editkit.report import markdown, text
    from editkit.terminal import wrapped

    terminal = sys.stdout.isatty()
    for number, table in enumerate(tables):
        gap = "" if first and number == 0 else "\n"
        if form == "markdown":
            sys.stdout.write(f"{gap}{markdown.section_of(table)}")
            continue
        below = [wrapped(f"warning: {warning}") for warning in table.warnings]
        below += [wrapped(note) for note in table.legend("Bold" if terminal else "*")]
        rows = text.text_table(table, terminal=terminal, starred=not terminal)
        sys.stdout.write(f"{gap}{table.title}\n\n{rows}{''.join(below)}")


def _print_json(document: dict[str, Any]) -> int:
    sys.stdout.write(json.dumps({"schema": 1, **document}, indent=2) + "\n")
    return 0


def _table_document(table: PublishedTable) -> dict[str, Any]:
    return {
        "name": table.name,
        "source": table.source,
        "place": table.place,
        "model": table.model,
        "dataset": table.dataset,
        "records": table.n_records,
        "rows": {
            editor: {key: _number_document(each) for key, each in row.items()}
            for editor, row in table.rows.items()
        },
    }


def _pair_document(section: Section, table: PublishedTable, pair: Beside) -> dict[str, Any]:
    run = section.run
    return {
        "table": table.name,
        "place": table.place,
        "editor": pair.editor,
        "label": pair.label,
        "score": pair.score.key,
        "ours": {**_number_document(pair.ours), "records": pair.ours.n},
        "published": {**_number_document(pair.published), "records": table.n_records},
        "difference": _number_document(pair.difference),
        "model": run.model["name"],
        "published_model": table.model,
        "same_model": table.is_measured_on(run),
        "dataset": run.dataset["name"],
        "published_dataset": table.dataset,
        "same_dataset": table.dataset == run.dataset["name"],
        "same_procedure": pair.same_procedure,
    }


def _number_document(estimate: Estimate) -> dict[str, float | None]:
    return {"mean": estimate.mean, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high}
