"""Uncentred second moments of a module's inputs: C = Σ k kᵀ / n over n tokens.

Methods that whiten keys need C of the inputs of an MLP's output projection (Meng et al. 2022,
equation 2). It is computed in a stream over a corpus, for any number of modules in one pass, and
cached by model, module and corpus. An interrupted computation resumes with a bit-exact result, and
workers compute the same bits as this process, because the order of batches and sums depends only on
the texts (:mod:`editkit.covariance.accumulate`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from editkit.covariance.accumulate import (
    ROW_TOKENS,
    Progress,
    SumFile,
    Summers,
    Watcher,
    accumulate,
)
from editkit.covariance.bench import LoadedModel
from editkit.covariance.config import SecondMomentConfig
from editkit.covariance.corpora import Corpus
from editkit.covariance.gram import Sum
from editkit.errors import CacheError, ConfigError
from editkit.models.language_model import LanguageModel
from editkit.storage.cache import cache_folder, cached_together
from editkit.storage.digests import key_of
from editkit.workers.pool import InProcess

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
    "second_moments_of_crew",
    "source_of_statistics",
]

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
        factor = self._near(key.device)
        columns = key.to(factor.device, torch.float64).reshape(-1, key.shape[-1]).T  # (D, n)
        solved = torch.cholesky_solve(columns, factor).T.reshape(key.shape)
        return solved.to(key.device, torch.float32)

    def _near(self, device: torch.device) -> Tensor:
        """The factor on a GPU, once it was needed there; if there is no room, that of the CPU.

        A solve reads the whole factor twice: 0.25 s per edit on one core for GPT-2 XL's D of 6,400.
        """
        if device.type != "cuda":
            return self.factor
        if device not in self._on_gpus:
            try:
                self._on_gpus[device] = self.factor.to(device)
            except torch.OutOfMemoryError:
                self._on_gpus[device] = self.factor
        return self._on_gpus[device]

    @functools.cached_property
    def _on_gpus(self) -> dict[torch.device, Tensor]:
        return {}

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
    with InProcess().opened(LoadedModel(model)) as crew:
        return second_moments_of_crew(
            crew,
            paths,
            corpus,
            tokens=tokens,
            row_tokens=row_tokens,
            watchers=watchers,
            progress=progress,
            seconds_between=seconds_between,
        )


def second_moments_of_crew(
    crew: Summers,
    paths: Sequence[str],
    corpus: Corpus,
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
    watchers: Mapping[str, Watcher] | None = None,
    progress: Progress | None = None,
    seconds_between: float = 60.0,
    is_local: bool = True,
) -> dict[str, SecondMoment]:
    """As :func:`second_moments`, computed by workers; the corpus is read in this process.

    Args:
        crew: The workers, with the model.
        paths: As for :func:`second_moments`, and so are the other arguments.
        corpus: Texts, each a row of its own.
        tokens: Stop after this number of tokens; None: use the whole corpus.
        row_tokens: Most tokens of a text.
        watchers: Observe the sums of some paths.
        progress: Called with the number of tokens so far.
        seconds_between: Seconds between two saves of the unfinished sums.
        is_local: Whether the worker is this process.

    Raises:
        CacheError: The corpus has no text, or the model or the corpus changed meanwhile.
        ClusterError: Three workers died over the same texts, or a worker has another model.
    """
    paths = list(dict.fromkeys(paths))
    about, texts = crew.about, corpus.digest()
    descriptions = [
        _description(about["fingerprint"], path, texts, tokens, about["dtype"], row_tokens)
        for path in paths
    ]
    unfinished = [_file(each).with_suffix(".partial") for each in descriptions]

    def make(missing: Sequence[int]) -> list[dict[str, Tensor]]:
        sums = accumulate(
            crew,
            [paths[i] for i in missing],
            corpus.texts(),
            tokens=tokens,
            row_tokens=row_tokens,
            files={
                paths[i]: SumFile(unfinished[i], seconds_between, descriptions[i]) for i in missing
            },
            watchers=watchers,
            progress=progress,
            is_local=is_local,
        )
        if crew.about["fingerprint"] != about["fingerprint"]:
            raise CacheError(
                f"the weights of {about['model']} changed while a statistic was computed.",
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
    """C of a module's inputs over texts, without the cache; arguments as for :func:`second_moment`.

    Raises:
        CacheError: There is no text.
    """
    with InProcess().opened(LoadedModel(model)) as crew:
        sums = accumulate(crew, [path], texts, tokens=tokens, row_tokens=row_tokens)
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


def _computed(total: Sum | None) -> SecondMoment:
    if total is None or total.gram is None:
        raise CacheError(
            "the corpus has no text, so there is no second moment.",
            hint="Give a corpus with texts that are not empty.",
        )
    return SecondMoment(total.gram.over(total.count), total.count)
