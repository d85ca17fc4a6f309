"""Uncentred second moments of a module's inputs: C = sum of k kᵀ over tokens, divided by n.

ROME (Meng et al. 2022, equation 2) needs C for the inputs of an MLP's output projection. It is
computed once for a model, layer and corpus, streaming, and kept in the cache by content.
"""

from __future__ import annotations

import dataclasses
import itertools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from editkit.cache import cached_tensors
from editkit.corpora import Corpus
from editkit.errors import CacheError
from editkit.models.encoding import padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, recording

__all__ = ["SecondMoment", "compute_second_moment", "read_published", "second_moment"]

_TOKENS_PER_PASS = 4096


@dataclasses.dataclass(frozen=True)
class SecondMoment:
    """C and how many tokens it averages.

    Attributes:
        matrix: (D, D), float32, symmetric.
        count: Number of tokens n.
    """

    matrix: Tensor
    count: int


def second_moment(
    model: LanguageModel, path: str, corpus: Corpus, *, tokens: int | None = None
) -> SecondMoment:
    """C of a module's inputs over a corpus, from the cache or computed now.

    Args:
        model: The model; forward passes end at the module.
        path: Dotted path of the module.
        corpus: Texts, each run on its own and cut at the model's context length.
        tokens: Stop after this many tokens; None for the whole corpus.

    Raises:
        CacheError: The corpus has no text.
    """
    description = {
        "model": model.fingerprint,
        "module": path,
        "corpus": corpus.digest(),
        "tokens": tokens,
        "dtype": str(model.dtype),
    }

    def make() -> dict[str, Tensor]:
        computed = compute_second_moment(model, path, corpus.texts(), tokens=tokens)
        return {"matrix": computed.matrix, "count": torch.tensor(computed.count)}

    found = cached_tensors("second_moment", description, make)
    return SecondMoment(found["matrix"], int(found["count"]))


def compute_second_moment(
    model: LanguageModel, path: str, texts: Iterable[str], *, tokens: int | None = None
) -> SecondMoment:
    """C of a module's inputs over texts, without the cache.

    Products are formed in float32 and summed in float64.

    Raises:
        CacheError: There is no text.
    """
    total: Tensor | None = None
    count = 0
    for rows in _batches(_tokenised(model, texts, tokens)):
        with torch.no_grad(), model.frozen():
            ids = padded(rows, model.device)  # (B, T)
            lengths = torch.tensor([len(row) for row in rows], device=model.device)
            with recording(model, [path], stop=True) as seen:
                forward(model, ids)
        keys = seen[path].inputs.reshape(*ids.shape, -1)  # (B, T, D)
        real = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]  # (B, T)
        flat = keys[real].float()  # (tokens, D)
        product = (flat.T @ flat).double()  # (D, D)
        total = product if total is None else total.add_(product)
        count += len(flat)
    if total is None:
        raise CacheError(
            "the corpus holds no text, so no second moment can be computed.",
            hint="Give a corpus with text in it.",
        )
    return SecondMoment((total / count).float().cpu(), count)


def read_published(path: str | Path) -> SecondMoment:
    """Read a statistic that ROME's authors published as ``.npz``.

    Raises:
        CacheError: The file is missing, damaged, or holds no second moment.
    """
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as arrays:
            count = int(arrays["mom2.count"])
            matrix = torch.from_numpy(np.asarray(arrays["mom2.mom2"], dtype=np.float64))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CacheError(
            f"{path} holds no published second moment: {error}",
            hint="Give a .npz file with the keys mom2.mom2 and mom2.count.",
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or count < 1:
        raise CacheError(
            f"{path} holds a second moment of shape {tuple(matrix.shape)} over {count} tokens.",
            hint="Give a square matrix and a positive count.",
        )
    return SecondMoment((matrix / count).float(), count)


def _tokenised(
    model: LanguageModel, texts: Iterable[str], tokens: int | None
) -> Iterator[tuple[int, ...]]:
    """Texts as token ids, each within the context, at most ``tokens`` in all."""
    left = tokens
    source = iter(texts)
    while some := list(itertools.islice(source, 256)):
        for encoding in model.encode(some):
            ids = encoding.ids[: model.context_length]
            if left is not None:
                ids = ids[:left]
                left -= len(ids)
            if ids:
                yield ids
            if left == 0:
                return


def _batches(rows: Iterable[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Rows in order, cut before a batch would exceed the tokens of one pass."""
    batch: list[tuple[int, ...]] = []
    for row in rows:
        width = max(len(row), *(len(each) for each in batch), 1)
        if batch and width * (len(batch) + 1) > _TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
