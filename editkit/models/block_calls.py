"""The arguments of blocks, and the caches that they read, for running blocks again.

A :class:`Call` has what the model itself passed to a block, and can be cut to other rows and
tokens. Caches here give the keys and values of earlier tokens, and never grow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from editkit.errors import ModelError

__all__ = [
    "Call",
    "FrozenLayer",
    "WholeLayer",
    "aligned_right",
    "cache_of",
    "first",
    "frozen_cache",
    "projected",
    "rows_of",
    "unshared",
]

# Arguments of a block whose first dimension counts tokens or heads, not rows.
_NOT_BY_ROW = frozenset({"cache_position", "position_bias"})
_OF_KEYS = frozenset({"alibi", "position_bias"})  # without a dimension of tokens that ask
_ALIBI = "alibi"  # (B heads, 1, P + S), or (B, heads, 1, P + S)


class FrozenLayer(DynamicLayer):
    """Keys and values of a prefix that later tokens can read but never extend."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Use keys and values as the prefix's, (B, heads, P, head size)."""
        super().lazy_initialization(key_states[:0], value_states[:0])
        self.keys, self.values = key_states, value_states

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix with those of these tokens, which are not kept."""
        if self.keys is None:
            return key_states, value_states
        return (
            torch.cat([self.keys, key_states], dim=-2),  # (B, heads, P + S, head size)
            torch.cat([self.values, value_states], dim=-2),
        )


class WholeLayer(FrozenLayer):
    """Keys and values of all tokens, those that read them included."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens; these are among them already."""
        return self.keys, self.values


class _Projected(Exception):
    """Ends a block once the keys and values of its tokens are known, (B, heads, S, head size)."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


class _EndingLayer(FrozenLayer):
    """Ends a block before its attention."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise _Projected(key_states, value_states)


def projected(run: Callable[[FrozenLayer], object]) -> tuple[Tensor, Tensor]:
    """The keys and values of a block's tokens, (B, heads, S, head size); nothing else is computed.

    Args:
        run: Runs the block with a layer of a cache.
    """
    try:
        run(_EndingLayer())
    except _Projected as ended:
        return ended.keys, ended.values
    raise AssertionError("blocks pass their keys and values to the cache")


def cache_of(layer: FrozenLayer, number: int) -> DynamicCache:
    """A cache for one block.

    Args:
        layer: Keys and values that it reads.
        number: The block.
    """
    cache = DynamicCache()
    cache.layers = [layer] * (number + 1)
    return cache


