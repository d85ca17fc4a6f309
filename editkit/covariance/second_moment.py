"""Uncentred second moments of a module's inputs: C = Σ k kᵀ / n over n tokens.

Methods that whiten keys need C of the inputs of an MLP's output projection (Meng et al. 2022,
equation 2). It is computed in a stream over a corpus and cached by model, module and corpus. An
interrupted computation resumes with a bit-exact result, because the order of batches and sums
depends only on the texts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from editkit.covariance.config import SecondMomentConfig
from editkit.covariance.corpora import Corpus
from editkit.errors import CacheError, ConfigError
from editkit.models.encoding import padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, recording
from editkit.storage.cache import (
    cache_folder,
    cached_tensors,
    read_safetensors,
    write_atomically,
    writing_to_cache,
)
from editkit.storage.digests import ascii_json, digest_of_tensors, first_difference, key_of

__all__ = [
    "SecondMoment",
    "Whitening",
    "cached_second_moment",
    "compute_second_moment",
    "configured_second_moment",
    "read_published",
    "second_moment",
    "source_of_statistics",
]

TOKENS_PER_PASS = 4096
ROW_TOKENS = 2048
"""Default for the most tokens of a text: the whole context of GPT-2 (1,024) and GPT-J, but not all
of a context of 131,072, which would take much memory."""
_TEXTS_PER_READ = 256
_log = logging.getLogger(__name__)
_KIND = "second_moment"


@dataclasses.dataclass(frozen=True)
class SecondMoment:
    """C and the number of tokens behind it.

    Attributes:
        matrix: (D, D), float32, symmetric.
        count: Number of tokens n.
    """

    matrix: Tensor
    count: int


@dataclasses.dataclass(frozen=True)
class Whitening:
    """C with a ridge, as a Cholesky factor in float64, (D, D)."""

    factor: Tensor

    @classmethod
    def of(cls, statistic: SecondMoment, ridge: float = 0.0) -> Whitening:
        """Factorise C.

        Args:
            statistic: C.
                ridge: Added to the diagonal, in units of its mean.

        Raises:
            ConfigError: C is singular with this ridge.
        """
        matrix = statistic.matrix.to(torch.float64, copy=True)
        diagonal = matrix.diagonal()
        diagonal += ridge * diagonal.mean()
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            raise ConfigError(
                f"the second moment of {len(matrix)} neurons over {statistic.count} tokens is "
                f"singular with ridge {ridge:g}.",
                hint="Set a ridge (small models usually need 1e-3), or use more tokens.",
            )
        return cls(factor)

    def solve(self, key: Tensor) -> Tensor:
        """C⁻¹ k for one key, (D,), or several, (n, D); float32, on the key's device."""
        columns = key.double().cpu().reshape(-1, key.shape[-1]).T  # (D, n)
        solved = torch.cholesky_solve(columns, self.factor).T.reshape(key.shape)
        return solved.to(key.device, torch.float32)


def second_moment(
    model: LanguageModel,
    path: str,
    corpus: Corpus,
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
    watcher: Watcher | None = None,
    progress: Progress | None = None,
    seconds_between: float = 60.0,
) -> SecondMoment:
    """C of a module's inputs over a corpus, from the cache or computed now.

    Args:
        model: The model; forward passes end at the module.
        path: Dotted path of the module.
        corpus: Texts, each a row of its own.
        tokens: Stop after this number of tokens; None: use the whole corpus.
        row_tokens: Most tokens of a text; the rest is cut off, as is what exceeds the context.
        watcher: Observes the sum while it is computed.
        progress: Called with the number of tokens so far.
        seconds_between: Seconds between two saves of the unfinished sum.

    Raises:
        CacheError: The corpus has no text, or the model or the corpus changed meanwhile.
    """
    description = _description(
        model.fingerprint, path, corpus, tokens, str(model.dtype), row_tokens
    )

    def make() -> dict[str, Tensor]:
        unfinished = _file(description).with_suffix(".partial")
        computed = _computed(
            accumulate(
                model,
                path,
                corpus.texts(),
                tokens=tokens,
                row_tokens=row_tokens,
                file=SumFile(unfinished, seconds_between, description),
                watcher=watcher,
                progress=progress,
            )
        )
        if model.fingerprint != description["model"]:
            raise CacheError(
                f"the weights of {model.name} changed while a statistic was computed.",
                hint="Compute it again, and do not edit or train the model meanwhile.",
            )
        if corpus.digest() != description["corpus"]:
            raise CacheError(
                f"the corpus {corpus.source!r} changed while a statistic was computed.",
                hint="Compute it again. A function must yield the same texts in every call.",
            )
        return {"matrix": computed.matrix, "count": torch.tensor(computed.count)}

    tensors = cached_tensors(_KIND, description, make)
    return SecondMoment(tensors["matrix"], int(tensors["count"]))


