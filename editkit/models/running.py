"""Running a model, or only the part of it that changes.

Two things can be computed once and reused: the keys and values of the tokens in front
(:func:`run_prefix`), and the inputs of the upper blocks (:class:`Tail`), which can then be run any
number of times with other hidden states. This works for every architecture, because blocks are
called with the arguments that the model itself passed to them.

A model may be on several devices. Arguments and results of these functions are on ``model.device``;
only functions that replace a module's output get tensors on the module's device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from editkit.models.block_calls import (
    Call,
    FrozenLayer,
    WholeLayer,
    aligned_right,
    cache_of,
    first,
    frozen_cache,
    projected,
    rows_of,
    unshared,
)
from editkit.models.language_model import LanguageModel
from editkit.models.shape import window_of

__all__ = [
    "Activation",
    "Prefix",
    "Reads",
    "Tail",
    "forward",
    "forward_after",
    "recording",
    "replacing",
    "run_prefix",
    "with_weights",
]


_FEW = 3  # the last block is split if one token in this many is read, or fewer


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Keys and values of the first tokens of a batch of rows.

    Of its P slots, a row uses the last ones; padding is in front. The tokens that follow take the
    next slots, so distances between slots equal distances between tokens, and everything that a
    model derives from slots (windows, chunks, distance biases) is correct for all rows.

    Attributes:
        cache: The cache that the model reads; it does not grow.
        mask: (B, P), 1 at real tokens.
    """

    cache: DynamicCache
    mask: Tensor


def forward(
    model: LanguageModel,
    ids: Tensor,
    *,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    cache: DynamicCache | None = None,
) -> Tensor:
    """Final hidden states of the base model, after the final norm.

    Args:
        model: The model.
        ids: Token ids, (B, T).
        mask: (B, P + T), 1 at real tokens; not needed if padding is only on the right.
        positions: Position of each token, (B, T); by default counted from 0.
        cache: Keys and values of P earlier tokens.

    Returns:
        (B, T, H)
    """
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    base = model.hf.base_model
    output = base(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=cache is not None,
        **({} if cache is None else {_cache_argument(base): cache}),
    )
    hidden: Tensor = output.last_hidden_state
    return hidden.to(ids.device)


def _cache_argument(base: nn.Module) -> str:
    """The name of a model's cache argument, which newer releases of transformers changed."""
    return "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"


def run_prefix(
    model: LanguageModel, ids: Tensor, lengths: Tensor, *, rows: Tensor | None = None
) -> tuple[Prefix, Tensor]:
    """Run the tokens of a prefix and keep their keys and values.

    Args:
        model: The model.
        ids: Token ids padded on the right, (B, P).
        lengths: Number of real tokens of each row, (B,).
        rows: Rows of the prefix, each any number of times; by default all rows once.

    Returns:
        The prefix, and the final hidden states of all rows of ``ids``, (B, P, H).
    """
    cache = DynamicCache()
    hidden = forward(model, ids, cache=cache)
    size = ids.shape[1]
    ragged = bool((lengths < size).any())
    kept = aligned_right(cache, lengths, rows) if ragged else frozen_cache(cache, rows)
    lengths = lengths if rows is None else rows_of(lengths, rows)
    mask = torch.arange(size, device=ids.device)[None] >= size - lengths[:, None]  # (B', P)
    return Prefix(kept, mask.long()), hidden


def forward_after(
    model: LanguageModel, prefix: Prefix | None, ids: Tensor, starts: Tensor
) -> Tensor:
    """Final hidden states of tokens that follow a prefix.

    Args:
        model: The model.
        prefix: The prefix; None if there is none.
        ids: Token ids padded on the right, (B, S).
        starts: Number of real tokens in front of each row, (B,).

    Returns:
        (B, S, H)
    """
    if prefix is None:
        return forward(model, ids)
    positions = starts[:, None] + torch.arange(ids.shape[1], device=ids.device)  # (B, S)
    mask = torch.cat([prefix.mask, torch.ones_like(ids)], dim=1)  # (B, P + S)
    return forward(
        model,
        ids,
        mask=mask,
        positions=positions.clamp(max=model.context_length - 1),  # padding may run past the end
        cache=prefix.cache,
    )


