"""Give trained editors of earlier versions the fingerprint by which their model is known now.

    python -m editkit_plugins.learned.restamp --model atlas benchmarks/atlas/trained/*

Only an editor that names the model by the fingerprint that earlier versions gave to the same files,
or that lacks the digest of its description, is changed, and of it nothing else. An editor in the
cache (``trained/OLD/NAME``) is found again once its folder is moved to ``trained/NEW/NAME``; both
names are printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from editkit import DeltaError
from editkit.models.fingerprints import legacy_fingerprint
from editkit.registry.models import fingerprint_of, model_folder
from editkit_plugins.learned.trained import OWN_DIGEST, read_facts, save_facts


def restamp(folder: Path, old: str, new: str) -> bool:
    """Replace the model's fingerprint in a trained editor, and add the digest of its description.

    Returns:
        Whether the file was written; False where it has both fingerprint and digest already.

    Raises:
        ConfigError: There is no trained editor, or it is damaged.
        DeltaError: It was trained on another model.
    """
    facts, tensors = read_facts(folder)
    if facts["model_fingerprint"] == new and OWN_DIGEST in facts:
        return False
    if facts["model_fingerprint"] not in (old, new):
        raise DeltaError(
            f"the editor in {folder} was trained on the model {facts['model_fingerprint'][:12]}, "
            f"expected {old[:12]}.",
            hint="Give the model that it was trained on.",
        )
    save_facts(folder, tensors, {**facts, "model_fingerprint": new})
    return True


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="trained editors")
    parser.add_argument("--model", required=True, help="the model that they were trained on")
    parser.add_argument("--revision", help="of a hub model")
    args = parser.parse_args()
    new = fingerprint_of(args.model, revision=args.revision)
    old = legacy_fingerprint(model_folder(args.model, revision=args.revision))
    sys.stdout.write(f"{args.model}: {old} is now {new}\n")
    for folder in args.folders:
        done = restamp(folder, old, new)
        sys.stdout.write(f"{folder}: {'changed' if done else 'is up to date'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
