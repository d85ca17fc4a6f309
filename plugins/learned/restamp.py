"""Update trained editors of earlier versions to the current fingerprint of their model.

    python -m editkit_plugins.learned.restamp --model atlas benchmarks/atlas/trained/*

It changes only editors that carry the old fingerprint of the same model files, or that lack a
digest of their metadata, and changes nothing else in them. For an editor in the cache, also move
the folder ``trained/OLD/NAME`` to ``trained/NEW/NAME``; the command prints both fingerprints.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from editkit import DeltaError
from editkit.models.fingerprints import legacy_fingerprint
from editkit.registry.models import fingerprint_of, model_folder
from editkit_plugins.learned.trained import METADATA_DIGEST, read_editor_file, write_editor_file


def restamp(folder: Path, old: str, new: str) -> bool:
    """Replace the model fingerprint of a trained editor, and add the digest of its metadata.

    Returns:
        Whether the file was written. False if it is up to date.

    Raises:
        ConfigError: The folder holds no trained editor, or a damaged one.
        DeltaError: The editor was trained on another model.
    """
    metadata, tensors = read_editor_file(folder)
    if metadata["model_fingerprint"] == new and METADATA_DIGEST in metadata:
        return False
    if metadata["model_fingerprint"] not in (old, new):
        raise DeltaError(
            f"the editor in {folder} was trained on the model "
            f"{metadata['model_fingerprint'][:12]}, expected {old[:12]}.",
            hint="Give the model that it was trained on.",
        )
    write_editor_file(folder, tensors, {**metadata, "model_fingerprint": new})
    return True


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="trained editors")
    parser.add_argument("--model", required=True, help="the model that they were trained on")
    parser.add_argument("--revision", help="revision of a hub model")
    args = parser.parse_args()
    new = fingerprint_of(args.model, revision=args.revision)
    old = legacy_fingerprint(model_folder(args.model, revision=args.revision))
    sys.stdout.write(f"{args.model}: old fingerprint {old}, new fingerprint {new}\n")
    for folder in args.folders:
        written = restamp(folder, old, new)
        sys.stdout.write(f"{folder}: {'updated' if written else 'up to date'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
