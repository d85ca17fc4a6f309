"""Checkpoints of the published KE and MEND, as networks of ours.

They are pickles: files that may run code when they are read. Here nothing that a file names is
ever called but what puts tensors together; everything else, such as the model's configuration that
lies in every checkpoint, becomes an empty shell. They are read only for users who ask for it.
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
from editkit.models.orientation import is_input_major
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.trained import Settings, seeded_network

_TENSORS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
_MEND_PREFIX = re.compile(r"^(?:gtn|mend)\.\((\d+), (\d+)\)\.")
_PER_BLOCK = 2  # both projections of an MLP


class _Shell:
    """Stands for an object of a class that is not wanted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    @override
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return super().find_class(module, name)
        return _TENSORS.get((module, name), _Shell)


class _TensorsOnly:
    """What :func:`torch.load` takes for the module ``pickle``."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        """Read one pickle."""
        return _Unpickler(file, **options).load()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint by their published names.

    Raises:
        ConfigError: The file is missing or damaged, or is no checkpoint of KE or MEND.
    """
    try:
        content = torch.load(
            path, map_location="cpu", pickle_module=_TensorsOnly, weights_only=False
        )
    except Exception as error:  # a damaged pickle may end in any of them
        raise ConfigError(
            f"{path} cannot be read as a pickled checkpoint: {first_line(error)}.",
            hint="Give a .pt file that the published KE or MEND wrote.",
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
    """Settings and state of a network of ours that does what the checkpoint's does.

    Args:
        tensors: The checkpoint, by published names.
        model: The model that it was trained for.
        place: The checkpoint's name, for messages.

    Raises:
        ConfigError: It is of another method or shape than the model's matrices allow.
    """
    try:
        if "edit_lrs" in tensors:
            settings, state = _mend(tensors)
        else:
            settings, state = _ke(tensors, model)
        own = seeded_network(model, settings).state_dict()
    except (KeyError, StopIteration) as error:
        raise ConfigError(
            f"{place} lacks {error}.", hint="Is it a whole checkpoint of KE or MEND?"
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
        if found := _MEND_PREFIX.match(name):
            transform = f"transforms.{found[1]}x{found[2]}"
            state.update(_transform(name[found.end() :], tensor, transform))
    layers = {name.split(".")[4] for name in state if ".networks." in name}
    rank = next(t.shape[1] for n, t in state.items() if n.endswith(".u"))
    settings = MendSettings(
        blocks=len(tensors["edit_lrs"]) // _PER_BLOCK, rank=rank, layers=len(layers), sign="plus"
    )
    return settings, state


def _transform(name: str, tensor: Tensor, transform: str) -> dict[str, Tensor]:
    """One tensor of a gradient transform under our names."""
    if name == "k":
        return {f"{transform}.{side}.count": tensor[0] for side in ("inputs", "gradients")}
    side = {"u": "inputs", "v": "gradients"}.get(name[0], "")
    if name in ("u_mean", "v_mean"):
        return {f"{transform}.{side}.mean": tensor}
    if name in ("u_s", "v_s"):
        return {f"{transform}.{side}.squares": tensor}
    if name in ("u_std", "v_std"):
        return {}  # follow from the sums
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
            f"checkpoints of KE are read for GPT-2 only, but {model.name} keeps its matrices the "
            "other way round, where the published network is another one.",
            hint="Train one with 'editkit train ke'.",
        )
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix("editor.")
        if inside == "condition.embedding.weight":
            # The published code added a token for padding.
            state["network.condition.embedding"] = tensor[: _vocabulary(model)]
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
        blocks=max(1, len(shapers) // _PER_BLOCK),
        hidden=linear.shape[1] // 2,
        condition=linear.shape[0],
    )
    return settings, state


def _vocabulary(model: LanguageModel) -> int:
    return int(model.hf.get_input_embeddings().weight.shape[0])


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "missing"


def _not_published(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is no checkpoint of the published KE or MEND.",
        hint="Give a .pt file that holds the editor's state under 'model'.",
    )