class _Stop(Exception):
    """Ends a forward pass early."""


@dataclasses.dataclass
class Activation:
    """Input and output of a module at its last call.

    Attributes:
        inputs: First argument, (B, T, in).
        output: First result, (B, T, out).
    """

    inputs: Tensor
    output: Tensor


@contextlib.contextmanager
def recording(
    model: LanguageModel, paths: Sequence[str], *, stop: bool = False
) -> Iterator[dict[str, Activation]]:
    """Record inputs and outputs of modules, by path.

    Args:
        model: The model.
        paths: Dotted paths of the modules.
        stop: Whether the forward pass and the ``with`` block end once all ``paths`` are recorded.
    """
    seen: dict[str, Activation] = {}

    def hook(path: str) -> Callable[..., Any]:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
            inputs = args[0] if args else kwargs["hidden_states"]
            device = model.device
            seen[path] = Activation(inputs.to(device), first(output).to(device))
            if stop and len(seen) == len(paths):
                raise _Stop
            return unshared(output)  # Falcon's blocks add to an MLP's output in place

        return record

    with contextlib.ExitStack() as hooks:
        for path in paths:
            handle = model.module(path).register_forward_hook(hook(path), with_kwargs=True)
            hooks.callback(handle.remove)
        with contextlib.suppress(_Stop):
            yield seen


