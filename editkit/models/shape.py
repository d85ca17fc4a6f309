"""A model's sizes, from its config: no weights are read or allocated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError
from editkit.models.architectures import Architecture, Part
from editkit.models.lookup import architecture_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
_TOKENS = 16  # the length of a fact: memory for pairs of tokens is negligible


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, and the shape of every weight.

    Attributes:
        architecture: Module paths of its family.
        model_type: Its family in configs: ``gpt2``.
        dtype: Type of the weights: ``float32``, ``bfloat16`` or ``float16``.
        n_layers: Number of blocks L.
        hidden_size: Width H of the residual stream.
        inner_size: Width D of an MLP's inner space.
        n_heads: Number of attention heads.
        vocabulary: Number of tokens V.
        context_length: Most tokens of one row.
        tied: Whether embeddings and head share weights.
        parameters: Shape of each weight by name; a shared weight occurs once.
        saved_bytes: Bytes that a block saves per token for the backward pass.
    """

    architecture: Architecture
    model_type: str
    dtype: str
    n_layers: int
    hidden_size: int
    inner_size: int
    n_heads: int
    vocabulary: int
    context_length: int
    tied: bool
    parameters: Mapping[str, tuple[int, ...]]
    saved_bytes: int

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one weight or activation."""
        return _BYTES[self.dtype]

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.n_parameters * self.bytes_per_value

    def backward_bytes(self, rows: int, tokens: int, layers: int) -> int:
        """Memory of a backward pass through the last blocks, with frozen weights.

        Args:
            rows: Number of rows.
            tokens: Tokens of each row.
            layers: Number of blocks.

        Returns:
            Bytes of the saved activations, and of the logits of two target tokens per row, their
            softmax and their gradient.
        """
        activations = tokens * self.saved_bytes * layers
        return rows * (activations + 3 * 2 * self.vocabulary * self.bytes_per_value)

    def path(self, layer: int, part: Part) -> str:
        """Dotted path of a part of a block; the first one if a role has several modules.

        Raises:
            ModelError: There is no such layer, or no separate module for the part.
        """
        if not 0 <= layer < self.n_layers:
            raise ModelError(
                f"layer {layer} does not exist: the model has layers 0 to {self.n_layers - 1}.",
                hint="Choose a layer in that range (set editors.NAME.layer).",
            )
        if part in ("mlp_in", "mlp_out"):
            self.architecture.check_mlp(layer, self.n_layers, self._has)
        where = getattr(self.architecture, part)
        if where is None:
            raise ModelError(f"blocks of this model have no separate module for {part}.")
        return self.architecture.path(layer, where if isinstance(where, str) else where[0])

    def _has(self, path: str) -> bool:
        return any(name.startswith(f"{path}.") for name in self.parameters)

    def module_parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        """Shapes of a module's weights by their names in it; empty if there is no such module."""
        prefix = f"{path}."
        return {
            name.removeprefix(prefix): shape
            for name, shape in self.parameters.items()
            if name.startswith(prefix)
        }


def longest_input_of(config: Any) -> int:
    """Most tokens that a config allows, under the names that families use.

    BLOOM was trained on 2048 tokens; its distance biases set no limit, and most of its configs
    name none.
    """
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    return next((int(n) for name in names if (n := getattr(config, name, None))), 2048)


def context_length_of(config: Any) -> int:
    """Most tokens of one row of a config's model.

    A model with longrope changes the frequencies of a whole batch if one row is longer than the
    original context, so a result would depend on the other rows: only the original context is used.
    """
    longest = longest_input_of(config)
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [each for each in rope.values() if isinstance(each, dict)]
    for parameters in by_layer_type or [rope]:
        if parameters.get("rope_type") == "longrope":
            original = parameters.get("original_max_position_embeddings")
            longest = min(longest, int(original or longest))
    return longest