def configured_second_moment(
    model: LanguageModel, path: str, config: SecondMomentConfig, *, editor: str
) -> SecondMoment | None:
    """C of a module's inputs as an editor's configuration describes it; None without C.

    Args:
        model: The model. With ``statistics_of: base``, edits that are applied to it have no
            influence on C: they are taken out of the weights while it is computed.
        path: Dotted path of the module.
        config: The editor's configuration.
        editor: Its name, for error messages.

    Raises:
        ConfigError: Neither a corpus nor a file is named.
        CacheError: The corpus or the file holds no second moment.
    """
    corpus = config.corpus_for(editor)
    if corpus is not None:
        of_base = config.statistics_of == "base"
        with model.unedited() if of_base else contextlib.nullcontext():
            return second_moment(
                model,
                path,
                corpus,
                tokens=config.corpus_tokens,
                row_tokens=config.corpus_row_tokens,
            )
    if config.second_moment and config.second_moment_file is not None:
        return read_published(config.second_moment_file)
    return None


def source_of_statistics(model: LanguageModel, config: SecondMomentConfig) -> str:
    """Fingerprint of the model that C is computed on; a key for what an editor derives from C.

    As cheap as :attr:`LanguageModel.base_fingerprint` by default, so that an editor can ask at each
    step of a sequence.
    """
    return model.base_fingerprint if config.statistics_of == "base" else model.fingerprint


def compute_second_moment(
    model: LanguageModel,
    path: str,
    texts: Iterable[str],
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
) -> SecondMoment:
    """C of a module's inputs over texts, without the cache; arguments as for :func:`accumulate`.

    Raises:
        CacheError: There is no text.
    """
    return _computed(accumulate(model, path, texts, tokens=tokens, row_tokens=row_tokens))


def cached_second_moment(
    fingerprint: str,
    path: str,
    corpus: Corpus,
    tokens: int | None,
    dtype: str,
    row_tokens: int = ROW_TOKENS,
) -> Path | None:
    """The cached file of a statistic; None if it is not cached. Nothing is loaded or computed.

    Args:
        fingerprint: The model's fingerprint.
        path: Dotted path of the module.
        corpus: The texts.
        tokens: As for :func:`second_moment`.
        dtype: Type of the weights: ``float32``.
        row_tokens: As for :func:`second_moment`.

    Raises:
        ConfigError: The corpus does not exist.
    """
    file = _file(_description(fingerprint, path, corpus, tokens, f"torch.{dtype}", row_tokens))
    return file if file.is_file() else None


