"""Running a model, or only the part of it that can change.

A forward pass is cut in two ways. To the left: keys and values of tokens before some column are
computed once (:func:`run_prefix`). Below: the inputs of the blocks are recorded once
(:class:`Tail`), and the upper blocks are run again on their own, as often as wanted, with other
hidden states. Both work for every architecture of the table, because blocks are called with the
very arguments that the model itself gave them.

A model may be spread over several devices. What is given to these functions and what they return
is on ``model.device``; only functions that replace a module's output work where that module is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from editkit.models.calls import Call, aligned_right, first, frozen_cache, rows_of
from editkit.models.language_model import LanguageModel

__all__ = [
    "Activation",
    "Prefix",
    "Tail",
    "first",
    "forward",
    "forward_after",
    "recording",
    "replacing",
    "run_prefix",
]


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Keys and values of the tokens before some column, for a batch of rows.

    A row's tokens are the last ones of its P slots, behind the padding. The tokens that follow it
    have the next slots, so slots are as far apart as the positions of their tokens: what a model
    derives from slots (windows, chunks, biases that grow with the distance) is right for all rows.

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
        mask: (B, P + T), 1 at real tokens; not needed where padding is only on the right.
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
    """What a model calls its keys and values: newer releases of transformers renamed them."""
    return "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"


def run_prefix(
    model: LanguageModel, ids: Tensor, lengths: Tensor, *, rows: Tensor | None = None
) -> tuple[Prefix, Tensor]:
    """Run the tokens of a prefix once and keep their keys and values.

    Args:
        model: The model.
        ids: Token ids padded on the right, (B, P).
        lengths: Number of real tokens of each row, (B,).
        rows: The rows that the prefix is wanted for, any number of times each; by default all.

    Returns:
        The prefix, and the final hidden states of the tokens of all rows, (B, P, H).
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
        prefix: What stands before them; None if nothing does.
        ids: Token ids padded on the right, (B, S).
        starts: Number of real tokens before each row, (B,).

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
    """Ends a forward pass that has gone far enough."""


@dataclasses.dataclass
class Activation:
    """What went into a module and what came out, as of its last call.

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
    """Record what the named modules see and give.

    Args:
        model: The model.
        paths: Dotted paths of modules.
        stop: End the forward pass (and the block) after the last of ``paths`` was called.
    """
    seen: dict[str, Activation] = {}
    handles = []

    def hook(path: str) -> Callable[..., None]:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
            inputs = args[0] if args else kwargs["hidden_states"]
            device = model.device
            seen[path] = Activation(inputs.to(device), first(output).to(device))
            if stop and path == paths[-1]:
                raise _Stop

        return record

    try:
        for path in paths:
            module = model.module(path)
            handles.append(module.register_forward_hook(hook(path), with_kwargs=True))
        with contextlib.suppress(_Stop):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def replacing(
    model: LanguageModel, replacements: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
) -> Iterator[None]:
    """Replace the outputs of modules inside the block.

    Args:
        model: The model.
        replacements: By module path, a function of (input, output) that gives the new output, all
            on the device of the module's output.
    """

    def hook(replace: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
        def run(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
            inputs = args[0] if args else kwargs["hidden_states"]
            old = first(output)
            new = replace(inputs.to(old.device), old)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return run

    handles = []
    try:
        for path, replace in replacements.items():
            module = model.module(path)
            handles.append(module.register_forward_hook(hook(replace), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclasses.dataclass(frozen=True)
class Tail:
    """The blocks from ``start`` on, ready to be run again.

    Attributes:
        model: The model.
        start: First block that is run again; the number of layers if only norm and head are.
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
        """Run tokens after a prefix once, and keep what the blocks from ``start`` on were given.

        Args:
            model: The model.
            prefix: Keys and values of what stands before them; None if nothing does.
            ids: Token ids padded on the right, (B, S).
            starts: Number of real tokens before each row, (B,).
            start: First block to be run again.
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

        handles = [
            model.block(layer).register_forward_pre_hook(before, with_kwargs=True)
            for layer in layers
        ]
        if not layers:
            handles = [model.block(start - 1).register_forward_hook(after)]
        try:
            with torch.no_grad():
                forward_after(model, prefix, ids, starts)
        finally:
            for handle in handles:
                handle.remove()
        hidden = inputs[0].to(model.device)
        return cls(model, start, hidden, tuple(calls), prefix.cache if prefix else None)

    def run(self, hidden: Tensor) -> Tensor:
        """States after the last block, before the final norm.

        Args:
            hidden: Input of block :attr:`start`, (B, S, H).

        Returns:
            (B, S, H)
        """
        for layer, call in zip(range(self.start, self.model.n_layers), self._calls, strict=True):
            hidden = call(self.model.block(layer), hidden)
        return hidden.to(self.model.device)

    def above(self, layer: int, hidden: Tensor) -> Tail:
        """The tail from a later block on.

        Args:
            layer: That block.
            hidden: Its input, (B, S, H).
        """
        calls = self._calls[layer - self.start :]
        return dataclasses.replace(self, start=layer, hidden=hidden, _calls=calls)

    def select(self, rows: Tensor) -> Tail:
        """The tail of other rows: ``rows[i]`` names the old row of new row ``i``."""
        cache = None if self._cache is None else frozen_cache(self._cache, rows)
        n_rows = self.hidden.shape[0]
        calls = tuple(c.select(rows, n_rows).with_cache(self._cache, cache) for c in self._calls)
        return dataclasses.replace(self, hidden=self.hidden[rows], _calls=calls, _cache=cache)
