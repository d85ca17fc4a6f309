"""Models of GGUF files as folders in transformers' layout, in the cache.

Transformers needs several passes of seconds over the metadata of a GGUF file, and dequantises all
weights. Both are done once: config and tokenizer when they are first needed, the weights (float32)
when the model is first loaded. The model's identity remains that of the GGUF file.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from editkit.errors import CacheError, ModelError, first_line
from editkit.models.checkpoint import Problem, TensorHeader, raise_first, some
from editkit.models.fingerprints import fingerprint_of_gguf
from editkit.models.gguf import GgufHeader, gguf_header, gguf_problems
from editkit.models.loading import in_plain_words, incomplete, quiet, report_of_tensors
from editkit.progress import counting
from editkit.storage.cache import cache_folder, write_atomically, writing_to_cache
from editkit.storage.digests import digest_of_file, key_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["dequantised", "described", "is_dequantised", "placement_problems"]

_WEIGHTS, _DIGEST = "model.safetensors", "weights.json"
_SPARE = 1 << 30  # bytes that stay free on the disk
_log = logging.getLogger(__name__)


def described(path: Path, shown: str) -> Path:
    """A folder with the config and the tokenizer of a GGUF file; no weights are read.

    Args:
        path: The GGUF file.
        shown: The model as the user typed it.

    Raises:
        ModelError: The file is not usable, or transformers cannot read it.
        CacheError: The cache cannot be written.
    """
    raise_first(gguf_problems(path, shown))
    folder = _folder_of(path)
    if (folder / "config.json").is_file():
        return folder
    with _alone(folder):
        if not (folder / "config.json").is_file():
            _log.info("reading the metadata of %s, which takes some seconds the first time", path)
            _describe(path, folder, shown)
    return folder


def dequantised(path: Path, shown: str) -> Path:
    """A folder with the whole model of a GGUF file, its weights in float32.

    Arguments and errors as for :func:`described`.
    """
    folder = described(path, shown)
    with _alone(folder):
        if not _is_whole(folder):
            _dequantise(path, folder, shown)
    return folder


def is_dequantised(path: Path) -> bool:
    """Whether the cache has the weights of a GGUF file."""
    return (_folder_of(path) / _WEIGHTS).is_file()


def _folder_of(path: Path) -> Path:
    """Depends on the file's content and on the packages that read it."""
    packages = {name: importlib.metadata.version(name) for name in ("transformers", "gguf")}
    key = key_of({"format": 1, "file": fingerprint_of_gguf(path), **packages})
    return cache_folder() / "gguf" / key


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other process writes to this folder of the cache."""
    with writing_to_cache():
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder next to a folder of the cache."""
    with writing_to_cache():
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".gguf-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _reading(shown: str) -> Iterator[None]:
    """Inside, transformers reads a GGUF file: without its progress bars, and with clear errors."""
    with in_plain_words(shown), quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield


def _describe(path: Path, folder: Path, shown: str) -> None:
    """Write the config and the tokenizer of a GGUF file to a folder."""
    from transformers import AutoConfig, AutoTokenizer

    with _scratch(folder) as empty, _scratch(folder) as written:
        # The file's own folder may have other files, which transformers would read too.
        with _reading(shown):
            given: dict[str, Any] = {"gguf_file": str(path.resolve()), "local_files_only": True}
            config = AutoConfig.from_pretrained(empty, trust_remote_code=False, **given)
        try:
            with _reading(shown):
                tokenizer = AutoTokenizer.from_pretrained(empty, trust_remote_code=False, **given)
        except ModelError as error:
            raise ModelError(
                f"the tokenizer of model {shown!r} could not be read from {path.name}: "
                f"{first_line(error.__cause__ or error)}",
                hint="Use the original checkpoint, in safetensors.",
            ) from error
        with writing_to_cache():
            if tokenizer.is_fast:  # whoever reads the folder refuses a slow one
                tokenizer.save_pretrained(written)
            config.save_pretrained(written)
        with quiet():
            again = AutoTokenizer.from_pretrained(
                written, trust_remote_code=False, local_files_only=True
            )
        if _content(again) != _content(tokenizer):
            raise ModelError(
                f"the tokenizer of model {shown!r} changes when it is saved as tokenizer.json.",
                hint="Use the original checkpoint, in safetensors.",
            )
        with writing_to_cache():
            shutil.rmtree(folder, ignore_errors=True)
            written.replace(folder)


