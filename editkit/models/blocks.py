"""A recorded forward pass whose blocks can be run again one by one, for many rows at once.

If a row differs from the recorded pass only from one token and one block on, only these tokens and
blocks are run again: they read the recorded keys and values of the tokens in front, which any
number of rows share. Blocks are called with the arguments that the model itself passed to them, so
this works for every architecture.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from editkit.models.architectures import PARTS, BlockPart
from editkit.models.block_calls import (
    Call,
    FrozenLayer,
    cache_of,
    first,
    frozen_cache,
    projected,
    unshared,
)
from editkit.models.language_model import LanguageModel
from editkit.models.running import Prefix, forward_after, replacing, run_prefix

__all__ = ["BlockPart", "RecordedPass"]


class _RecordingLayer(FrozenLayer):
    """Keys and values of a prefix; also remembers those of the tokens that read it."""

    own_keys: Tensor
    own_values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.own_keys, self.own_values = key_states, value_states
        return super().update(key_states, value_states, *args, **kwargs)


class _SharedLayer(FrozenLayer):
    """Keys and values of R rows, for batches of any multiple of R rows."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return _after(self.keys, key_states), _after(self.values, value_states)


def _after(shared: Tensor, own: Tensor) -> Tensor:
    """Keys or values of R rows, (R, heads, P, head size), followed by those of k R rows."""
    rows, heads, before, size = shared.shape
    joined = own.new_empty(own.shape[0], heads, before + own.shape[2], size)
    joined.view(-1, rows, *joined.shape[1:])[..., :before, :] = shared
    joined[..., before:, :] = own
    return joined


@dataclasses.dataclass(frozen=True)
class RecordedPass:
    """The states of every block in one pass over the tokens after a shared prefix.

    Attributes:
        model: The model.
        states: The input of each block, and the output of the last one; each (B, S, H).
        parts: What attention and MLP add to the residual stream, by layer; each (B, S, H). With a
            norm after the sublayer, this is the norm's output.
    """

    model: LanguageModel
    states: tuple[Tensor, ...]
    parts: Mapping[BlockPart, tuple[Tensor, ...]]
    _calls: tuple[Call, ...]
    _layers: tuple[_RecordingLayer, ...]
    _cache: Any

    @classmethod
    def record(
        cls,
        model: LanguageModel,
        ids: Tensor,
        start: int,
        rows: int,
        *,
        embed: Callable[[Tensor], Tensor] = lambda embedded: embedded,
    ) -> RecordedPass:
        """Run a sentence in several rows that are equal up to some token.

        Args:
            model: The model.
            ids: Token ids of the sentence, (T,).
            start: First token that may differ between rows; the tokens before it are run once.
            rows: Number of rows B.
            embed: Changes the token embeddings of the rows, (B, S, H) to (B, S, H).
        """
        # Without a prefix, one masked slot takes its place, so that the blocks still get a mask.
        before = ids[None, : max(start, 1)]  # (1, P)
        length = torch.tensor([start], device=ids.device)
        own = ids[start:].expand(rows, -1)  # (B, S)
        with torch.no_grad():
            prefix, _ = run_prefix(model, before, length)
            cache = frozen_cache(prefix.cache, torch.zeros(rows, dtype=torch.long))
            layers = tuple(_recording(layer) for layer in cache.layers)
            cache.layers = list(layers)
            shared = Prefix(cache, prefix.mask.expand(rows, -1))
            with (
                _embedding(model, embed),
                _watched(model) as (states, parts, calls),
            ):
                forward_after(model, shared, own, length.expand(rows))
        one_row = tuple(call.select(torch.tensor([0]), rows) for call in calls)
        return cls(
            model, tuple(states), {p: tuple(parts[p]) for p in PARTS}, one_row, layers, cache
        )

    def run(
        self,
        layer: int,
        hidden: Tensor,
        *,
        skip: int,
        rows: slice,
        replace: Mapping[BlockPart, Callable[[Tensor], Tensor]] | None = None,
        only: int | None = None,
    ) -> Tensor:
        """A block's output, for rows that start with the tokens of the recorded pass.

        Args:
            layer: The block.
            hidden: Its input at the tokens from ``skip`` on, (k R, S', H): k times the ``rows``.
            skip: Number of recorded tokens in front of these.
            rows: Recorded rows that provide the keys and values of the tokens in front; R of them.
            replace: Changes what attention and MLP add to the residual stream, shaped like the
                result.
            only: Compute the output only at this number of last tokens; for the tokens before
                these, only keys and values.

        Returns:
            (k R, S', H), or (k R, only, H)
        """
        length = hidden.shape[1]
        before = 0 if only is None else max(0, length - only)
        reading = self._left_of(layer, skip, rows)
        shape = (hidden.shape[0], length - before)
        hooks = {
            self.model.architecture.adds(layer, part): _shaped(change, shape)
            for part, change in (replace or {}).items()
        }
        with torch.no_grad():
            if before:
                reading = self._extended(layer, reading, hidden[:, :before], skip)
            with replacing(self.model, hooks):
                return self._block(layer, hidden[:, before:], reading, skip + before)

    def _block(self, layer: int, hidden: Tensor, reading: FrozenLayer, skip: int) -> Tensor:
        """A block's output at the tokens from ``skip`` on."""
        tokens = slice(skip, skip + hidden.shape[1])
        cache = cache_of(reading, layer)
        call = self._calls[layer].at(tokens, self.states[0].shape[1]).with_cache(self._cache, cache)
        call = call.repeated(hidden.shape[0])
        return call(self.model.block(layer), hidden).to(self.model.device)

    def _left_of(self, layer: int, skip: int, rows: slice) -> _SharedLayer:
        """Recorded keys and values of a block, for the tokens before ``skip``."""
        recorded = self._layers[layer]
        keys, values = recorded.own_keys[rows, :, :skip], recorded.own_values[rows, :, :skip]
        if recorded.keys is not None:
            keys = torch.cat([recorded.keys[rows], keys], dim=-2)
            values = torch.cat([recorded.values[rows], values], dim=-2)
        shared = _SharedLayer()
        shared.lazy_initialization(keys, values)
        return shared

    def _extended(self, layer: int, left: _SharedLayer, hidden: Tensor, skip: int) -> FrozenLayer:
        """Keys and values of a block, extended by those of the next tokens."""
        own = projected(lambda end: self._block(layer, hidden, end, skip))
        extended = FrozenLayer()
        extended.lazy_initialization(*left.update(*own))
        return extended


