"""A worker's part in second moments: read texts as tokens, and sum the keys of some batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from editkit.covariance.gram import Sum
from editkit.data_types import EditRequest
from editkit.errors import ConfigError
from editkit.models.encoding import chunks_by_tokens, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, recording
from editkit.registry.models import load_model

__all__ = ["LoadedModel", "NamedModel", "SumBench", "keys_of", "rows_of"]

Row: TypeAlias = tuple[int, ...]
"""A text's token ids."""

_WATCHED = 16


# ---------------------------------------------------------------- jobs and answers


@dataclasses.dataclass(frozen=True)
class Watch:
    """Job: compute keys of layers for the convergence report; the answer is :class:`Watched`.

    Attributes:
        layers: The layers.
        requests: The keys are those at the last token of these subjects.
        texts: Without requests, those in the middle of some of these texts.
        row_tokens: Most tokens of a text.
    """

    layers: Sequence[int]
    requests: Sequence[EditRequest]
    texts: Sequence[str]
    row_tokens: int


@dataclasses.dataclass(frozen=True)
class Read:
    """Job: read texts as token ids, at most ``row_tokens`` each; the answer is :class:`Rows`."""

    texts: Sequence[str]
    row_tokens: int


@dataclasses.dataclass(frozen=True)
class SumPart:
    """Job: sum the keys of some batches; the answers are :class:`Summed`, one per batch.

    Attributes:
        number: The part's place among all parts.
        batches: The batches, as token ids of rows.
        sums: By path of a module: what an earlier run has summed of this part.
        shown: Whether each answer has the sums so far. Within a process that costs nothing.
    """

    number: int
    batches: Sequence[Sequence[Row]]
    sums: Mapping[str, Sum]
    shown: bool


@dataclasses.dataclass(frozen=True)
class Watched:
    """Keys at the inputs of MLP output projections.

    Attributes:
        keys: (n, D), by path of the module, in the order of the layers.
    """

    keys: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Rows:
    """The token ids of texts, without texts that have none."""

    rows: Sequence[Row]


@dataclasses.dataclass(frozen=True)
class Summed:
    """A part of the sum grew by a batch.

    Attributes:
        part: The part's place among all parts.
        counts: By path: keys summed so far.
        sums: By path: the sums so far; None if they are not shown.
        is_done: Whether this was the part's last batch; then the sums are shown.
    """

    part: int
    counts: Mapping[str, int]
    sums: Mapping[str, Sum] | None
    is_done: bool


Job: TypeAlias = Watch | Read | SumPart
Answer: TypeAlias = Watched | Rows | Summed


# ---------------------------------------------------------------- the bench


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """Recipe of a bench whose model is loaded by the worker."""

    name: str
    dtype: str = "float32"
    device: str = "cpu"
    device_map: str | dict[str, int | str] | None = None

    def build(self) -> SumBench:
        """Load the model.

        Raises:
            ModelError: It cannot be loaded.
        """
        model = load_model(
            self.name, dtype=self.dtype, device=self.device, device_map=self.device_map
        )
        return SumBench(model)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Recipe of a bench for a model of this process."""

    model: LanguageModel

    def build(self) -> SumBench:
        """The bench."""
        return SumBench(self.model)


class SumBench:
    """A loaded model.

    Args:
        model: The model.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def about(self) -> dict[str, Any]:
        """The model: its name, its fingerprint as it is now, and the type of its weights."""
        model = self.model
        return {"model": model.name, "fingerprint": model.fingerprint, "dtype": str(model.dtype)}

    def do(self, job: Job) -> Iterator[Answer]:
        """Do one job.

        Raises:
            ModelError: A layer does not exist.
            ConfigError: No key is left to watch, because the texts are empty.
        """
        if isinstance(job, Watch):
            yield Watched(_watched_keys(self.model, job))
        elif isinstance(job, Read):
            yield Rows(rows_of(self.model, job.texts, job.row_tokens))
        else:
            yield from self._sum(job)

    def _sum(self, job: SumPart) -> Iterator[Summed]:
        sums = dict(job.sums)
        for number, rows in enumerate(job.batches):
            behind = [path for path, own in sums.items() if own.added == number]
            if behind:
                for path, keys in keys_of(self.model, behind, rows).items():  # (tokens, D)
                    sums[path].add_keys(keys)
            is_done = number == len(job.batches) - 1
            if is_done:
                sums = {path: own.cpu() for path, own in sums.items()}
            counts = {path: own.count for path, own in sums.items()}
            yield Summed(job.number, counts, sums if job.shown or is_done else None, is_done)


def rows_of(model: LanguageModel, texts: Sequence[str], row_tokens: int) -> list[Row]:
    """Texts as token ids, at most ``row_tokens`` and the context per text; empty ones left out."""
    longest = min(row_tokens, model.context_length)
    encodings = model.encode(texts, empty=True)
    return [encoding.ids[:longest] for encoding in encodings if encoding.ids]


def keys_of(model: LanguageModel, paths: Sequence[str], rows: Sequence[Row]) -> dict[str, Tensor]:
    """Inputs of modules at every token of the rows, one row after the other, (tokens, D) each.

    Rows of similar length run together: padding costs as much as tokens do.
    """
    lengths = torch.tensor([len(row) for row in rows])
    ends = lengths.cumsum(0)
    keys: dict[str, Tensor] = {}
    for chunk in chunks_by_tokens(lengths.tolist(), sum(map(len, rows))):
        ids = padded([rows[i] for i in chunk], model.device)  # (B, T)
        with torch.no_grad(), model.frozen(), recording(model, paths, stop=True) as seen:
            forward(model, ids)
        slots = torch.arange(ids.shape[1]).expand(ids.shape)  # (B, T)
        real = slots < lengths[chunk, None]
        places = ((ends - lengths)[chunk, None] + slots)[real]  # of the chunk's tokens
        for path in paths:
            every = seen[path].inputs.reshape(*ids.shape, -1)  # (B, T, D)
            if path not in keys:
                keys[path] = every.new_empty(int(ends[-1]), every.shape[-1], dtype=torch.float32)
            keys[path][places.to(every.device)] = every[real.to(every.device)].float()
    return keys


def _watched_keys(model: LanguageModel, job: Watch) -> dict[str, Tensor]:
    """The keys that a convergence report watches, (n, D) for each module.

    Raises:
        ModelError: A layer does not exist.
        ConfigError: There are neither requests nor texts.
    """
    paths = [model.path(layer, "mlp_out") for layer in job.layers]
    rows: list[Row] = []
    places: list[int] = []
    for request in job.requests[:_WATCHED]:
        [encoding] = model.read(
            [request.sentence], chat=request.chat, subjects=[request.subject_span]
        )
        model.check_length(encoding)
        rows.append(encoding.ids)
        places.append(encoding.position(request.subject_span, "subject_last"))
    if not job.requests:
        step = max(1, len(job.texts) // _WATCHED)
        rows = rows_of(model, job.texts[::step], job.row_tokens)
        places = [len(ids) // 2 for ids in rows]
    if not rows:
        raise ConfigError("the corpus has no text.", hint="Give a corpus with text in it.")
    keys = [keys_of(model, paths, [row]) for row in rows]
    return {
        path: torch.cat(
            [own[path][place : place + 1].cpu() for own, place in zip(keys, places, strict=True)]
        )
        for path in paths
    }
