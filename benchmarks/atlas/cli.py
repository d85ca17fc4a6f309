"""Build, train, measure and describe the embedded world."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from editkit.cli.arguments import add_examples, add_flag
from editkit.registry.plugins import default_registry
from editkit.registry.relation_names import relation_names

from . import model_path, records_path

_HERE = Path(__file__).resolve().parent
USAGE_ERROR = 2
INCOMPLETE = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``editkit atlas``."""
    commands = parser.add_subparsers(dest="atlas_command", metavar="COMMAND", required=True)

    build = commands.add_parser("build", help="rebuild records, reference texts and tokenizer")
    add_flag(
        build,
        "--out",
        default=_HERE,
        help="folder for records/ and the tokenizer",
        shown_default="where they are installed",
    )
    add_examples(build, "editkit atlas build -o rebuilt")

    train = commands.add_parser("train", help="train the embedded model from scratch")
    add_flag(train, "--out", default=Path("atlas-model"), help="folder of the model")
    add_flag(
        train,
        "--minutes",
        type=float,
        metavar="N",
        help="stop after this time; the same command resumes (default: no limit)",
    )
    add_flag(
        train,
        "--steps",
        type=int,
        metavar="N",
        help="optimiser steps: more steps, more facts known (default: as the shipped model)",
    )
    add_flag(train, "--seed", type=int, help="seed of the weights and the text")
    add_flag(
        train,
        "--threads",
        type=int,
        metavar="N",
        group="machine",
        help="processor threads (default: all)",
    )
    again = train.add_mutually_exclusive_group()
    add_flag(
        again,
        "--resume",
        action="store_true",
        help="resume from a checkpoint, as without this flag",
    )
    add_flag(again, "--fresh", help="ignore a checkpoint")
    add_flag(train, "--quiet")
    add_examples(train, "editkit atlas train -o atlas-model --minutes 60")

    recall = commands.add_parser("recall", help="measure how many facts a model knows")
    add_flag(recall, "--model", type=Path, help="folder of the model (default: the shipped one)")
    add_flag(
        recall, "--facts", type=int, metavar="N", help="ask a sample of N facts (default: all)"
    )
    add_flag(recall, "--json")
    add_examples(recall, "editkit atlas recall --facts 100")

    describe = commands.add_parser("describe", help="count subjects, facts, records and tokens")
    add_flag(describe, "--json")
    add_examples(describe, "editkit atlas describe")

    facts = commands.add_parser("facts", help="list facts as prompts, most frequent subjects first")
    add_flag(
        facts, "--relation", metavar="R", help="only this relation, by id or name (default: all)"
    )
    add_flag(
        facts, "--subject", metavar="S", help="only subjects that contain this text (default: all)"
    )
    add_flag(facts, "--limit", type=int, default=20, help="number of facts to list")
    add_examples(facts, "editkit atlas facts --subject Kenya")


def run(args: argparse.Namespace) -> int:
    """Run a subcommand; returns the exit code."""
    command = {
        "build": _build,
        "train": _train,
        "recall": _recall,
        "describe": _describe,
        "facts": _facts,
    }
    try:
        return command[args.atlas_command](args)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE_ERROR


def _print(line: object) -> None:
    sys.stdout.write(f"{line}\n")


def _build(args: argparse.Namespace) -> int:
    from .records import write_files
    from .tokenizer import save_tokenizer

    for path in write_files(args.out / "records"):
        _print(path)
    save_tokenizer(args.out / "model")
    _print(args.out / "model" / "tokenizer.json")
    return 0


def _train(args: argparse.Namespace) -> int:
    import torch

    from .tokenizer import save_tokenizer
    from .train import TrainingConfig, train

    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads is {args.threads}; expected 1 or more")
        torch.set_num_threads(args.threads)
    steps = TrainingConfig().steps if args.steps is None else args.steps
    if steps < 1:
        raise ValueError(f"--steps is {steps}; expected 1 or more")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        done = train(
            args.out,
            Path(folder),
            TrainingConfig(seed=args.seed, steps=steps),
            minutes=args.minutes,
            fresh=args.fresh,
            quiet=args.quiet,
        )
    minutes = (time.monotonic() - started) / 60
    if not done:
        _print(f"stopped after {minutes:.1f} min; the same command resumes from the checkpoint")
        return INCOMPLETE
    _print(f"model in {args.out} after {minutes:.1f} min")
    _print(f"next: editkit atlas recall --model {args.out}")
    return 0


def _recall(args: argparse.Namespace) -> int:
    from .recall import measure_recall

    if args.facts is not None and args.facts < 1:
        raise ValueError(f"--facts is {args.facts}; expected 1 or more")
    recall = measure_recall(args.model or model_path(), facts=args.facts)
    if args.json:
        _print(json.dumps(asdict(recall), indent=2))
        return 0
    _print(f"recall of whole objects over {recall.prompts} prompts")
    rows = {"all": recall.overall, "seen wordings": recall.seen}
    rows["held-out wordings"] = recall.held_out
    relations = relation_names("atlas", default_registry())
    rows |= recall.by_quarter
    rows |= {relations.get(name, name): share for name, share in recall.by_relation.items()}
    for name, share in rows.items():
        _print(f"  {name:<24}{share:>8.1%}")
    return 0


def _describe(args: argparse.Namespace) -> int:
    from .describe import as_table, describe

    counts = describe(model_path(), records_path().parent)
    _print(json.dumps(counts, indent=2, ensure_ascii=False) if args.json else as_table(counts))
    return 0


def _facts(args: argparse.Namespace) -> int:
    from .world import load_world

    world = load_world()
    names = {relation.id: relation.name for relation in world.relations.values()}
    if args.relation is not None and args.relation not in {*names, *names.values()}:
        known = ", ".join(f"{key} ({name})" for key, name in names.items())
        raise ValueError(f"--relation is {args.relation!r}; expected one of {known}")
    if args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; expected 1 or more")
    wanted = (args.subject or "").casefold()
    facts = [
        fact
        for fact in world.all_facts()
        if wanted in fact.subject.casefold()
        and args.relation in (None, fact.relation, names[fact.relation])
    ]
    if not facts:
        raise ValueError(f"no subject with facts contains {args.subject!r} in its name")
    for fact in facts[: args.limit]:
        prompt = fact.seen[0].format(fact.subject)
        _print(f"{prompt} -> {fact.object}   ({fact.subject}; {names[fact.relation]})")
    if len(facts) > args.limit:
        _print(f"... {len(facts) - args.limit} more: use --limit, --relation or --subject")
    return 0


def main() -> int:
    """Run the commands as ``python -m editkit_benchmarks.atlas.cli``."""
    parser = argparse.ArgumentParser(prog="editkit atlas", description=__doc__)
    configure(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
