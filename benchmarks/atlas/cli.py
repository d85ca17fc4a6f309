"""The commands of ``editkit atlas``: build, train, recall, describe, facts."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from . import model_path, records_path

_HERE = Path(__file__).resolve().parent
USAGE_ERROR = 2
INCOMPLETE = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``editkit atlas``."""
    commands = parser.add_subparsers(dest="atlas_command", metavar="COMMAND", required=True)

    build = commands.add_parser("build", help="write records, reference texts and tokenizer anew")
    build.add_argument(
        "--out", type=Path, default=_HERE, help="folder that gets records/ and tokenizer files"
    )

    train = commands.add_parser("train", help="train the embedded model from nothing")
    train.add_argument(
        "--out", type=Path, default=Path("atlas-model"), help="folder of the model (atlas-model)"
    )
    train.add_argument("--minutes", type=float, help="stop after this long; run again to go on")
    train.add_argument("--seed", type=int, default=0, help="of the weights and of the text (0)")
    train.add_argument("--steps", type=int, help="optimiser steps: how well the world is known")
    train.add_argument("--threads", type=int, help="processor threads (all)")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from a checkpoint (default)")
    again.add_argument("--fresh", action="store_true", help="ignore a checkpoint")

    recall = commands.add_parser("recall", help="measure what a model knows of the world")
    recall.add_argument("--model", type=Path, help="folder of the model (the shipped one)")
    recall.add_argument("--facts", type=int, help="ask for a sample of this many facts (all)")
    recall.add_argument("--json", action="store_true", help="print one JSON document")

    describe = commands.add_parser("describe", help="print what the world is made of")
    describe.add_argument("--json", action="store_true", help="print one JSON document")

    facts = commands.add_parser(
        "facts", help="list facts as prompts, the most frequent subjects first"
    )
    facts.add_argument("--relation", metavar="R", help="only this relation: an id or a name")
    facts.add_argument("--subject", metavar="TEXT", help="only subjects that contain this")
    facts.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (20)")


def run(args: argparse.Namespace) -> int:
    """Run a subcommand and return the exit code."""
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


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")


def _build(args: argparse.Namespace) -> int:
    from .records import write_files
    from .tokenizer import save_tokenizer

    for path in write_files(args.out / "records"):
        _say(path)
    save_tokenizer(args.out / "model")
    _say(args.out / "model" / "tokenizer.json")
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
        _say(f"stopped after {minutes:.1f} min; the same command goes on from the checkpoint")
        return INCOMPLETE
    _say(f"model in {args.out} after {minutes:.1f} min")
    _say(f"next: editkit atlas recall --model {args.out}")
    return 0


def _recall(args: argparse.Namespace) -> int:
    from .recall import measure_recall

    if args.facts is not None and args.facts < 1:
        raise ValueError(f"--facts is {args.facts}; expected 1 or more")
    found = measure_recall(args.model or model_path(), facts=args.facts)
    if args.json:
        _say(json.dumps(found.as_dict(), indent=2))
        return 0
    _say(f"recall of whole objects over {found.prompts} prompts")
    rows = {"all": found.overall, "seen wordings": found.seen, "held-out wordings": found.held_out}
    for name, share in {**rows, **found.by_quarter, **found.by_relation}.items():
        _say(f"  {name:<24}{share:>8.1%}")
    return 0


def _describe(args: argparse.Namespace) -> int:
    from .describe import as_table, describe

    found = describe(model_path(), records_path().parent)
    _say(json.dumps(found, indent=2, ensure_ascii=False) if args.json else as_table(found))
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
    asked = (args.subject or "").casefold()
    found = [
        fact
        for fact in world.all_facts()
        if asked in fact.subject.casefold()
        and args.relation in (None, fact.relation, names[fact.relation])
    ]
    if not found:
        raise ValueError(f"no fact is about a subject with {args.subject!r} in its name")
    for fact in found[: args.limit]:
        prompt = fact.seen[0].format(fact.subject)
        _say(f"{prompt} -> {fact.object}   ({fact.subject}; {names[fact.relation]})")
    if len(found) > args.limit:
        _say(f"... {len(found) - args.limit} more; --limit, --relation and --subject choose")
    return 0


def main() -> int:
    """Run the commands without the rest of editkit: ``python -m editkit_benchmarks.atlas.cli``."""
    parser = argparse.ArgumentParser(prog="editkit atlas", description=__doc__)
    configure(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
