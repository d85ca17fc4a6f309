"""Compile records in CounterFact's layout from facts, and print their composition.

FILE has facts and phrasings by relation, in ParaRel's layout or our own (docs/datasets.md). The
same file, flags and model give the same records.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import DatasetError, Records, UsageError
from editkit.cli.arguments import add_flag, add_flags, names, positive

if TYPE_CHECKING:
    from editkit import LanguageModel
    from editkit_plugins.counterfact.compiling.compiler import RawRecord
    from editkit_plugins.counterfact.compiling.composition import Composition
    from editkit_plugins.counterfact.compiling.layouts import Facts

_MOST_PREFIXES = 1000
_LONGEST_PREFIX = 200  # characters
_SHOWN = 5
_log = logging.getLogger("editkit.compile-dataset")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    add_flag(source, "--facts", type=Path, metavar="FILE", help="facts and phrasings by relation")
    add_flag(
        source, "--count", type=Path, metavar="RECORDS", help="only count what a file contains"
    )
    add_flag(parser, "--out", default=Path("compiled.json"), metavar="FILE", help="file to write")
    add_flag(
        parser,
        "--records",
        type=positive,
        metavar="N",
        help="at most N records, drawn at random (default: all)",
    )
    add_flag(
        parser, "--relations", type=names, default=[], metavar="R,...", help="relations to use"
    )
    add_flag(parser, "--seed")
    add_flag(parser, "--model", help="model whose texts precede the paraphrases; see --known")
    add_flag(
        parser, "--known", action="store_true", help="only facts whose object --model predicts"
    )
    add_flag(
        parser,
        "--prefixes",
        metavar="C",
        help="corpus whose texts precede the paraphrases; see 'editkit statistics'",
    )
    add_flag(
        parser, "--generation", type=Path, metavar="FILE", help="generation prompts by relation"
    )
    add_flag(
        parser,
        "--paraphrases",
        type=positive,
        default=2,
        metavar="N",
        help="paraphrases per record",
    )
    add_flag(
        parser,
        "--neighbors",
        type=positive,
        default=10,
        metavar="N",
        help="neighbourhood prompts per record",
    )
    add_flag(
        parser,
        "--fewest-neighbors",
        type=positive,
        metavar="N",
        help="skip records with fewer (default: the value of --neighbors)",
    )
    add_flags(parser, "--dtype", "--device", "--json")


def run(args: argparse.Namespace) -> int:
    """Compile and write the records, and print their composition."""
    if args.count is not None:
        return _count(args)
    if args.known and args.model is None:
        raise UsageError("--known needs a model.", hint="Name it with --model.")
    from editkit.storage.cache import write_atomically
    from editkit_plugins.counterfact.compiling.compiler import Compiler, Recipe
    from editkit_plugins.counterfact.compiling.layouts import read_facts, read_openings
    from editkit_plugins.counterfact.parsing import parse_records

    out = args.out
    for given in (args.facts.expanduser(), args.generation):
        if given is not None and out.exists() and given.exists() and out.samefile(given):
            raise UsageError(
                f"--out would overwrite the input file {str(given)!r}.",
                hint="Choose another file with --out.",
            )
    facts = read_facts(
        args.facts.expanduser(),
        only=tuple(args.relations),
        openings=None if args.generation is None else read_openings(args.generation),
    )
    _warn(facts)
    model = _model(args)
    recipe = Recipe(
        records=args.records,
        seed=args.seed,
        paraphrases=args.paraphrases,
        neighbors=args.neighbors,
        fewest_neighbors=args.fewest_neighbors or args.neighbors,
        prefixes=_prefixes(args, model),
    )
    compiled = Compiler(facts.table, recipe).compile(_keep(model) if args.known else None)
    if not compiled:
        raise DatasetError(
            f"the {len(facts.table.facts)} facts in {str(args.facts)!r} give no record.",
            hint="Add facts that share objects, or lower --fewest-neighbors.",
        )
    if args.records is not None and len(compiled) < args.records:
        _log.warning("only %d of %d records could be compiled.", len(compiled), args.records)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, _dump(compiled).encode())
    _print_composition(args, parse_records(compiled), out)
    return 0


def _count(args: argparse.Namespace) -> int:
    from editkit.records.reading import read_json_list
    from editkit_plugins.counterfact.parsing import parse_records

    loaded = parse_records(read_json_list(args.count.expanduser()))
    if not loaded.records:
        raise DatasetError(
            f"dataset file {str(args.count)!r} has no usable record among {len(loaded.rejected)} "
            f"({loaded.rejected[0].field}: {loaded.rejected[0].reason}).",
            hint="docs/datasets.md shows the layout of a record.",
        )
    if loaded.rejected:
        _log.warning("%d broken records are not counted.", len(loaded.rejected))
    _print_composition(args, loaded, args.count)
    return 0


# ---------------------------------------------------------------- what a model or corpus adds


def _model(args: argparse.Namespace) -> LanguageModel | None:
    if args.model is None:
        return None
    from editkit import load_model

    return load_model(args.model, dtype=args.dtype, device=args.device)


def _prefixes(args: argparse.Namespace, model: LanguageModel | None) -> tuple[str, ...]:
    """Texts to put before paraphrases, from a corpus or written by the model."""
    if args.prefixes is not None:
        from editkit.covariance.corpora import Corpus

        texts = [text.strip() for text in Corpus(args.prefixes).texts()]
        usable = sorted({text for text in texts if 0 < len(text) <= _LONGEST_PREFIX})
        if not usable:
            raise DatasetError(
                f"corpus {args.prefixes!r} has no text of at most {_LONGEST_PREFIX} characters.",
                hint="Give a corpus with one sentence per line.",
            )
        return tuple(
            random.Random(f"prefixes-{args.seed}").sample(usable, min(_MOST_PREFIXES, len(usable)))
        )
    if model is None:
        _log.warning("no --model and no --prefixes: paraphrases have no text before them.")
        return ()
    from editkit_plugins.counterfact.compiling.knowledge import sampled_prefixes

    return sampled_prefixes(model, args.seed)


def _keep(model: LanguageModel | None) -> Callable[[Sequence[RawRecord]], Sequence[bool]] | None:
    if model is None:
        return None
    from editkit_plugins.counterfact.compiling.knowledge import is_known

    return lambda records: is_known(model, records)


# ---------------------------------------------------------------- words


def _dump(records: Sequence[RawRecord]) -> str:
    """JSON with one record per line."""
    return "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in records) + "\n]\n"


def _warn(facts: Facts) -> None:
    for rejected in facts.rejected[:_SHOWN]:
        _log.warning("skipped: %s: %s", rejected.field, rejected.reason)
    if (more := len(facts.rejected) - _SHOWN) > 0:
        _log.warning("skipped: %d more broken facts", more)
    if facts.unusable:
        _log.warning(
            "relations without facts, or with fewer than two phrasings that end at the object: %s",
            ", ".join(facts.unusable),
        )
    if facts.no_openings:
        _log.warning(
            "relations without generation prompts (--generation): %s", ", ".join(facts.no_openings)
        )


def _print_composition(args: argparse.Namespace, loaded: Records, path: Path) -> None:
    from editkit_plugins.counterfact.compiling.composition import composition, table

    result = composition(loaded.records)
    if args.json:
        sys.stdout.write(json.dumps(_document(result, loaded, path), indent=2) + "\n")
        return
    rows = table(result)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *rest = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        sys.stdout.write("  ".join([first, *rest]).rstrip() + "\n")
    relations = ", ".join(f"{name} {n}" for name, n in result.records_of.items())
    sys.stdout.write(f"\nrecords by relation: {relations}\n{path}\n")


def _document(result: Composition, loaded: Records, path: Path) -> dict[str, Any]:
    from editkit_plugins.counterfact.compiling.composition import PAPER

    return {
        "schema": 1,
        "file": str(path),
        "digest": loaded.digest,
        "composition": {name: dataclasses.asdict(count) for name, count in result.items.items()},
        "records_of_relation": dict(result.records_of),
        "paper": {
            name: dict(zip(("total", "per_relation", "per_record"), numbers, strict=True))
            for name, numbers in PAPER.items()
        },
    }
