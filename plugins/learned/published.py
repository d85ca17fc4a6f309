"""Checkpoints of the published KE and MEND, converted to our networks.

They are pickles, which can run code when they are read. The reader here calls only the functions
that rebuild tensors. Every other class or function named in the file, such as the model's
configuration in every checkpoint, becomes an empty placeholder. Users must ask for it explicitly.
"""

from __future__ import annotations

import collections
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from typing_extensions import override

from editkit import ConfigError, LanguageModel
from editkit.errors import first_line
from editkit.models.weight_layout import is_input_major
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.trained import Settings, new_network

_TENSOR_FUNCTIONS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
_MEND_PREFIX = re.compile(r"^(?:gtn|mend)\.\((\d+), (\d+)\)\.")
_MATRICES_PER_BLOCK = 2  # both projections of the MLP


class _Placeholder:
    """Replaces an object of a class that is not needed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    @override
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return super().find_class(module, name)
        return _TENSOR_FUNCTIONS.get((module, name), _Placeholder)


class _TensorsOnly:
    """Replaces the module ``pickle`` in :func:`torch.load`."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        """Load one pickle, tensors only."""
        return _Unpickler(file, **options).load()


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint, by their published names.

    Raises:
        ConfigError: The file does not exist, is damaged, or is not a checkpoint of KE or MEND.
    """
    try:
        content = torch.load(
            path, map_location="cpu", pickle_module=_TensorsOnly, weights_only=False
        )
    except Exception as error:  # a damaged pickle can raise anything
        raise ConfigError(
            f"{path} cannot be read as a pickled checkpoint: {first_line(error)}.",
            hint="Give a .pt file that the published code of KE or MEND wrote.",
        ) from None
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise _not_published(path)
    tensors = {str(k): v.detach().float() for k, v in state.items() if isinstance(v, Tensor)}
    if not {"edit_lrs", "editor.condition.embedding.weight"} & tensors.keys():
        raise _not_published(path)
    return tensors


def convert(
    tensors: Mapping[str, Tensor], model: LanguageModel, *, place: str
) -> tuple[Settings, dict[str, Tensor]]:
    """Settings and state of the equivalent network of ours.

    Args:
        tensors: The checkpoint, by published names.
        model: The model that it was trained for.
        place: The checkpoint's name for error messages.

    Raises:
        ConfigError: The checkpoint is incomplete or does not fit the model's matrices.
    """
    try:
        settings: Settings
        settings, state = _mend(tensors) if "edit_lrs" in tensors else _ke(tensors, model)
        own = new_network(model, settings).state_dict()
    except (KeyError, StopIteration) as error:
        raise ConfigError(
            f"{place} lacks {error}.", hint="Give a complete checkpoint of KE or MEND."
        ) from None
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        raise ConfigError(
            f"{place} does not fit {model.name}: {wrong[0]} is {_shape(state, wrong[0])}, expected "
            f"{_shape(own, wrong[0])}.",
            hint="Give the model that it was trained for.",
        )
    return settings, {name: state[name].to(own[name].dtype) for name in own}


def _mend(tensors: Mapping[str, Tensor]) -> tuple[MendSettings, dict[str, Tensor]]:
    state = {"rates": tensors["edit_lrs"]}
    for name, tensor in tensors.items():
        if prefix := _MEND_PREFIX.match(name):
            transform = f"transforms.{prefix[1]}x{prefix[2]}"
            state.update(_transform(name[prefix.end() :], tensor, transform))
    layers = {name.split(".")[4] for name in state if ".networks." in name}
    rank = next(t.shape[1] for n, t in state.items() if n.endswith(".u"))
    settings = MendSettings(
        blocks=len(tensors["edit_lrs"]) // _MATRICES_PER_BLOCK,
        rank=rank,
        layers=len(layers),
        sign="plus",
    )
    return settings, state


def _transform(name: str, tensor: Tensor, transform: str) -> dict[str, Tensor]:
    """A tensor of a gradient transform under our names; empty if we derive it from others."""
    if name == "k":
        return {f"{transform}.{side}.count": tensor[0] for side in ("inputs", "gradients")}
    side = {"u": "inputs", "v": "gradients"}.get(name[0], "")
    if name in ("u_mean", "v_mean"):
        return {f"{transform}.{side}.mean": tensor}
    if name in ("u_s", "v_s"):
        return {f"{transform}.{side}.squares": tensor}
    if name in ("u_std", "v_std"):
        return {}  # derived from count, mean and squares
    part, _, inside = name.partition(".layers.")
    layer, _, field = inside.partition(".")
    number = {"mlp": 0, "mlp1": 0, "mlp2": 1}[part]
    ours = {"mode_scale.weight": "scale", "mode_shift.weight": "shift"}.get(field, field)
    return {f"{transform}.networks.{number}.{layer}.{ours}": tensor}


def _ke(
    tensors: Mapping[str, Tensor], model: LanguageModel
) -> tuple[KeSettings, dict[str, Tensor]]:
    if not is_input_major(model.module(model.path(0, "mlp_out"))):
        raise ConfigError(
            f"only GPT-2's checkpoints of KE can be converted. {model.name} stores its matrices "
            "transposed, and the published network for such models has a different form.",
            hint="Train one with 'editkit train ke'.",
        )
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix("editor.")
        if inside == "condition.embedding.weight":
            # The published table has one more row, for a padding token.
            n_tokens = model.hf.get_input_embeddings().weight.shape[0]
            state["network.condition.embedding"] = tensor[:n_tokens]
        elif inside.startswith("condition.lstm."):
            state[f"network.condition.lstm.{inside.rpartition('.')[2]}"] = tensor
        elif inside.startswith("condition.linear."):
            state[f"network.condition.linear.{inside.rpartition('.')[2]}"] = tensor
        elif inside.startswith("conditioners."):
            _, matrix, _, place, field = inside.split(".")
            part = {"0": "first", "2": "second"}[place]
            ours = {"weight_g": "g", "weight_v": "v"}.get(field, field)
            shaper = f"network.shapers.{matrix.removesuffix('_conditioner')}"
            state[f"{shaper}.{part}.{ours}"] = tensor
    shapers = {name.split(".")[2] for name in state if name.startswith("network.shapers.")}
    linear = state["network.condition.linear.weight"]
    settings = KeSettings(
        blocks=max(1, len(shapers) // _MATRICES_PER_BLOCK),
        hidden=linear.shape[1] // 2,
        condition=linear.shape[0],
    )
    return settings, state


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "missing"


def _not_published(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is not a checkpoint of the published KE or MEND.",
        hint="Give a .pt file with the editor's state under 'model'.",
    )
