"""Ask a model for facts, keep those that it knows, and write them for other commands.

The layout prompts is for 'trace --facts', relations for 'compile-dataset --facts', and counterfact
for 'run-benchmark --dataset counterfact'. The same facts, flags and model give the same files.
Answers are cached: a repeated or interrupted command asks only what is missing.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import DatasetError, UsageError
from editkit.cli.arguments import (
    DEFAULT_MODEL,
    add_examples,
    add_flag,
    add_flags,
    number,
    parse_sets,
    positive,
    split_section,
)
from editkit.errors import did_you_mean
from editkit.progress import show_progress
from editkit.registry.relation_names import with_wikidata_name
from editkit.storage.cache import write_atomically
from editkit.validation import nested_values
from editkit_plugins.known_facts.choices import LAYOUTS, RULES, Choice, Layout

if TYPE_CHECKING:
    from editkit import LanguageModel
    from editkit.records.facts import Facts, SourcedFact
    from editkit_plugins.known_facts.collecting import Collection, Known

_N_EXAMPLES = 2
_LONGEST_EXAMPLE = 60  # characters
_MAX_PROBLEMS = 3
_NO_RELATION = "-"
_log = logging.getLogger("editkit.known-facts")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(parser, "--model", default=DEFAULT_MODEL)
    add_flag(
        parser,
        "--facts",
        required=True,
        metavar="FILE|DATASET",
        complete="dataset",
        help="a JSON file of facts, records or relations, or a dataset such as counterfact",
    )
    add_flag(
        parser,
        "--set",
        help="set one value of the dataset with dataset.A=V; repeatable",
    )
    add_flag(
        parser,
        "--save",
        also=("--out", "-o"),
        dest="out",
        default=Path("known.json"),
        help="file for the known facts; with several layouts, known.LAYOUT.json",
    )
    add_flag(
        parser,
        "--layout",
        type=layout,
        several=True,
        default=["prompts"],
        metavar="L,...",
        complete=LAYOUTS,
        help="prompts (for trace), relations (for compile-dataset), counterfact (for "
        "run-benchmark), or several",
    )
    add_flag(
        parser,
        "--rule",
        choices=RULES,
        default="predicted",
        help="when a fact is known: the model predicts the object right after the prompt, or its "
        "greedy text names the object before any other capitalised word",
    )
    add_flag(
        parser,
        "--tokens",
        type=positive,
        default=Choice.tokens,
        metavar="N",
        help="length of the greedy text of the rule first-named",
    )
    add_flag(
        parser,
        "--min-probability",
        type=probability,
        default=0.0,
        metavar="P",
        help="only objects with at least this probability",
    )
    add_flag(
        parser,
        "--wordings",
        type=positive,
        default=1,
        metavar="N",
        help="ask facts by relation in their first N wordings; one suffices",
    )
    add_flags(parser, "--relations")
    add_flag(parser, "--limit", help="ask only the first N facts (default: all)")
    add_flag(
        parser,
        "--records",
        type=positive,
        metavar="N",
        help="keep at most N known facts, drawn at random (default: all)",
    )
    add_flag(
        parser,
        "--per-relation",
        type=positive,
        metavar="N",
        help="keep at most N known facts of each relation, drawn at random (default: all)",
    )
    add_flag(parser, "--seed", help="seed of the random draws")
    add_flag(
        parser,
        "--batch",
        type=positive,
        default=Choice.batch,
        metavar="N",
        help="facts per forward pass",
    )
    add_flags(parser, "--separator", "--chat", "--device", "--dtype", "--json", "--quiet")
    add_examples(
        parser,
        "editkit known-facts --facts atlas",
        "editkit known-facts -m smollm2 --facts counterfact.json --layout prompts,counterfact",
    )


def layout(name: str) -> str:
    """The name of a layout.

    Raises:
        ArgumentTypeError: The name is not a layout.
    """
    if name not in LAYOUTS:
        guess = did_you_mean(name, LAYOUTS)
        raise argparse.ArgumentTypeError(
            f"got {name!r}, expected {', '.join(LAYOUTS)}{f'. {guess}' if guess else ''}"
        )
    return name


def probability(text: str) -> float:
    """A number from 0 to 1.

    Raises:
        ArgumentTypeError: It is something else.
    """
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 to 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Ask for the facts, write those that are known, and print a table by relation."""
    args.layout = [layout for layout in LAYOUTS if layout in args.layout]
    others, dataset_sets = split_section(parse_sets(args.sets), "dataset")
    if others:
        raise UsageError(
            f"--set {next(iter(others))} sets nothing here.",
            hint="Values of the dataset are --set dataset.A=V.",
        )
    from editkit import load_model
    from editkit.records.facts import read_facts

    files = _files(args)
    facts = read_facts(
        args.facts,
        nested_values(dataset_sets, place="--set dataset."),
        separator=args.separator,
        chat=args.chat,
    )
    facts.warn()
    asked = _selected(args, facts)
    from editkit_plugins.known_facts.collecting import collect
    from editkit_plugins.known_facts.layouts import check_layout, left_out, written

    for layout in args.layout:
        check_layout(layout, asked, args.facts)
    choice = Choice(
        rule=args.rule,
        tokens=args.tokens,
        min_probability=args.min_probability,
        wordings=args.wordings,
        records=args.records,
        per_relation=args.per_relation,
        seed=args.seed,
        batch=args.batch,
    )
    model = load_model(args.model, dtype=args.dtype, device=args.device)
    with show_progress(quiet=args.quiet):
        collection = collect(model, asked, choice)
    _warn(collection)
    if not collection.known:
        raise DatasetError(
            f"{model.name} knows none of the {collection.asked.total()} facts of {args.facts} "
            f"that it was asked (rule {args.rule}).",
            hint=_what_to_try(args),
        )
    provenance = _provenance(model, choice)
    for layout, path in files.items():
        if missing := left_out(layout, collection.known):
            _log.warning(
                "%d of %d known facts cannot be written in the layout %s and are left out.",
                *(missing, len(collection.known), layout),
            )
        write_atomically(path, written(layout, facts, collection, provenance).encode())
    _print(args, model, collection, facts, files, provenance)
    return 0


