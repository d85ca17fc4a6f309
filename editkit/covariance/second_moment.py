"""Uncentred second moments of a module's inputs: C = Σ k kᵀ / n over n tokens.

Methods that whiten keys need C of the inputs of an MLP's output projection (Meng et al. 2022,
equation 2). It is computed in a stream over a corpus, for any number of modules in one pass, and
cached by model, module and corpus. An interrupted computation resumes with a bit-exact result,
because the order of batches and sums depends only on the texts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from editkit.progress import counting
from editkit.storage.cache import (
    cache_folder,
    cached_together,
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
    "configured_second_moments",
    "read_published",
    "second_moment",
    "second_moments",
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

    def matrix(self) -> Tensor:
        """C with its ridge, (D, D), float64."""
        return self.factor @ self.factor.T


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
    """C of a module's inputs over a corpus; :func:`second_moments` for one module.

    Args:
        model: The model.
        path: Dotted path of the module.
        corpus: Texts, each a row of its own.
        tokens: As for :func:`second_moments`, and so are the other arguments.
        row_tokens: Most tokens of a text.
        watcher: Observes the sum while it is computed.
        progress: Called with the number of tokens so far.
        seconds_between: Seconds between two saves of the unfinished sum.

    Raises:
        CacheError: The corpus has no text, or the model or the corpus changed meanwhile.
    """
    return second_moments(
        model,
        [path],
        corpus,
        tokens=tokens,
        row_tokens=row_tokens,
        watchers={} if watcher is None else {path: watcher},
        progress=progress,
        seconds_between=seconds_between,
    )[path]


def second_moments(
    model: LanguageModel,
    paths: Sequence[str],
    corpus: Corpus,
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
    watchers: Mapping[str, Watcher] | None = None,
    progress: Progress | None = None,
    seconds_between: float = 60.0,
) -> dict[str, SecondMoment]:
    """C of the inputs of modules over a corpus, from the cache or computed now, in one pass.

    Each module's C is cached by itself, and does not depend on the other modules of the call.

    Args:
        model: The model; forward passes end once all modules have run.
        paths: Dotted paths of the modules.
        corpus: Texts, each a row of its own.
        tokens: Stop after this number of tokens; None: use the whole corpus.
        row_tokens: Most tokens of a text; the rest is cut off, as is what exceeds the context.
        watchers: Observe the sums of some paths while they are computed.
        progress: Called with the number of tokens so far.
        seconds_between: Seconds between two saves of the unfinished sums.

    Raises:
        CacheError: The corpus has no text, or the model or the corpus changed meanwhile.
    """
    paths = list(dict.fromkeys(paths))
    identity, texts = model.fingerprint, corpus.digest()
    descriptions = [
        _description(identity, path, texts, tokens, str(model.dtype), row_tokens) for path in paths
    ]
    unfinished = [_file(each).with_suffix(".partial") for each in descriptions]

    def make(missing: Sequence[int]) -> list[dict[str, Tensor]]:
        sums = accumulate(
            model,
            [paths[i] for i in missing],
            corpus.texts(),
            tokens=tokens,
            row_tokens=row_tokens,
            files={
                paths[i]: SumFile(unfinished[i], seconds_between, descriptions[i]) for i in missing
            },
            watchers=watchers,
            progress=progress,
        )
        if model.fingerprint != identity:
            raise CacheError(
                f"the weights of {model.name} changed while a statistic was computed.",
                hint="Compute it again, and do not edit or train the model meanwhile.",
            )
        if corpus.digest() != texts:
            raise CacheError(
                f"the corpus {corpus.source!r} changed while a statistic was computed.",
                hint="Compute it again. A function must yield the same texts in every call.",
            )
        computed = [_computed(sums.get(paths[i])) for i in missing]
        return [{"matrix": c.matrix, "count": torch.tensor(c.count)} for c in computed]

    tensors = cached_together(_KIND, descriptions, make)
    for file in unfinished:
        file.unlink(missing_ok=True)
    return {
        path: SecondMoment(own["matrix"], int(own["count"]))
        for path, own in zip(paths, tensors, strict=True)
    }


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
    moments = configured_second_moments(model, [path], config, editor=editor)
    return None if moments is None else moments[path]


def configured_second_moments(
    model: LanguageModel, paths: Sequence[str], config: SecondMomentConfig, *, editor: str
) -> dict[str, SecondMoment] | None:
    """As :func:`configured_second_moment`, of several modules in one pass over the corpus.

    Raises:
        ConfigError: Neither a corpus nor a file is named, or one file is named for several modules.
        CacheError: The corpus or the file holds no second moment.
    """
    corpus = config.corpus_for(editor)
    if corpus is not None:
        of_base = config.statistics_of == "base"
        with model.unedited() if of_base else contextlib.nullcontext():
            return second_moments(
                model,
                paths,
                corpus,
                tokens=config.corpus_tokens,
                row_tokens=config.corpus_row_tokens,
            )
    files = config.files_for(paths, editor)
    return {p: read_published(f) for p, f in zip(paths, files, strict=True)} if files else None


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
    sums = accumulate(model, [path], texts, tokens=tokens, row_tokens=row_tokens)
    return _computed(sums.get(path))


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
    dtype = f"torch.{dtype}"
    file = _file(_description(fingerprint, path, corpus.digest(), tokens, dtype, row_tokens))
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
    fingerprint: str, path: str, corpus: str, tokens: int | None, dtype: str, row_tokens: int
) -> dict[str, Any]:
    """Everything that a statistic depends on."""
    return {
        "model": fingerprint,
        "module": path,
        "corpus": corpus,
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
    """A growing sum; ``whole`` is false while a batch is being added, so that Ctrl-C saves none."""

    total: Tensor | None = None
    count: int = 0
    batches: int = 0
    whole: bool = True

    def add(self, keys: Tensor, watcher: Watcher | None) -> None:
        """Add the products of a batch of keys, (tokens, D)."""
        product = (keys.T @ keys).double()  # (D, D)
        self.whole = False
        self.total = product if self.total is None else self.total.add_(product)
        self.count += len(keys)
        self.batches += 1
        if watcher:
            watcher.look(self.total, self.count)
        self.whole = True


def accumulate(
    model: LanguageModel,
    paths: Sequence[str],
    texts: Iterable[str],
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
    files: Mapping[str, SumFile] | None = None,
    watchers: Mapping[str, Watcher] | None = None,
    progress: Progress | None = None,
) -> dict[str, tuple[Tensor, int]]:
    """The sums Σ k kᵀ of modules' inputs, (D, D) float64, and their number of tokens, in one pass.

    Products are computed in float32, whatever the model's type, and summed in float64.

    Args:
        model: The model; forward passes end once all modules have run.
        paths: Dotted paths of the modules.
        texts: Texts, each a row of its own.
        tokens: Stop after this number of tokens; None: use all texts.
        row_tokens: Most tokens of a text; the rest is cut off, as is what exceeds the context.
        files: Where the unfinished sums of paths are saved and resumed from. If some sums are
            ahead, they wait for the others.
        watchers: Observe the sums of paths after every batch.
        progress: Called after every batch with the number of tokens in the shortest sum.

    Returns:
        The sum of each path; empty if there is no text.
    """
    files, watchers = files or {}, watchers or {}
    sums = {
        path: _read(files[path], watchers.get(path)) if path in files else _Sum() for path in paths
    }
    batch = min(each.batches for each in sums.values())
    seconds_between = min((file.seconds for file in files.values()), default=math.inf)
    written = time.monotonic()

    def write() -> None:
        for path, file in files.items():
            _write(file, sums[path], watchers.get(path))

    def shortest() -> int:
        return min(each.count for each in sums.values())

    batches = batched(tokenised(model, texts, tokens, row_tokens))
    several = f"second moments of {len(paths)} modules"
    title = several if len(paths) > 1 else f"second moment of {paths[0]}"
    with counting(title, tokens, unit="token", done=shortest()) as counter:
        try:
            for rows in itertools.islice(batches, batch, None):
                behind = [path for path in paths if sums[path].batches == batch]
                for path, keys in keys_of(model, behind, rows).items():  # (tokens, D)
                    sums[path].add(keys, watchers.get(path))
                batch += 1
                counter.to(shortest())
                if progress:
                    progress(shortest())
                if time.monotonic() - written >= seconds_between:
                    write()
                    written = time.monotonic()
        except KeyboardInterrupt:
            write()
            raise
    return {p: (each.total, each.count) for p, each in sums.items() if each.total is not None}


def keys_of(
    model: LanguageModel, paths: Sequence[str], rows: Sequence[tuple[int, ...]]
) -> dict[str, Tensor]:
    """Inputs of modules at every token of the rows, one row after the other, (tokens, D) each."""
    with torch.no_grad(), model.frozen():
        ids = padded(rows, model.device)  # (B, T)
        with recording(model, paths, stop=True) as seen:
            forward(model, ids)
    keys = {}
    for path in paths:
        every = seen[path].inputs.reshape(*ids.shape, -1)  # (B, T, D)
        lengths = torch.tensor([len(row) for row in rows], device=every.device)
        real = torch.arange(ids.shape[1], device=every.device)[None] < lengths[:, None]  # (B, T)
        keys[path] = every[real].float()
    return keys


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
    if now.total is None or not now.whole:
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