@contextlib.contextmanager
def replacing(
    model: LanguageModel, replacements: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
) -> Iterator[None]:
    """Replace the outputs of modules.

    Args:
        model: The model.
        replacements: By module path, a function from (input, output) to the new output, all on the
            device of the module's output.
    """

    def hook(replace: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
        def run(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
            inputs = args[0] if args else kwargs["hidden_states"]
            old = first(output)
            new = replace(inputs.to(old.device), old)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return run

    with contextlib.ExitStack() as hooks:
        for path, replace in replacements.items():
            handle = model.module(path).register_forward_hook(hook(replace), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


@contextlib.contextmanager
def with_weights(model: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model computes with other tensors in the place of parameters.

    Gradients flow to these tensors. The parameters themselves are put back at the end, untouched.
    A parameter that several modules share is replaced only under the given name.

    Args:
        model: The model.
        weights: By parameter name, a tensor in the model's layout; cast to the parameter's type
            and device.
    """
    with contextlib.ExitStack() as restored:
        for name, tensor in weights.items():
            path, _, field = name.rpartition(".")
            parameters = model.module(path)._parameters
            own = parameters[field]
            restored.callback(parameters.__setitem__, field, own)
            parameters[field] = cast("nn.Parameter", tensor.to(model.hf.get_parameter(name)))
        yield


@dataclasses.dataclass(frozen=True)
class Reads:
    """The tokens of a batch whose states are read.

    Attributes:
        row: Row of each token, (N,).
        column: Its place in the row, (N,).
        columns: The tokens of each row, the last one repeated in rows with fewer, (B, S').
        place: Place of each token in its row of ``columns``, (N,).
    """

    row: Tensor
    column: Tensor
    columns: Tensor
    place: Tensor

    @classmethod
    def of(cls, row: Tensor, column: Tensor, n_rows: int) -> Reads:
        """Arrange the tokens by row.

        Args:
            row: Row of each token, (N,).
            column: Its place in the row, (N,).
            n_rows: Number of rows B.
        """
        by_row: list[list[int]] = [[] for _ in range(n_rows)]
        place = []
        for r, c in zip(row.tolist(), column.tolist(), strict=True):
            place.append(len(by_row[r]))
            by_row[r].append(c)
        most = max(map(len, by_row))
        columns = [(own or [0]) + (own or [0])[-1:] * (most - max(len(own), 1)) for own in by_row]
        return cls(
            row,
            column,
            torch.tensor(columns, device=row.device),
            torch.tensor(place, device=row.device),
        )


@dataclasses.dataclass(frozen=True)
class Tail:
    """The blocks from ``start`` on, with the arguments to run them again.

    Attributes:
        model: The model.
        start: The first of these blocks; the number of layers if there are none.
        hidden: Input of that block in the recorded pass, (B, S, H).
    """

    model: LanguageModel
    start: int
    hidden: Tensor
    _calls: tuple[Call, ...]
    _cache: DynamicCache | None

    @classmethod
    def record(
        cls,
        model: LanguageModel,
        prefix: Prefix | None,
        ids: Tensor,
        starts: Tensor,
        *,
        start: int,
    ) -> Tail:
        """Run tokens after a prefix, and keep the arguments of the blocks from ``start`` on.

        Args:
            model: The model.
            prefix: The prefix; None if there is none.
            ids: Token ids padded on the right, (B, S).
            starts: Number of real tokens in front of each row, (B,).
            start: The first block to run again.
        """
        layers = range(start, model.n_layers)
        calls: list[Call] = []
        inputs: list[Tensor] = []

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, call = Call.recorded(args, kwargs)
            inputs.append(hidden)
            calls.append(call)

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            inputs.append(first(output))

        with contextlib.ExitStack() as hooks, torch.no_grad():
            for layer in layers:
                handle = model.block(layer).register_forward_pre_hook(before, with_kwargs=True)
                hooks.callback(handle.remove)
            if not layers:
                hooks.callback(model.block(start - 1).register_forward_hook(after).remove)
            forward_after(model, prefix, ids, starts)
        hidden = inputs[0].to(model.device)
        return cls(model, start, hidden, tuple(calls), prefix.cache if prefix else None)

    def run(self, hidden: Tensor) -> Tensor:
        """States after the last block, before the final norm.

        Args:
            hidden: Input of block :attr:`start`, (B, S, H).

        Returns:
            (B, S, H)
        """
        for layer, call in enumerate(self._calls, self.start):
            hidden = call(self.model.block(layer), hidden)
        return hidden.to(self.model.device)

    def read(self, hidden: Tensor, reads: Reads) -> Tensor:
        """States after the last block at some tokens, before the final norm.

        If these are few, the last block computes only keys and values of the others.

        Args:
            hidden: Input of block :attr:`start`, (B, S, H).
            reads: The tokens.

        Returns:
            (N, H)
        """
        size = hidden.shape[1]
        few = _FEW * reads.columns.shape[1] <= size
        if not few or len(self._calls) < 2 or not self._shows_all(size):
            return self.run(hidden)[reads.row, reads.column]
        for layer, call in enumerate(self._calls[:-1], self.start):
            hidden = call(self.model.block(layer), hidden)
        last, call, old = self.model.n_layers - 1, self._calls[-1], self._cache
        block = self.model.block(last)
        own = projected(lambda end: call.with_cache(old, cache_of(end, last))(block, hidden))
        whole = WholeLayer()
        prefix = FrozenLayer() if old is None else old.layers[last]
        whole.lazy_initialization(*prefix.update(*own))
        columns = reads.columns.to(hidden.device)  # (B, S')
        asked = hidden.take_along_dim(columns[..., None], dim=1)  # (B, S', H)
        call = call.at_each(columns, size).with_cache(old, cache_of(whole, last))
        return call(block, asked).to(self.model.device)[reads.row, reads.place]

    def _shows_all(self, size: int) -> bool:
        """Whether the last block's mask alone decides what each of ``size`` tokens attends to.

        Not so with windows that a block counts from its last key, as GPT-Neo does.
        """
        keys, window = self._calls[-1].masked_keys(size), window_of(self.model.hf.config)
        return keys is not None and (window is None or keys <= window)

    def above(self, layer: int, hidden: Tensor) -> Tail:
        """The tail from a later block on.

        Args:
            layer: The later block.
            hidden: Its input, (B, S, H).
        """
        calls = self._calls[layer - self.start :]
        return dataclasses.replace(self, start=layer, hidden=hidden, _calls=calls)

    def select(self, rows: Tensor) -> Tail:
        """The tail for other rows: new row ``i`` is the old row ``rows[i]``."""
        cache = None if self._cache is None else frozen_cache(self._cache, rows)
        n_rows = self.hidden.shape[0]
        calls = tuple(c.select(rows, n_rows).with_cache(self._cache, cache) for c in self._calls)
        return dataclasses.replace(self, hidden=self.hidden[rows], _calls=calls, _cache=cache)