def read_published(path: str | Path) -> SecondMoment:
    """Read a ``.npz`` statistic of ROME's authors.

    Raises:
        CacheError: The file is missing or damaged, or is not a second moment.
    """
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as arrays:
            count = int(arrays["mom2.count"])
            matrix = torch.from_numpy(np.asarray(arrays["mom2.mom2"], dtype=np.float64))
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        raise CacheError(
            f"{path} is not a published second moment: {error}",
            hint="Give a .npz file with the keys mom2.mom2 and mom2.count.",
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or count < 1:
        raise CacheError(
            f"{path} has a second moment of shape {tuple(matrix.shape)} over {count} tokens, "
            "expected a square matrix and a positive count.",
            hint="Download it again.",
        )
    moment = (matrix / count).float()
    if not bool(torch.isfinite(moment).all()):
        raise CacheError(
            f"{path} has a second moment with NaN or infinity.", hint="Download it again."
        )
    return SecondMoment(moment, count)


def _description(
    fingerprint: str, path: str, corpus: Corpus, tokens: int | None, dtype: str, row_tokens: int
) -> dict[str, Any]:
    """Everything that a statistic depends on."""
    return {
        "model": fingerprint,
        "module": path,
        "corpus": corpus.digest(),
        "tokens": tokens,
        "row_tokens": row_tokens,
        "dtype": dtype,
    }


def _file(description: dict[str, Any]) -> Path:
    return cache_folder() / _KIND / f"{key_of(description)}.safetensors"


def _computed(sums: tuple[Tensor, int] | None) -> SecondMoment:
    if sums is None:
        raise CacheError(
            "the corpus has no text, so there is no second moment.",
            hint="Give a corpus with texts that are not empty.",
        )
    total, count = sums
    return SecondMoment((total / count).float().cpu(), count)


# ---------------------------------------------------------------- the sum


Progress = Callable[[int], None]
"""Called with the number of tokens in the sum."""


class Watcher(Protocol):
    """Observes a growing sum."""

    @property
    def identity(self) -> str:
        """Its settings; a watcher does not restore the state of one with other settings."""

    def look(self, total: Tensor, count: int) -> None:
        """Observe the sum, (D, D) float64, over ``count`` tokens."""

    def state(self) -> dict[str, Tensor]:
        """Its observations, saved with the sum."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a result of :meth:`state`."""


@dataclasses.dataclass(frozen=True)
class SumFile:
    """Where and how often an unfinished sum is saved.

    Attributes:
        path: The file.
        seconds: Seconds between two writes.
        of: What the sum depends on, as plain data; the file of another sum is not used.
    """

    path: Path
    seconds: float = 60.0
    of: Mapping[str, Any] | None = None


@dataclasses.dataclass
class _Sum:
    total: Tensor | None = None
    count: int = 0
    batches: int = 0


def accumulate(
    model: LanguageModel,
    path: str,
    texts: Iterable[str],
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
    file: SumFile | None = None,
    watcher: Watcher | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, int] | None:
    """The sum Σ k kᵀ of a module's inputs, (D, D) float64, and its number of tokens.

    Products are computed in float32, whatever the model's type, and summed in float64.

    Args:
        model: The model; forward passes end at the module.
        path: Dotted path of the module.
        texts: Texts, each a row of its own.
        tokens: Stop after this number of tokens; None: use all texts.
        row_tokens: Most tokens of a text; the rest is cut off, as is what exceeds the context.
        file: Where the unfinished sum is saved and resumed from; None: nowhere.
        watcher: Observes the sum after every batch.
        progress: Called after every batch.

    Returns:
        None if there is no text.
    """
    start = _read(file, watcher) if file else _Sum()
    now = dataclasses.replace(start)
    written = time.monotonic()
    batches = batched(tokenised(model, texts, tokens, row_tokens))
    try:
        for rows in itertools.islice(batches, start.batches, None):
            keys = keys_of(model, path, rows)  # (tokens, D)
            product = (keys.T @ keys).double()  # (D, D)
            total = product if now.total is None else now.total.add_(product)
            now = _Sum(total, now.count + len(keys), now.batches + 1)
            if watcher:
                watcher.look(total, now.count)
            if progress:
                progress(now.count)
            if file and time.monotonic() - written >= file.seconds:
                _write(file, now, watcher)
                written = time.monotonic()
    except KeyboardInterrupt:
        if file:
            _write(file, now, watcher)
        raise
    if file and now.total is not None:
        file.path.unlink(missing_ok=True)
    return None if now.total is None else (now.total, now.count)


def keys_of(model: LanguageModel, path: str, rows: list[tuple[int, ...]]) -> Tensor:
    """Inputs of a module at every token of the rows, one row after the other, (tokens, D)."""
    with torch.no_grad(), model.frozen():
        ids = padded(rows, model.device)  # (B, T)
        with recording(model, [path], stop=True) as seen:
            forward(model, ids)
    keys = seen[path].inputs.reshape(*ids.shape, -1)  # (B, T, D)
    lengths = torch.tensor([len(row) for row in rows], device=keys.device)
    real = torch.arange(ids.shape[1], device=keys.device)[None] < lengths[:, None]  # (B, T)
    return keys[real].float()


def tokenised(
    model: LanguageModel, texts: Iterable[str], tokens: int | None, row_tokens: int = ROW_TOKENS
) -> Iterator[tuple[int, ...]]:
    """Texts as token ids: at most ``row_tokens`` and the context per text, ``tokens`` in total."""
    longest = min(row_tokens, model.context_length)
    left = tokens
    source = iter(texts)
    while some := list(itertools.islice(source, _TEXTS_PER_READ)):
        for encoding in model.encode(some, empty=True):
            ids = encoding.ids[:longest]
            if left is not None:
                ids = ids[:left]
                left -= len(ids)
            if ids:
                yield ids
            if left == 0:
                return


def batched(rows: Iterable[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Rows in order, in batches of at most :data:`TOKENS_PER_PASS` tokens with padding."""
    batch: list[tuple[int, ...]] = []
    for row in rows:
        width = max(len(row), *(len(each) for each in batch), 1)
        if batch and width * (len(batch) + 1) > TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _write(file: SumFile, now: _Sum, watcher: Watcher | None) -> None:
    if now.total is None:
        return
    tensors = {"total": now.total.cpu()}
    facts: dict[str, Any] = {"count": now.count, "batches": now.batches, "of": file.of}
    if watcher:
        facts["watcher"] = watcher.identity
        tensors.update({f"watcher/{name}": t for name, t in watcher.state().items()})
    facts["digest"] = digest_of_tensors(tensors, ascii_json(facts))
    with writing_to_cache():
        write_atomically(file.path, save(tensors, metadata={"sum": json.dumps(facts)}))


def _read(file: SumFile, watcher: Watcher | None) -> _Sum:
    """The saved sum; an empty sum if the file is missing, damaged, or of another sum."""
    path = file.path
    try:
        metadata, tensors = read_safetensors(path)
        facts = json.loads(metadata["sum"])
        digest = facts.pop("digest")
        if digest != digest_of_tensors(tensors, ascii_json(facts)):
            raise ValueError("its content does not match its digest")
        saved = _Sum(tensors["total"], int(facts["count"]), int(facts["batches"]))
    except FileNotFoundError:
        return _Sum()
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s is damaged (%s); the sum starts over", path, error)
        return _Sum()
    if (why := first_difference(facts.get("of"), file.of)) is not None:
        _log.warning("%s belongs to something else (%s); the sum starts over", path, why)
        return _Sum()
    if watcher and facts.get("watcher") == watcher.identity:
        watcher.restore(
            {n.removeprefix("watcher/"): t for n, t in tensors.items() if n.startswith("watcher/")}
        )
    return saved
