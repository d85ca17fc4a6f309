"""Loading a model onto one device or several."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError
from editkit.models.finding import digest_of_files, model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from editkit.models.language_model import LanguageModel

DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | Mapping[str, int | str] | None = None,
    attention: str | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        name: A model that a plugin ships (``atlas``), a folder, or a hub id (``gpt2-xl``).
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: Where the model goes, as torch names it.
        device_map: Spreads the model over several devices, instead of ``device``: ``auto`` or
            another way of accelerate's, or devices by name of module.
        attention: ``sdpa`` or ``eager``, which differ in the last digits; None: the library's
            choice.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It cannot be found or read, its architecture is unknown, its weights are not
            stored as safetensors, or it does not fit onto the devices.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editkit.models.language_model import LanguageModel

    if dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}.", hint=f"Use one of: {', '.join(DTYPES)}.")
    if attention not in (None, *ATTENTIONS):
        raise ModelError(
            f"attention is {attention!r}.", hint=f"Use one of: {', '.join(ATTENTIONS)}."
        )
    _check_device(device)
    options: dict[str, Any] = {}
    if device_map is not None:
        _check_device_map(device_map, device)
        options["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
    if attention is not None:
        options["attn_implementation"] = attention
    folder = model_folder(name, revision=revision)
    with _plain_words(name), _quiet():
        hf = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    _check_in_memory(name, hf)
    return LanguageModel(
        hf if device_map else hf.to(torch.device(device)),
        tokenizer,
        name=name if not Path(name).is_dir() else Path(name).resolve().name,
        revision=revision,
        fingerprint=digest_of_files(folder),
        source=name,
        folder=folder,
    )


def _check_device(device: int | str) -> None:
    import torch

    try:
        place = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    except RuntimeError:
        raise ModelError(f"device is {device!r}.", hint="Use cpu, cuda, cuda:1, mps ...") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device is {device!r}, but torch sees no GPU.", hint="Use --device cpu.")


def _check_device_map(device_map: str | Mapping[str, int | str], device: str) -> None:
    if device != "cpu":
        raise ModelError(
            f"device {device!r} and device_map {device_map!r} are both given.",
            hint="Give device for one device, or device_map for several.",
        )
    if isinstance(device_map, str):
        if device_map not in DEVICE_MAPS:
            raise ModelError(
                f"device_map is {device_map!r}, expected {', '.join(DEVICE_MAPS)}, or devices by "
                "name of module.",
                hint="For one device set device instead.",
            )
    else:
        for part, place in device_map.items():
            if place in ("disk", "meta"):
                raise ModelError(
                    f"device_map puts {part or 'the model'!r} on {place!r}: an edit needs its "
                    "weights in memory.",
                    hint="Use cpu or a GPU.",
                )
            _check_device(place)
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError(
            "device_map needs the package accelerate, which is not installed.",
            hint="Run: pip install 'editkit[large]'",
        )


def _check_in_memory(name: str, hf: PreTrainedModel) -> None:
    """Refuse a model of which parts were left on disk, or come to the GPU only when they run."""
    absent = [path for path, weight in hf.named_parameters() if weight.is_meta]
    if absent:
        raise ModelError(
            f"{len(absent)} weights of {name!r} did not fit onto the devices and were offloaded "
            f"({absent[0]} first): an edit needs all of them in place.",
            hint="Use more or larger GPUs, dtype bfloat16, or device cpu with enough memory.",
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
