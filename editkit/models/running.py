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
from transformers.cache_utils import DynamicCache, DynamicLayer

from editkit.errors import ModelError
from editkit.models.language_model import LanguageModel

__all__ = [
    "Activation",
    "Call",
    "FrozenLayer",
    "Prefix",
    "Tail",
    "first",
    "forward",
    "forward_after",
    "frozen_cache",
    "recording",
    "replacing",
    "rows_of",
    "run_prefix",
    "unshared",
    "with_weights",
]


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
    kept = _aligned_right(cache, lengths, rows) if ragged else frozen_cache(cache, rows)
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
        for layer, call in zip(range(self.start, self.model.n_layers), self._calls, strict=True):
            hidden = call(self.model.block(layer), hidden)
        return hidden.to(self.model.device)

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


# ---------------------------------------------------------------- arguments and caches of blocks


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
                return value[:, tokens]  # positions or rotary embeddings, (B, S', ...)
            return value[tokens] if value.shape == (length,) else value

        kwargs = {k: v if k in _OF_KEYS else cut(v) for k, v in self.kwargs.items()}
        return Call(tuple(cut(each) for each in self.args), kwargs)


def _aligned_right(
    cache: DynamicCache, lengths: Tensor, rows: Tensor | None = None
) -> DynamicCache:
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
