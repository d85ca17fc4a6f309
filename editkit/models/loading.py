"""Finding and loading a model: a registered name, a folder, or a hub id."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from editkit.errors import ModelError, PluginError

if TYPE_CHECKING:
    from editkit.interfaces import ModelSpec
    from editkit.models.language_model import LanguageModel

DTYPES = ("float32", "bfloat16", "float16")
_IDENTITY = ("*.safetensors", "config.json", "tokenizer*.json", "vocab.*", "merges.txt")


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        name: A model that a plugin ships (``atlas``), a folder, or a hub id (``gpt2-xl``).
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: Where the model goes, as torch names it.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It cannot be found or read, its architecture is unknown, or its weights are
            not stored as safetensors.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editkit.models.language_model import LanguageModel

    if dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}.", hint=f"Use one of: {', '.join(DTYPES)}.")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ModelError(f"device is {device!r}.", hint="Use cpu, cuda, cuda:1, mps ...") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device is {device!r}, but torch sees no GPU.", hint="Use --device cpu.")
    folder = model_folder(name, revision=revision)
    with _plain_words(name), _quiet():
        hf = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return LanguageModel(
        hf.to(place),
        tokenizer,
        name=name if not Path(name).is_dir() else Path(name).resolve().name,
        revision=revision,
        fingerprint=_digest_of_files(folder),
    )


def fingerprint_of(name: str, *, revision: str | None = None) -> str:
    """The fingerprint that the model would have once loaded, read from its files.

    Loads no machine-learning library for registered models and folders.

    Raises:
        ModelError: The model cannot be found.
    """
    return _digest_of_files(model_folder(name, revision=revision))


def model_folder(name: str, *, revision: str | None = None) -> Path:
    """The folder with the model's files; a hub model is downloaded, or found in the hub's cache.

    Raises:
        ModelError: The model cannot be found.
    """
    from editkit.plugins import default_registry

    registry = default_registry()
    if name in registry.names("model"):
        spec = cast("ModelSpec", registry.get("model", name).spec)
        package, _, inside = spec.folder.partition(":")
        return Path(str(importlib.resources.files(package) / inside))
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"{name!r} is no folder.",
            hint="Give the folder that holds config.json and model.safetensors.",
        )
    return _hub_folder(name, revision)


def _hub_folder(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt", "*.model"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise ModelError(
            f"{name!r} is gated: its owner lets only accepted users download it.",
            hint="Accept its terms on the hub, then log in with `hf auth login`.",
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"{name!r} has no revision {revision!r}.", hint="Check the branch, tag or commit."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(
            f"model {name!r} was not found: it is no registered model, no folder, and no hub id.",
            hint=_known_models(),
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"model {name!r} is no registered model and no folder, and the hub could not be "
            f"asked for it ({type(error).__name__}).",
            hint=f"{_known_models()} Or go online once, or copy the model's folder here.",
        ) from None


def _known_models() -> str:
    from editkit.plugins import default_registry

    try:
        names = ", ".join(default_registry().names("model"))
    except PluginError:
        names = ""
    return f"Registered models: {names or 'none'}."


def _digest_of_files(folder: Path) -> str:
    """Digest of the files that make a model what it is, by content."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted({path for pattern in _IDENTITY for path in folder.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(
            f"{folder} holds no *.safetensors file.",
            hint="Save the model as safetensors; pickled weights are not read.",
        )
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _plain_words(name: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {name!r} could not be loaded: {reason}",
            hint="Check that its folder holds config.json, tokenizer.json and safetensors weights.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no chatter while weights load; errors are still raised."""
    from transformers.utils import logging as hf_logging

    logger = logging.getLogger("transformers")
    level, bars = logger.level, hf_logging.is_progress_bar_enabled()
    try:
        logger.setLevel(logging.ERROR)
        hf_logging.disable_progress_bar()
        yield
    finally:
        logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
