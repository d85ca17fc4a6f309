"""Convert a pickled checkpoint of the published KE or MEND to a trained editor.

A pickle is a program: reading one from a stranger can run anything. editkit takes only tensors out
of it, and still asks you to confirm that you trust its source (--allow-pickle).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from editkit import UsageError
from editkit.cli.arguments import add_examples, add_flag


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser,
        "checkpoint",
        type=Path,
        metavar="FILE",
        complete="file",
        help="a .pt file of the published code",
    )
    add_flag(parser, "--model", required=True, help="the model that it was trained for")
    add_flag(
        parser,
        "--name",
        also=("--editor", "-e"),
        metavar="E",
        complete="editor",
        help="editor that will use the result (default: mend or ke)",
    )
    add_flag(parser, "--allow-pickle", action="store_true", help="I trust the source of the file")
    add_flag(parser, "--device")
    add_flag(
        parser,
        "--out",
        default=None,
        help="folder for the result, in addition to the cache",
        shown_default="only the cache",
    )
    add_examples(parser, "editkit convert-editor gpt2-xl.mend.pt -m gpt2-xl --allow-pickle")


def run(args: argparse.Namespace) -> int:
    """Convert a checkpoint and store the trained editor."""
    if not args.allow_pickle:
        raise UsageError(
            f"{args.checkpoint} is a pickle. Pickles can run code when they are read.",
            hint="If you trust its source, repeat the command with --allow-pickle.",
        )
    from editkit import load_model
    from editkit.storage.digests import digest_of_file
    from editkit_plugins.learned.config import trained_folder
    from editkit_plugins.learned.published import convert, read_published
    from editkit_plugins.learned.trained import save_trained

    tensors = read_published(args.checkpoint)
    model = load_model(args.model, device=args.device)
    settings, state = convert(tensors, model, place=str(args.checkpoint))
    name = args.name or settings.kind
    cached = trained_folder(name, model.fingerprint)
    metadata = {
        "editor": name,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dataset": f"as published: {args.checkpoint.name}",
        "data_digest": digest_of_file(str(args.checkpoint)),
    }
    for folder in {cached, args.out or cached}:
        save_trained(folder, state, settings, metadata)
    sys.stdout.write(
        f"{name} for {model.name}, as published: {settings.kind}, the last {settings.blocks} "
        f"blocks\n  {args.out or cached}\n"
        f"Try it: editkit run-benchmark --model {shlex.quote(args.model)} --editor {name}\n"
    )
    return 0