def _files(args: argparse.Namespace) -> dict[Layout, Path]:
    """The file of each layout.

    Raises:
        UsageError: A file is a folder, or the source.
    """
    out = args.out.expanduser()
    files: dict[Layout, Path] = {args.layout[0]: out}
    if len(args.layout) > 1:
        files = {each: out.with_name(f"{out.stem}.{each}{out.suffix}") for each in args.layout}
    source = Path(args.facts).expanduser()
    for path in files.values():
        if path.is_dir():
            raise UsageError(f"--out: {str(path)!r} is a folder.", hint="Give the name of a file.")
        if path.exists() and source.exists() and path.samefile(source):
            raise UsageError(
                f"the output would overwrite the input {args.facts!r}.",
                hint="Choose another file with --out.",
            )
    return files


def _selected(args: argparse.Namespace, facts: Facts) -> tuple[SourcedFact, ...]:
    """The facts to ask: of the chosen relations, and not more than the limit."""
    sourced = facts.sourced
    if args.relations:
        from editkit.records.relations import check_relations

        available = sorted({each.relation for each in sourced if each.relation})
        check_relations(args.relations, available, repr(args.facts))
        sourced = tuple(each for each in sourced if each.relation in args.relations)
    return sourced[: args.limit]


def _warn(collection: Collection) -> None:
    for problem in collection.problems[:_MAX_PROBLEMS]:
        _log.warning("not asked: %s", problem)
    if (more := len(collection.problems) - _MAX_PROBLEMS) > 0:
        _log.warning("not asked: %d more facts", more)


def _what_to_try(args: argparse.Namespace) -> str:
    tries = []
    if args.min_probability > 0:
        tries.append("lower --min-probability")
    if args.rule == "predicted" and not args.chat:
        tries.append("try --rule first-named")
    if args.limit is not None:
        tries.append("raise --limit")
    tries.append("ask in the wordings that the model was trained on, or about more common subjects")
    hint = "; ".join(tries)
    return f"{hint[0].upper()}{hint[1:]}."


def _provenance(model: LanguageModel, choice: Choice) -> dict[str, Any]:
    """Where the facts come from, as it is written with each of them."""
    provenance: dict[str, Any] = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "rule": choice.rule,
    }
    if choice.rule == "first-named":
        provenance["tokens"] = choice.tokens
    if choice.min_probability:
        provenance["min_probability"] = choice.min_probability
    return provenance


# ---------------------------------------------------------------- output


def _print(
    args: argparse.Namespace,
    model: LanguageModel,
    collection: Collection,
    facts: Facts,
    files: dict[Layout, Path],
    provenance: dict[str, Any],
) -> None:
    relations = _by_relation(collection)
    if args.json:
        document = {
            "schema": 1,
            **provenance,
            "facts": args.facts,
            **_counts(collection.asked.total(), collection.known),
            "broken": list(facts.broken),
            "problems": list(collection.problems),
            "relations": {
                name: {
                    **_counts(n_asked, known),
                    "examples": [
                        {
                            "prompt": each.fact.prompt,
                            "object": each.fact.answer,
                            "probability": round(each.probability, 4),
                        }
                        for each in known[:_N_EXAMPLES]
                    ],
                }
                for name, (n_asked, known) in relations.items()
            },
            "files": {layout: str(path) for layout, path in files.items()},
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    from editkit.terminal import aligned

    rows = [
        ["relation", "asked", "known", "share", "examples"],
        *(
            [
                with_wikidata_name(name),
                *_cells(n_asked, known),
                "; ".join(map(_example, known[:_N_EXAMPLES])),
            ]
            for name, (n_asked, known) in relations.items()
        ),
        ["all", *_cells(collection.asked.total(), collection.known), ""],
    ]
    paths = "".join(f"{layout}: {path}\n" for layout, path in files.items())
    sys.stdout.write(f"{aligned(_right_aligned(rows))}\n{paths}")


def _by_relation(collection: Collection) -> dict[str, tuple[int, list[Known]]]:
    """Relation -> number of facts asked, and the known ones."""
    known: dict[str | None, list[Known]] = {}
    for each in collection.known:
        known.setdefault(each.sourced.relation, []).append(each)
    return {
        name or _NO_RELATION: (n_asked, known.get(name, []))
        for name, n_asked in sorted(collection.asked.items(), key=lambda item: item[0] or "")
    }


def _counts(n_asked: int, known: Sequence[Known]) -> dict[str, Any]:
    return {"asked": n_asked, "known": len(known), "share": round(len(known) / n_asked, 4)}


def _cells(n_asked: int, known: Sequence[Known]) -> list[str]:
    return [f"{n_asked:,}", f"{len(known):,}", f"{len(known) / n_asked:.0%}"]


def _right_aligned(rows: list[list[str]]) -> list[list[str]]:
    """The three columns of numbers on the right of their cells."""
    widths = [max(len(row[i]) for row in rows) for i in (1, 2, 3)]
    return [[row[0], *map(str.rjust, row[1:4], widths), row[4]] for row in rows]


def _example(known: Known) -> str:
    text = f"{known.fact.prompt} [{known.fact.answer}]"
    return text if len(text) <= _LONGEST_EXAMPLE else f"...{text[-_LONGEST_EXAMPLE:]}"