def window_of(config: Any) -> int | None:
    """How many tokens the attention of any layer reaches back; None if all layers see everything.

    With layers of several windows, the shortest.
    """
    sizes = [getattr(config, name, None) for name in _WINDOWS]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def shape_of(config: PretrainedConfig, *, dtype: str = "float32") -> ModelShape:
    """The shape of the model that a config describes.

    Args:
        config: A transformers config.
        dtype: Type that the weights would be loaded in.

    Raises:
        ModelError: The architecture is unknown or refused, or the config describes no model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in _BYTES:
        raise ModelError(f"dtype is {dtype!r}.", hint=f"Use one of: {', '.join(_BYTES)}.")
    architecture = architecture_of(config)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
            saved = _saved_bytes(model, architecture) // int(config.num_hidden_layers)
        if min(weight.numel() for weight in model.parameters()) == 0:
            raise ValueError("a weight is empty; is one of the sizes 0?")
    except (AttributeError, TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as e:
        error = f"{type(e).__name__}: {e}" if isinstance(e, LookupError | ArithmeticError) else e
        raise ModelError(
            f"no model can be built from the config: {error}",
            hint="Check config.json against the one that the model's authors published.",
        ) from e
    parameters = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    hidden = int(config.hidden_size)
    inner = next(
        (
            math.prod(parameters[name]) // hidden
            for layer in range(int(config.num_hidden_layers))
            if (name := f"{architecture.path(layer, architecture.mlp_out)}.weight") in parameters
        ),
        None,
    )
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    return ModelShape(
        architecture=architecture,
        model_type=str(config.model_type),
        dtype=dtype,
        n_layers=int(config.num_hidden_layers),
        hidden_size=hidden,
        inner_size=_experts_width(config) if inner is None else inner,
        n_heads=int(config.num_attention_heads),
        vocabulary=int(config.vocab_size),
        context_length=context_length_of(config),
        tied=head is not None and head.weight is embedding.weight,
        parameters=parameters,
        saved_bytes=saved,
    )


def _experts_width(config: Any) -> int:
    """Width of the inner spaces that one token passes through, all its experts together."""
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    return int(width) * int(config.num_experts_per_tok)


def _experts_as_one_mlp(model: PreTrainedModel, architecture: Architecture) -> list[Tensor]:
    """Let each token pass through one MLP as wide as its experts; returns the MLPs' weights.

    Which expert a token reads depends on values, which the meta device does not have.
    """
    from torch.nn.functional import silu

    if architecture.experts is None:
        return []
    hidden, width = int(model.config.hidden_size), _experts_width(model.config)
    like = next(model.parameters())
    gate_and_up, down = like.new_empty(hidden, 2 * width), like.new_empty(width, hidden)

    def one_mlp(states: Tensor, *_: Tensor) -> Tensor:
        gate, up = (states @ gate_and_up).chunk(2, dim=-1)
        added: Tensor = (silu(gate) * up) @ down
        return added

    for name, module in model.named_modules():
        if name.endswith(f".{architecture.experts}"):
            module.forward = one_mlp
    return [gate_and_up, down]


def _saved_bytes(model: PreTrainedModel, architecture: Architecture) -> int:
    """Bytes that all blocks save per token for the backward pass, with frozen weights.

    Autograd is observed on the meta device, where nothing is computed.
    """
    import torch

    model.requires_grad_(False)
    stand_ins = _experts_as_one_mlp(model, architecture)
    weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *stand_ins)}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def differentiable(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0].clone().requires_grad_(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].clone().requires_grad_()}

    first = model.get_submodule(architecture.block(0))
    first.register_forward_pre_hook(differentiable, with_kwargs=True)
    ids = torch.zeros(1, _TOKENS, dtype=torch.long)
    # Distance biases are computed from a mask of tokens; a mask of pairs is used as it is.
    biased = model.config.model_type == "bloom" or getattr(model.config, "alibi", False)
    size = (1, _TOKENS) if biased else (1, 1, _TOKENS, _TOKENS)
    mask = torch.zeros(size, dtype=torch.bool)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model.base_model(
            input_ids=ids,
            position_ids=ids,
            attention_mask=mask,
            use_cache=False,
        )
    sizes = [t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights]
    return sum(sizes) // _TOKENS
