"""The arguments of a block, to be given again, and keys and values that do not grow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from editkit.errors import ModelError

__all__ = ["Call", "FrozenLayer", "aligned_right", "first", "frozen_cache", "rows_of"]

# Arguments of a block whose first dimension counts tokens, not rows.
_NOT_BY_ROW = frozenset({"cache_position"})


class FrozenLayer(DynamicLayer):
    """Keys and values of a prefix that later tokens can read but never extend."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take keys and values as those of the prefix, (B, heads, P, head size)."""
        super().lazy_initialization(key_states[:0], value_states[:0])
        self.keys, self.values = key_states, value_states

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix and of these tokens, which are not kept."""
        if self.keys is None:
            return key_states, value_states
        return (
            torch.cat([self.keys, key_states], dim=-2),  # (B, heads, P + S, head size)
            torch.cat([self.values, value_states], dim=-2),
        )


def first(output: Any) -> Tensor:
    """The tensor that a module gives: some return it bare, some as the first of a tuple."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments that the model gave to one block, but for the hidden states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def recorded(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Call]:
        """The hidden states that a block was given, (B, S, H), and its other arguments.

        Raises:
            ModelError: One of them holds rows or tokens in a form that cannot be cut, as the masks
                of flex attention do.
        """
        rest = dict(kwargs)
        hidden = args[0] if args else rest.pop("hidden_states")
        for value in (*args[1:], *rest.values()):
            if hasattr(value, "shape") and not isinstance(value, Tensor):
                raise ModelError(
                    f"the model's attention gives its blocks a {type(value).__name__}, of which "
                    "editkit cannot choose rows and tokens.",
                    hint="Load it with attention sdpa or eager (--set model.attention=sdpa).",
                )
        return hidden, cls(args[1:], rest)

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's output for other hidden states."""
        return first(block(hidden, *self.args, **self.kwargs))

    def select(self, rows: Tensor, n_rows: int) -> Call:
        """The arguments for other rows: ``rows[i]`` names the old one, of ``n_rows``."""

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                by_row = value.ndim > 1 and value.shape[0] == n_rows
                return rows_of(value, rows) if by_row else value
            if isinstance(value, (tuple, list)):
                return type(value)(pick(each) for each in value)
            if isinstance(value, dict):  # masks or rotations by type of layer
                return {key: pick(each) for key, each in value.items()}
            return value

        kwargs = {k: v if k in _NOT_BY_ROW else pick(v) for k, v in self.kwargs.items()}
        return Call(tuple(pick(each) for each in self.args), kwargs)

    def with_cache(self, old: Any, new: Any) -> Call:
        """The arguments with another cache in place of the old one."""

        def swap(value: Any) -> Any:
            return new if old is not None and value is old else value

        return Call(
            tuple(swap(each) for each in self.args), {k: swap(v) for k, v in self.kwargs.items()}
        )

    def at(self, tokens: slice, length: int) -> Call:
        """The arguments for some tokens in a row, of ``length`` in the recorded call."""

        def cut(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return type(value)(cut(each) for each in value)
            if isinstance(value, dict):
                return {key: cut(each) for key, each in value.items()}
            if not isinstance(value, Tensor):
                return value
            if value.ndim == 4 and value.shape[2] == length:
                return value[:, :, tokens]  # mask, (B, 1, S', P + S)
            if value.ndim in (2, 3) and value.shape[1] == length:
                return value[:, tokens]  # positions or their rotations, (B, S', ...)
            return value[tokens] if value.shape == (length,) else value

        return Call(
            tuple(cut(each) for each in self.args), {k: cut(v) for k, v in self.kwargs.items()}
        )


def aligned_right(cache: DynamicCache, lengths: Tensor, rows: Tensor | None = None) -> DynamicCache:
    """A copy that does not grow, each row's real keys and values moved to its end.

    Args:
        cache: Keys and values of rows padded on the right, (B, heads, P, head size) each.
        lengths: Number of real tokens of each row, (B,).
        rows: Old rows, one for each new row; by default all.
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
        # In front of a row, whatever is there: it is masked.
        places = (row[:, None] * size + slots.clamp(min=0)).flatten()
        aligned.lazy_initialization(_at(layer.keys, places), _at(layer.values, places))
    return aligned


def _at(states: Tensor, places: Tensor) -> Tensor:
    """States at places counted through all tokens of all rows, as rows of as many tokens."""
    by_token = states.transpose(1, 2)  # (B, P, heads, head size), as projections lay them out
    chosen = by_token.flatten(0, 1).index_select(0, places)
    return chosen.reshape(-1, *by_token.shape[1:]).transpose(1, 2)


def rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    """``tensor[rows]``, wherever the two are."""
    return tensor[rows.to(tensor.device)]


def frozen_cache(cache: DynamicCache, rows: Tensor | None = None) -> DynamicCache:
    """A copy that does not grow, for all rows or for chosen ones."""
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
