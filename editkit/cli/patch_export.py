"""Write patches as a model folder or a LoRA adapter, which need no editkit to load.

The folder is the whole model with the patches in its weights, for transformers, vLLM and
llama.cpp's converter. The adapter holds the patches alone, for PEFT and vLLM on top of the unedited
model; a patch that is not a low-rank change of linear modules cannot be one. Several patches are
written together, in the order of the files. The original model is only read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.cli.arguments import add_examples, add_flag, add_flags
from editkit.cli.patch_files import add_files, names_of, read_patches
from editkit.cli.signals import terminable
from editkit.progress import show_progress
from editkit.safe_text import one_line

if TYPE_CHECKING:
    from editkit.patches.export import FolderExport
    from editkit.patches.lora import LoraExport


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_files(parser)
    add_flag(
        parser,
        "--model",
        help="the model to write the patches into: a registered name, a folder, a GGUF file, or a "
        "hub id (default: the one that the patch was made on)",
    )
    add_flag(
        parser,
        "--out",
        required=True,
        default=None,
        group="",
        help="new folder; it must not exist yet",
    )
    add_flag(
        parser,
        "--format",
        choices=("folder", "lora"),
        default="folder",
        help="folder: the whole model; lora: an adapter for PEFT and vLLM",
    )
    add_flag(
        parser,
        "--dtype",
        choices=("float32",),
        default=None,
        help="float32 stores a folder's bfloat16 and float16 weights as float32, which adds no "
        "rounding (default: the types stay as they are)",
    )
    add_flag(
        parser,
        "--force",
        action="store_true",
        help="accept patches that were made for another model or conflict with each other",
    )
    add_flags(parser, "--quiet", "--json")
    add_examples(
        parser,
        "editkit patch export kenya.safetensors -o patched-atlas",
        "editkit patch export kenya.safetensors -o adapter --format lora",
    )


def run(args: argparse.Namespace) -> int:
    """Write the export, and print what it is and how it is loaded."""
    from editkit.patches.export import export_patches

    patches = read_patches(args.files)
    with terminable(), show_progress(quiet=args.quiet):
        written = export_patches(
            patches,
            args.out,
            model=args.model,
            format=args.format,
            dtype=args.dtype,
            force=args.force,
            names=names_of(args.files),
        )
    if args.json:
        sys.stdout.write(json.dumps({"schema": 1, **written.to_dict()}, indent=2) + "\n")
    else:
        lines = _lines(args.out, written)
        sys.stdout.write("".join(f"{one_line(line)}\n" for line in lines))
    return 0


def _lines(out: Path, written: FolderExport | LoraExport) -> list[str]:
    snippet = written.snippet().splitlines()
    return [*written.lines(), "Load it with:", *(f"    {line}" for line in snippet)]
