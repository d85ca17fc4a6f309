"""Loading a model onto one device or several."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.errors import ModelError
from editkit.models.finding import digest_of_files, model_folder

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

DTYPES = ("float32", "bfloat16", "float16")


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
        fingerprint=digest_of_files(folder),
    )


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
