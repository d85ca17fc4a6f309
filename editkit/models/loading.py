"""Loading a model onto one device or several."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from editkit.errors import EditkitError, ModelError, first_line
from editkit.models.checkpoint import refuse
from editkit.models.completeness import incomplete, quiet, wrong_types
from editkit.models.devices import check_device, check_device_map, check_dtype
from editkit.models.fingerprints import fingerprint_of_folder
from editkit.models.model_files import UnusableFile, headers_of, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from editkit.models.language_model import LanguageModel

ATTENTIONS = ("sdpa", "eager")
_log = logging.getLogger(__name__)


def check_options(
    dtype: str,
    device: str,
    device_map: str | Mapping[str, int | str] | None,
    attention: str | None,
) -> None:
    """Refuse options of :func:`editkit.load_model` that cannot work, before any file is read.

    Raises:
        ModelError: There is no such type, device or attention.
    """
    check_dtype(dtype)
    if attention not in (None, *ATTENTIONS):
        raise ModelError(
            f"attention is {attention!r}.", hint=f"Use one of: {', '.join(ATTENTIONS)}."
        )
    if device_map is None:
        check_device(device)
    else:
        check_device_map(device_map, device)


def load_folder(
    folder: Path,
    *,
    name: str,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | Mapping[str, int | str] | None = None,
    attention: str | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Load a model and its tokenizer from a folder.

    Args:
        folder: The folder.
        name: The model as the user typed it.
        revision: Branch, tag or commit that the folder holds.

    The other arguments and the errors are those of :func:`editkit.load_model`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from editkit.models.language_model import LanguageModel

    options: dict[str, Any] = {}
    if device_map is not None:
        options["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
    if attention is not None:
        options["attn_implementation"] = attention
    warnings = refuse(folder, name)
    tokenizer = read_tokenizer(folder, name)
    with _in_plain_words(name), quiet():
        hf, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # it would raise where the report has them all
            **options,
        )
    _check_in_memory(name, hf)
    found = [*incomplete(hf, report, name), *wrong_types(hf, headers_of(folder), name)]
    for problem in (*warnings, *found):
        if problem.verdict == "problem":
            raise ModelError(problem.message, hint=problem.hint)
        _log.warning("%s", problem)
    _report_untied(name, hf)
    with _in_plain_words(name):
        placed = hf if device_map else hf.to(torch.device(device))
    return LanguageModel(
        placed,
        tokenizer,
        name=name if not Path(name).is_dir() else Path(name).resolve().name,
        revision=revision,
        fingerprint=fingerprint_of_folder(folder),
        source=name,
        folder=folder,
    )


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder.

    Args:
        folder: The folder.
        name: The model as the user typed it.

    Raises:
        ModelError: It cannot be read, is a slow one, or has no tokens.
    """
    from transformers import AutoTokenizer

    from editkit.models.live import check_tokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # its parsers raise whatever they raise
        _check_json(folder / "tokenizer.json", name)
        raise ModelError(
            f"the tokenizer of model {name!r} could not be read: {first_line(error)}",
            hint="Save it into the folder as tokenizer.json, with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder) where it can be read.",
        ) from error
    check_tokenizer(tokenizer, name)
    return cast("PreTrainedTokenizerBase", tokenizer)


def _check_json(file: Path, name: str) -> None:
    try:
        if file.exists():
            read_json(file)
    except UnusableFile as error:
        raise ModelError(
            f"{file.name} of model {name!r} {error.reason}.", hint=error.hint
        ) from error


def _report_untied(name: str, hf: PreTrainedModel) -> None:
    """The config may say that embeddings and head are one, and the checkpoint hold two."""
    head, embedding = hf.get_output_embeddings(), hf.get_input_embeddings()
    if head is None or not getattr(hf.config, "tie_word_embeddings", False):
        return
    if head.weight is not embedding.weight and head.weight.device == embedding.weight.device:
        _log.warning(
            "the config of model %r says that its embeddings and its head are the same weights, "
            "but its checkpoint holds two that differ; both are used as they are stored.",
            name,
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
def _in_plain_words(name: str) -> Iterator[None]:
    """Whatever the libraries raise becomes one kind of error."""
    try:
        yield
    except EditkitError:
        raise
    except Exception as error:
        clear = isinstance(error, OSError | ValueError | RuntimeError)  # others: a bare key, say
        reason = first_line(error, named=not clear)
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise ModelError(
                f"model {name!r} does not fit into memory: {reason}",
                hint="'editkit doctor' estimates what is needed. Use dtype bfloat16, another "
                "device, or device_map for several GPUs.",
            ) from error
        raise ModelError(
            f"model {name!r} could not be loaded: {reason}",
            hint="Check that its folder holds config.json, tokenizer.json and safetensors weights "
            "of one model; 'editkit doctor' checks each.",
        ) from error
