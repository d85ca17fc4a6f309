"""Uncentred second moments of a module's inputs: C = sum of k kᵀ over tokens, divided by n.

Methods that whiten keys need C for the inputs of an MLP's output projection (Meng et al. 2022,
equation 2). It is computed once for a model, layer and corpus, streaming, and kept in the cache by
content; a computation that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from editkit.covariance.accumulation import ROW_TOKENS, Kept, Progress, Watcher, accumulate
from editkit.covariance.corpora import Corpus
from editkit.errors import CacheError, ConfigError
from editkit.models.language_model import LanguageModel
from editkit.storage.cache import cache_folder, cached_tensors
from editkit.storage.digests import key_of

__all__ = [
    "SecondMoment",
    "Whitening",
    "cached_second_moment",
    "compute_second_moment",
    "read_published",
    "second_moment",
]

_KIND = "second_moment"


@dataclasses.dataclass(frozen=True)
class SecondMoment:
    """C and how many tokens it averages.

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
                hint="Set a ridge (1e-3 is usual on small models), or use more tokens.",
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
        corpus: Texts, each run on its own and cut at ``row_tokens``.
        tokens: Stop after this many tokens; None for the whole corpus.
        row_tokens: Most tokens of a text that are run, at most the model's context.
        watcher: Looks at the sum while it grows, where it is computed.
        progress: Is told how many tokens are in the sum.
        seconds_between: How often the unfinished sum is kept, to be gone on with after a kill.

    Raises:
        CacheError: The corpus has no text.
    """
    description = _description(
        model.fingerprint, path, corpus, tokens, str(model.dtype), row_tokens
    )

    def make() -> dict[str, Tensor]:
        kept = Kept(_file(description).with_suffix(".partial"), seconds_between, description)
        computed = _computed(
            accumulate(
                model,
                path,
                corpus.texts(),
                tokens=tokens,
                row_tokens=row_tokens,
                kept=kept,
                watcher=watcher,
                progress=progress,
            )
        )
        if model.fingerprint != description["model"]:
            raise CacheError(
                f"the weights of {model.name} changed while a statistic of them was computed.",
                hint="Let nothing else edit or train the model meanwhile, and compute it again.",
            )
        if corpus.digest() != description["corpus"]:
            raise CacheError(
                f"the corpus {corpus.source!r} changed while a statistic over it was computed.",
                hint="Compute it again. A function must yield the same texts at every call.",
            )
        return {"matrix": computed.matrix, "count": torch.tensor(computed.count)}

    found = cached_tensors(_KIND, description, make)
    return SecondMoment(found["matrix"], int(found["count"]))


def compute_second_moment(
    model: LanguageModel,
    path: str,
    texts: Iterable[str],
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
) -> SecondMoment:
    """C of a module's inputs over texts, without the cache.

    Products are formed in float32 and summed in float64.

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
    """The file of a statistic that is in the cache already; nothing is loaded or computed.

    Args:
        fingerprint: The model's fingerprint.
        path: Dotted path of the module.
        corpus: The texts.
        tokens: Most tokens, as it was asked for.
        dtype: Type of the weights: ``float32``.
        row_tokens: Most tokens of a text that are run, as it was asked for.

    Raises:
        ConfigError: The corpus does not exist.
    """
    file = _file(_description(fingerprint, path, corpus, tokens, f"torch.{dtype}", row_tokens))
    return file if file.is_file() else None


def read_published(path: str | Path) -> SecondMoment:
    """Read a statistic that ROME's authors published as ``.npz``.

    Raises:
        CacheError: The file is missing, damaged, or holds no second moment.
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
            f"{path} holds no published second moment: {error}",
            hint="Give a .npz file with the keys mom2.mom2 and mom2.count.",
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or count < 1:
        raise CacheError(
            f"{path} holds a second moment of shape {tuple(matrix.shape)} over {count} tokens.",
            hint="Give a square matrix and a positive count.",
        )
    found = (matrix / count).float()
    if not bool(torch.isfinite(found).all()):
        raise CacheError(
            f"{path} holds a second moment with NaN or infinity.", hint="Download it again."
        )
    return SecondMoment(found, count)


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


def _computed(found: tuple[Tensor, int] | None) -> SecondMoment:
    if found is None:
        raise CacheError(
            "the corpus holds no text, so no second moment can be computed.",
            hint="Give a corpus with text in it.",
        )
    total, count = found
    return SecondMoment((total / count).float().cpu(), count)
