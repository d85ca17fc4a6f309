"""Loading a model from a folder: its options, its devices, and the completeness of its weights."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from editkit.errors import EditkitError, ModelError, first_line
from editkit.models.checkpoint import (
    Problem,
    TensorHeader,
    UnusableFile,
    headers_of,
    raise_first,
    read_json,
    refuse,
    some,
)
from editkit.models.dtype_speed import slow_dtype
from editkit.models.fingerprints import fingerprint_of_folder, fingerprint_of_gguf
from editkit.models.gguf import is_gguf
from editkit.models.text_part import TEXT_NAMES, text_config, text_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from editkit.models.language_model import LanguageModel

__all__ = [
    "DTYPES",
    "LoadOptions",
    "LoadingReport",
    "check_device",
    "check_device_map",
    "check_dtype",
    "in_plain_words",
    "incomplete",
    "load_folder",
    "quiet",
    "read_tokenizer",
    "report_of_headers",
    "report_of_tensors",
    "wrong_types",
]

DTYPES = ("float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_TYPES = ("cpu", "cuda", "mps", "xpu")
ATTENTIONS = ("sdpa", "eager")
LoadingReport = Mapping[str, Any]
"""The report of transformers: ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``."""

_BUFFERS = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(masked_)?bias$|rotary_emb\.inv_freq$|(^|\.)position_ids$"
)
"""Masks and positions: older releases of transformers stored them, newer ones compute them."""
_FLOATING = ("F64", "F32", "F16", "BF16")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """The options of :func:`editkit.load_model` other than the model, checked.

    Raises:
        ModelError: The type, the device or the attention does not exist.
    """

    dtype: str = "float32"
    device: str = "cpu"
    device_map: str | Mapping[str, int | str] | None = None
    attention: str | None = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.attention not in (None, *ATTENTIONS):
            raise ModelError(
                f"attention is {self.attention!r}.", hint=f"Use one of: {', '.join(ATTENTIONS)}."
            )
        if self.device_map is None:
            check_device(self.device)
        else:
            check_device_map(self.device_map, self.device)


def load_folder(
    folder: Path,
    options: LoadOptions,
    *,
    name: str,
    revision: str | None = None,
    gguf: Path | None = None,
) -> LanguageModel:
    """Load a model and its tokenizer from a folder.

    Args:
        folder: The folder.
        options: Type, device and attention.
        name: The model as the user typed it.
        revision: Branch, tag or commit of the folder's files.
        gguf: The GGUF file that the folder was made from, if any; it is the model's identity.

    Raises:
        ModelError: As for :func:`editkit.load_model`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from editkit.models.language_model import LanguageModel

    device_map, given = options.device_map, dict[str, Any]()
    if device_map is not None:
        given["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
    if options.attention is not None:
        given["attn_implementation"] = options.attention
    warnings = refuse(folder, name)
    tokenizer = read_tokenizer(folder, name)
    with in_plain_words(name), quiet():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if (text := text_config(config)) is not config:
            given |= {"config": text, "key_mapping": dict(TEXT_NAMES)}
        hf, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, options.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report lists them; otherwise the first one raises
            **given,
        )
    _check_in_memory(name, hf)
    problems = [
        *incomplete(hf, report, name, only_text=text is not config),
        *wrong_types(hf, headers_of(folder), name),
    ]
    raise_first(problems)
    for warning in (*warnings, *problems):
        _log.warning("%s", warning)
    _warn_untied(name, hf)
    if device_map is None and (slow := slow_dtype(options.dtype, str(options.device))):
        _log.warning("%s", slow)
    with in_plain_words(name):
        placed = hf if device_map else hf.to(torch.device(options.device))
    return LanguageModel(
        placed,
        tokenizer,
        name=_called(name),
        revision=revision,
        fingerprint=fingerprint_of_folder(folder) if gguf is None else fingerprint_of_gguf(gguf),
        source=name,
        folder=folder if gguf is None else None,
    )


