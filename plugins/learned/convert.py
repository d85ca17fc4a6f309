"""Make a trained editor of a pickled checkpoint of the published KE or MEND.

A pickle is a program: one from a stranger may do anything when it is read. editkit takes nothing
but tensors out of it, and still asks for your word that you trust its source (--allow-pickle).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from editkit import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="FILE", help="a .pt file of the published code")
    add("--model", required=True, metavar="M", help="the model that it was trained for")
    add("--name", metavar="E", help="editor that finds the result (default: mend or ke)")
    add("--out", type=Path, metavar="DIR", help="folder of the result, besides the cache")
    add("--allow-pickle", action="store_true", help="I trust where the file comes from")
    add("--device", default="cpu", help="where the model goes (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Convert, save, and keep."""
    if not args.allow_pickle:
        raise UsageError(
            f"{args.checkpoint} is a pickle, which is read only if you say that you trust its "
            "source.",
            hint="Repeat the command with --allow-pickle.",
        )
    from editkit import load_model
    from editkit.storage.digests import digest_of_file
    from editkit_plugins.learned.config import kept_folder
    from editkit_plugins.learned.published import convert, read_checkpoint
    from editkit_plugins.learned.trained import save_trained

    tensors = read_checkpoint(args.checkpoint)
    model = load_model(args.model, device=args.device)
    settings, state = convert(tensors, model, place=str(args.checkpoint))
    name = args.name or settings.kind
    kept = kept_folder(name, model.fingerprint)
    facts = {
        "editor": name,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dataset": f"as published: {args.checkpoint.name}",
        "data_digest": digest_of_file(str(args.checkpoint)),
    }
    for folder in {kept, args.out or kept}:
        save_trained(folder, state, settings, facts)
    sys.stdout.write(
        f"{name} for {model.name}, as published: {settings.kind}, the last {settings.blocks} "
        f"blocks\n  {args.out or kept}\n"
        f"Try it: editkit run-benchmark --model {shlex.quote(args.model)} --editor {name}\n"
    )
    return 0