def _recording(layer: Any) -> _RecordingLayer:
    recording = _RecordingLayer()
    if layer.keys is not None:
        recording.lazy_initialization(layer.keys, layer.values)
    return recording


@contextlib.contextmanager
def _embedding(model: LanguageModel, embed: Callable[[Tensor], Tensor]) -> Iterator[None]:
    with replacing(model, {model.architecture.embedding: lambda _, output: embed(output)}):
        yield


@contextlib.contextmanager
def _watched(
    model: LanguageModel,
) -> Iterator[tuple[list[Tensor], dict[BlockPart, list[Tensor]], list[Call]]]:
    """Collect the blocks' inputs and arguments, their parts' outputs, and the final output."""
    states: list[Tensor] = []
    calls: list[Call] = []
    parts: dict[BlockPart, list[Tensor]] = {part: [] for part in PARTS}

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, call = Call.recorded(args, kwargs)
        states.append(hidden.to(model.device))
        calls.append(call)

    def last(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(first(output).to(model.device))

    def adding(part: BlockPart) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            parts[part].append(first(output).to(model.device).reshape(states[-1].shape))
            return unshared(output)

        return hook

    with contextlib.ExitStack() as hooks:
        for layer in range(model.n_layers):
            handle = model.block(layer).register_forward_pre_hook(before, with_kwargs=True)
            hooks.callback(handle.remove)
            for part in PARTS:
                module = model.module(model.architecture.adds(layer, part))
                hooks.callback(module.register_forward_hook(adding(part)).remove)
        hooks.callback(model.block(model.n_layers - 1).register_forward_hook(last).remove)
        yield states, parts, calls


def _shaped(
    change: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A change of (rows, tokens, H) outputs that also fits blocks that flatten their tokens."""
    return lambda _, output: change(output.reshape(*shape, -1)).reshape(output.shape)