def _called(name: str) -> str:
    """A model's name in results: a registered name, a hub id, or the name of its folder or file."""
    path = Path(name)
    if path.is_dir():
        return path.resolve().name
    return path.stem if is_gguf(path) else name


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder.

    Args:
        folder: The folder.
        name: The model as the user typed it.

    Raises:
        ModelError: It cannot be read, is slow, or has no tokens.
    """
    from transformers import AutoTokenizer

    from editkit.models.language_model import check_tokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # its parsers raise anything
        _check_json(folder / "tokenizer.json", name)
        raise ModelError(
            f"the tokenizer of model {name!r} could not be read: {first_line(error)}",
            hint="Load it with AutoTokenizer.from_pretrained(...) where that works, and save it to "
            "the folder with save_pretrained(folder).",
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


def _warn_untied(name: str, hf: PreTrainedModel) -> None:
    """Warn about a checkpoint with two matrices where its config ties embeddings and head."""
    head, embedding = hf.get_output_embeddings(), hf.get_input_embeddings()
    if head is None or not getattr(hf.config, "tie_word_embeddings", False):
        return
    if head.weight is not embedding.weight and head.weight.device == embedding.weight.device:
        _log.warning(
            "the config of model %r ties its embeddings and its head, but its checkpoint has two "
            "different matrices; both are used as stored",
            name,
        )


def _check_in_memory(name: str, hf: PreTrainedModel) -> None:
    """Refuse a model with parts that were left on disk or move to the GPU only when they run."""
    absent = [path for path, weight in hf.named_parameters() if weight.is_meta]
    if absent:
        raise ModelError(
            f"{len(absent)} weights of {name!r} did not fit onto the devices and were offloaded "
            f"({absent[0]} first): an edit needs all of them in place.",
            hint="Use more or larger GPUs, dtype bfloat16, or device cpu with enough memory.",
        )


@contextlib.contextmanager
def in_plain_words(name: str) -> Iterator[None]:
    """Inside, errors of the libraries become a :class:`ModelError`."""
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
                hint="Use dtype bfloat16, another device, or device_map for several GPUs; 'editkit "
                "doctor' estimates the memory.",
            ) from error
        raise ModelError(
            f"model {name!r} could not be loaded: {reason}",
            hint="Check its folder with 'editkit doctor': config.json, tokenizer.json and weights "
            "must belong to one model.",
        ) from error


# ---------------------------------------------------------------- options


def check_dtype(dtype: object) -> None:
    """Refuse a type of weights other than :data:`DTYPES`.

    Raises:
        ModelError: The type is another one.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}.", hint=f"Use one of: {', '.join(DTYPES)}.")


def check_device(device: object) -> None:
    """Refuse a device that does not exist here or that editkit does not support.

    Args:
        device: As torch names it (``cuda:1``), or the number of a GPU.

    Raises:
        ModelError: The device cannot be used.
    """
    import torch

    known = "Use cpu, cuda, cuda:1, mps or xpu."
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise ModelError(f"device is {device!r}, expected a text.", hint=known)
    try:
        place = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    except RuntimeError:
        raise ModelError(f"device is {device!r}, which is not a device.", hint=known) from None
    if place.type == "meta":
        raise ModelError(
            f"device is {str(device)!r}, which keeps shapes of weights but no values.", hint=known
        )
    if place.type not in _TYPES:
        raise ModelError(
            f"device is {str(device)!r}, a kind that editkit does not support.", hint=known
        )
    if place.type == "cpu":
        if place.index not in (None, 0):
            raise ModelError(
                f"device is {str(device)!r}, but there is only one cpu.", hint="Use cpu."
            )
        return
    module = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}[place.type]
    available = torch.backends.mps.is_available() if place.type == "mps" else module.is_available()
    if not available:
        what = "GPU" if place.type == "cuda" else f"{place.type} device"
        raise ModelError(f"device is {str(device)!r}, but torch sees no {what}.", hint="Use cpu.")
    count = module.device_count()
    if place.index is not None and place.index >= count:
        raise ModelError(
            f"device is {str(device)!r}, but torch sees only {count}, numbered from 0.",
            hint=f"Use {place.type}:0" + (f" to {place.type}:{count - 1}." if count > 1 else "."),
        )


def check_device_map(device_map: str | Mapping[str, int | str], device: str) -> None:
    """Refuse a device map that is invalid or leaves weights out of memory.

    Raises:
        ModelError: A device is given too, the map is unknown, or accelerate is not installed.
    """
    if device != "cpu":
        raise ModelError(
            f"device {device!r} and device_map {device_map!r} are both given.",
            hint="Give device for one device, or device_map for several.",
        )
    if isinstance(device_map, str):
        if device_map not in DEVICE_MAPS:
            raise ModelError(
                f"device_map is {device_map!r}, expected {', '.join(DEVICE_MAPS)}, or a mapping "
                "from modules to devices.",
                hint="For a single device, set device instead.",
            )
    else:
        for part, place in device_map.items():
            if place in ("disk", "meta"):
                raise ModelError(
                    f"device_map puts {part or 'the model'!r} on {place!r}: an edit needs its "
                    "weights in memory.",
                    hint="Use cpu or a GPU.",
                )
            check_device(place)
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError(
            "device_map needs the package accelerate, which is not installed.",
            hint="Run: pip install 'editkit[large]'",
        )