def _content(tokenizer: Any) -> tuple[Any, ...]:
    """What decides how a tokenizer encodes texts."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else None
    return backend, tokenizer.special_tokens_map, tokenizer.chat_template


def _is_whole(folder: Path) -> bool:
    """Whether a folder has the weights that were written to it."""
    if not (folder / _WEIGHTS).is_file():
        return False
    try:
        written = json.loads((folder / _DIGEST).read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        written = None
    if written == digest_of_file(folder / _WEIGHTS):
        return True
    _log.warning("%s is damaged; it is dequantised again", folder / _WEIGHTS)
    return False


def _dequantise(path: Path, folder: Path, shown: str) -> None:
    """Write the weights of a GGUF file to its folder in the cache."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    header = gguf_header(path)
    raise_first(placement_problems(header, config, shown))
    need = 4 * sum(prod(tensor.shape) for tensor in header.tensors.values())
    free = shutil.disk_usage(folder).free
    if need + _SPARE > free:
        raise CacheError(
            f"the dequantised weights of model {shown!r} need {need >> 20:,} MiB in the cache "
            f"{str(cache_folder())!r}, and {free >> 20:,} MiB are free.",
            hint="Free disk space, or set EDITKIT_CACHE to a folder on another disk.",
        )
    _log.info("dequantising %s; the weights are kept in the cache", path)
    with (
        _scratch(folder) as empty,
        _scratch(folder) as written,
        counting(f"dequantising {path.name}", 1, unit="file") as advance,
    ):
        with _reading(shown):
            hf, report = AutoModelForCausalLM.from_pretrained(
                empty,
                config=config,
                gguf_file=str(path.resolve()),
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        raise_first(incomplete(hf, report, shown))
        hf.hf_quantizer = None  # the weights are plain floats now
        if hasattr(hf.config, "quantization_config"):
            del hf.config.quantization_config
        with quiet(), writing_to_cache():
            hf.save_pretrained(written, max_shard_size="1000TB")
            digest = digest_of_file(written / _WEIGHTS)
            (written / _WEIGHTS).replace(folder / _WEIGHTS)
            advance()
            write_atomically(folder / _DIGEST, json.dumps({"digest": digest}).encode())


def placement_problems(header: GgufHeader, config: PretrainedConfig, shown: str) -> list[Problem]:
    """Weights that a GGUF file lacks, or that transformers leaves out without a word.

    Args:
        header: The file's header.
        config: Its config, as transformers derives it.
        shown: The model as the user typed it.
    """
    places = _places(header, config)
    if places is None:
        return []
    empty, names = places
    stored = {names[name]: tensor for name, tensor in header.tensors.items() if name in names}
    expected = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    tensors = {
        # Some architectures are stored transposed: only the number of values can be compared.
        name: TensorHeader(
            "F32",
            expected[name] if prod(expected[name]) == prod(tensor.shape) else tensor.shape,
        )
        for name, tensor in stored.items()
    }
    problems = incomplete(*report_of_tensors(tensors, config), shown)
    if scaling := _lost_scaling(header, config):
        problems.append(
            Problem(
                "config",
                f"model {shown!r} scales its positions ({scaling}), which transformers leaves out "
                "when it reads a GGUF file: its texts would be read wrongly.",
                "Use the original checkpoint, in safetensors.",
            )
        )
    elif outside := sorted(set(header.tensors) - set(names)):
        problems.append(
            Problem(
                "weights",
                f"model {shown!r} has {len(outside)} tensors that transformers leaves out when it "
                f"reads a GGUF file ({some(outside)}): without them it is a different model.",
                "Use the original checkpoint, in safetensors.",
            )
        )
    return problems


def _places(header: GgufHeader, config: PretrainedConfig) -> tuple[Any, dict[str, str]] | None:
    """The model without values, and transformers' names of tensors by their GGUF names.

    None for an architecture that transformers reports on itself when it loads the model.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers import modeling_gguf_pytorch_utils as reader

    if header.architecture in _self_checking():
        return None
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    processor = reader.TENSOR_PROCESSORS.get(header.architecture, reader.TensorProcessor)
    names = reader.get_gguf_hf_weights_map(empty, processor(config=config.to_dict()))
    return empty, dict(names)


def _self_checking() -> frozenset[str]:
    """Architectures that a newer reader of transformers covers; none in older releases."""
    try:
        from transformers.integrations.gguf import GGUF_ARCHS
    except ImportError:
        return frozenset()
    return frozenset(GGUF_ARCHS)


def _lost_scaling(header: GgufHeader, config: PretrainedConfig) -> str | None:
    """The scaling of positions that the file has and its config lacks."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type", "default") != "default":
        return None
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    factors = [name for name in header.tensors if name.startswith("rope_f")]
    if kind != "none":
        return str(kind)
    return factors[0] if factors else None