def first(output: Any) -> Tensor:
    """The tensor in a module's output: some modules return a tuple that begins with it."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def unshared(output: Any) -> Any:
    """A module's output with a copy of its tensor, so that what follows cannot change this one."""
    copied = first(output).clone()
    return (copied, *output[1:]) if isinstance(output, tuple) else copied


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments that the model passed to one block, without the hidden states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def recorded(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Call]:
        """The hidden states that a block received, (B, S, H), and its other arguments.

        Raises:
            ModelError: An argument cannot be cut into rows and tokens, such as the masks of flex
                attention.
        """
        rest = dict(kwargs)
        hidden = args[0] if args else rest.pop("hidden_states")
        for value in (*args[1:], *rest.values()):
            if hasattr(value, "shape") and not isinstance(value, Tensor):
                raise ModelError(
                    f"the model's attention passes a {type(value).__name__} to its blocks, which "
                    "editkit cannot cut into rows and tokens.",
                    hint="Load the model with attention sdpa or eager (--set "
                    "model.attention=sdpa).",
                )
        return hidden, cls(args[1:], rest)

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's output for other hidden states."""
        return first(block(hidden, *self.args, **self.kwargs))

    def select(self, rows: Tensor, n_rows: int) -> Call:
        """The arguments for other rows: new row ``i`` is row ``rows[i]`` of the old ``n_rows``."""

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                by_row = value.ndim > 1 and value.shape[0] == n_rows
                return rows_of(value, rows) if by_row else value
            if isinstance(value, (tuple, list)):
                return type(value)(pick(each) for each in value)
            if isinstance(value, dict):  # masks or rotary embeddings by type of layer
                return {key: pick(each) for key, each in value.items()}
            return value

        kwargs = {k: v if k in _NOT_BY_ROW else pick(v) for k, v in self.kwargs.items()}
        if isinstance(alibi := self.kwargs.get(_ALIBI), Tensor):
            by_row = alibi.reshape(n_rows, -1, *alibi.shape[1:])
            kwargs[_ALIBI] = rows_of(by_row, rows).flatten(0, 1)
        return Call(tuple(pick(each) for each in self.args), kwargs)

    def repeated(self, n_rows: int) -> Call:
        """The arguments of one row, for several equal rows where broadcasting does not do."""

        def whole(value: Any) -> Any:
            """A mask for all rows: some families check its shape."""
            is_mask = isinstance(value, Tensor) and value.ndim == 4 and value.shape[0] == 1
            return value.expand(n_rows, -1, -1, -1) if is_mask else value

        repeated = {name: whole(value) for name, value in self.kwargs.items()}
        alibi = self.kwargs.get(_ALIBI)
        if isinstance(alibi, Tensor):
            repeated[_ALIBI] = alibi.repeat(n_rows, *[1] * (alibi.ndim - 1))
        return Call(tuple(whole(value) for value in self.args), repeated)

    def with_cache(self, old: Any, new: Any) -> Call:
        """The arguments with another cache in place of the old one."""

        def swap(value: Any) -> Any:
            return new if old is not None and value is old else value

        return Call(
            tuple(swap(each) for each in self.args), {k: swap(v) for k, v in self.kwargs.items()}
        )

    def at(self, tokens: slice, length: int) -> Call:
        """The arguments for consecutive tokens, out of ``length`` in the recorded call."""
        return self._cut(length, lambda value, dim: value[(slice(None),) * dim + (tokens,)])

    def at_each(self, columns: Tensor, length: int) -> Call:
        """The arguments for some tokens of each row, (B, S'), out of ``length``."""

        def cut(value: Tensor, dim: int) -> Tensor:
            if dim == 0:  # the same for all rows
                return value
            index = columns.to(value.device)
            around = [1] * (dim - 1), [1] * (value.ndim - dim - 1)
            index = index.reshape(-1, *around[0], columns.shape[1], *around[1])
            return value.take_along_dim(index, dim=dim)

        return self._cut(length, cut)

    def _cut(self, length: int, cut: Callable[[Tensor, int], Tensor]) -> Call:
        """Apply a function to each argument with a dimension of tokens, and to its number."""

        def whole(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return type(value)(whole(each) for each in value)
            if isinstance(value, dict):
                return {key: whole(each) for key, each in value.items()}
            if not isinstance(value, Tensor):
                return value
            if value.ndim == 4 and value.shape[2] == length:
                return cut(value, 2)  # mask, (B, 1, S', P + S)
            if value.ndim in (2, 3) and value.shape[1] == length:
                return cut(value, 1)  # positions or rotary embeddings, (B, S', ...)
            return cut(value, 0) if value.shape == (length,) else value

        kwargs = {k: v if k in _OF_KEYS else whole(v) for k, v in self.kwargs.items()}
        return Call(tuple(whole(each) for each in self.args), kwargs)

    def masked_keys(self, length: int) -> int | None:
        """Number of keys in the mask for ``length`` tokens; None if there is no mask."""
        values = (*self.args, *self.kwargs.values())
        masks = [v for v in values if isinstance(v, Tensor) and v.ndim == 4]
        return next((mask.shape[3] for mask in masks if mask.shape[2] == length), None)


def aligned_right(cache: DynamicCache, lengths: Tensor, rows: Tensor | None = None) -> DynamicCache:
    """A copy that does not grow, each row's real keys and values moved to its end.

    Args:
        cache: Keys and values of rows padded on the right, (B, heads, P, head size) each.
        lengths: Number of real tokens of each row, (B,).
        rows: The old row of each new row; by default all rows once.
    """
    aligned = DynamicCache()
    aligned.layers = [_aligned_layer(layer, lengths, rows) for layer in cache.layers]
    return aligned


def _aligned_layer(layer: DynamicLayer, lengths: Tensor, rows: Tensor | None) -> FrozenLayer:
    aligned = FrozenLayer()
    if layer.keys is not None:
        n_rows, _, size, _ = layer.keys.shape
        device = layer.keys.device
        row = torch.arange(n_rows, device=device) if rows is None else rows.to(device)  # (B',)
        padding = size - lengths.to(device)[row]  # (B',)
        slots = torch.arange(size, device=device) - padding[:, None]  # (B', P)
        # The slots in front of a row are masked, so their content does not matter.
        places = (row[:, None] * size + slots.clamp(min=0)).flatten()
        aligned.lazy_initialization(_at(layer.keys, places), _at(layer.values, places))
    return aligned


def _at(states: Tensor, places: Tensor) -> Tensor:
    """States at places counted over all tokens of all rows, as rows of the same length."""
    by_token = states.transpose(1, 2)  # (B, P, heads, head size), as projections lay them out
    chosen = by_token.flatten(0, 1).index_select(0, places)
    return chosen.reshape(-1, *by_token.shape[1:]).transpose(1, 2)


def rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    """``tensor[rows]``, on any devices."""
    return tensor[rows.to(tensor.device)]


def frozen_cache(cache: DynamicCache, rows: Tensor | None = None) -> DynamicCache:
    """A copy that does not grow, of all rows or of chosen rows."""
    frozen = DynamicCache()
    frozen.layers = [_frozen_layer(layer, rows) for layer in cache.layers]
    return frozen


def _frozen_layer(layer: DynamicLayer, rows: Tensor | None) -> FrozenLayer:
    frozen = FrozenLayer()
    if layer.keys is not None:
        keys, values = layer.keys, layer.values
        if rows is not None:
            keys, values = rows_of(keys, rows), rows_of(values, rows)
        frozen.lazy_initialization(keys, values)
    return frozen