# ---------------------------------------------------------------- complete weights


def report_of_headers(folder: Path, config: PretrainedConfig) -> tuple[PreTrainedModel, Any]:
    """The report that loading a checkpoint would give, from the headers of its files.

    Args:
        folder: A folder without :func:`~editkit.models.checkpoint.problems_of`.
        config: Its config.

    Returns:
        The model on the meta device, without values, and the report.
    """
    return report_of_tensors(headers_of(folder), config)


def report_of_tensors(
    headers: Mapping[str, TensorHeader], config: PretrainedConfig
) -> tuple[PreTrainedModel, Any]:
    """As :func:`report_of_headers`, from the headers themselves."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    state = {name: torch.empty(header.shape, device="meta") for name, header in headers.items()}
    text = text_config(config)
    given = {} if text is config else {"key_mapping": dict(TEXT_NAMES)}
    with quiet():
        model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)].from_pretrained(
            None,
            config=text,
            state_dict=state,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **given,
        )
    return model, report


def incomplete(
    model: PreTrainedModel, report: LoadingReport, shown: str, *, only_text: bool = False
) -> list[Problem]:
    """The problems in a loading report.

    Args:
        model: The model.
        report: The report of loading its weights.
        shown: The model as the user typed it.
        only_text: Whether the checkpoint also has parts that are left out deliberately.

    Transformers fills in random numbers for weights that the checkpoint lacks and drops weights
    that the model has no place for. Either way, the results are those of an untrained model.
    """
    problems = []
    if missing := sorted(report["missing_keys"]):
        problems.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} lacks {len(missing)} of the model's weights "
                f"({some(missing)}), which would be random.",
                "Check that config.json belongs to these weights, and that all of the causal "
                "language model was saved with save_pretrained.",
            )
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, has, expected = mismatched[0]
        problems.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} has {_weights(mismatched)} with shapes that "
                f"contradict its config: {name} is {_shape(has)}, expected {_shape(expected)}.",
                "Check that config.json belongs to these weights.",
            )
        )
    unexpected = sorted(n for n in report["unexpected_keys"] if not _BUFFERS.search(n))
    inside = [name for name in unexpected if _is_inside(model, name)]
    if inside:
        problems.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} has {_weights(inside)} that the model has no "
                f"place for ({some(inside)}): without them it is a different model.",
                "Check that config.json belongs to these weights (number of layers, model_type, "
                "biases).",
            )
        )
    outside = [name for name in unexpected if name not in inside]
    if outside and not only_text:
        problems.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} has {_weights(outside)} outside the language "
                f"model, unused here ({some(outside)}).",
                "Check that it was saved as a causal language model.",
                "warning",
            )
        )
    return problems


def wrong_types(
    model: PreTrainedModel, headers: Mapping[str, TensorHeader], shown: str
) -> list[Problem]:
    """The problem that weights are integers or codes, which must not be cast to floats."""
    prefix = f"{model.base_model_prefix}."
    parameters = {name for name, _ in model.named_parameters()}
    wrong = [
        (name, header.dtype)
        for name, header in sorted((text_name(name), each) for name, each in headers.items())
        if header.dtype not in _FLOATING
        and ({name, prefix + name, name.removeprefix(prefix)} & parameters)
    ]
    if not wrong:
        return []
    name, dtype = wrong[0]
    return [
        Problem(
            "weights",
            f"the checkpoint of model {shown!r} stores {_weights(wrong)} in a type other than "
            f"float: {name} is {dtype}, so the checkpoint is quantised or damaged.",
            "Use the original, unquantised checkpoint.",
        )
    ]


def _is_inside(model: PreTrainedModel, name: str) -> bool:
    """Whether a tensor's name is in a part of the language model, such as its blocks or head."""
    parts = {part for part, _ in (*model.named_children(), *model.base_model.named_children())}
    return name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in parts


def _weights(names: Sized) -> str:
    return "1 weight" if len(names) == 1 else f"{len(names)} weights"


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a single number"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers shows no progress bar and logs only errors."""
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
