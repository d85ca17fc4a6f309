"""The state of a model and of the process that a plugin must not change."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn

from editkit.models.language_model import LanguageModel
from editkit.storage.digests import digest_of_tensors

Area = Literal["weights", "gradients", "mode", "modules", "random numbers", "surroundings"]
State = Mapping[Area, Mapping[str, Any]]
"""By area, descriptions with values that can be compared."""

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def state_of(model: LanguageModel) -> State:
    """The current state."""
    parameters = dict(model.hf.named_parameters(remove_duplicate=False))
    tensors = {**parameters, **dict(model.hf.named_buffers(remove_duplicate=False))}
    modules = {name or "the model": module for name, module in model.hf.named_modules()}
    return {
        "weights": {f"the values of {name}": _digest(tensor) for name, tensor in tensors.items()},
        "gradients": {
            **{f"requires_grad of {name}": p.requires_grad for name, p in parameters.items()},
            **{f"the gradient of {name}": _digest(p.grad) for name, p in parameters.items()},
        },
        "mode": {f"training mode of {name}": m.training for name, m in modules.items()},
        "modules": {
            **{f"the parameter {name} itself": id(p) for name, p in parameters.items()},
            **{f"hooks of {name}": _hooks(p, ("_backward_hooks",)) for name, p in tensors.items()},
            **{f"hooks of {name}": _hooks(module, _HOOKS) for name, module in modules.items()},
            **{f"the code of {name}": _code(module) for name, module in modules.items()},
        },
        "random numbers": {
            "the state of Python's random": random.getstate(),
            "the state of NumPy's random numbers": _numpy_state(),
            "the state of torch's random numbers": [state.tolist() for state in _torch_states()],
        },
        "surroundings": {
            "torch's gradient mode": torch.is_grad_enabled(),
            "torch's default type": torch.get_default_dtype(),
            "torch's number of threads": torch.get_num_threads(),
            "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
            "the model's config": json.dumps(
                model.hf.config.to_dict(), sort_keys=True, default=str
            ),
            "the tokenizer's padding side": model.tokenizer.padding_side,
            "the tokenizer's special tokens": model.tokenizer.special_tokens_map,
            "the tokenizer's number of tokens": len(model.tokenizer),
        },
    }


def differences(before: State, after: State, *areas: Area) -> list[str]:
    """Descriptions of what changed; in all areas if none is named."""
    changed = []
    for area in areas or before:
        first, second = before[area], after[area]
        changed += [what for what in first if what not in second or first[what] != second[what]]
        changed += [what for what in second if what not in first]
    return changed


def disturb(model: LanguageModel) -> None:
    """Set an unusual state: training mode, and gradients for every other parameter only."""
    model.hf.train()
    for place, parameter in enumerate(model.hf.parameters()):
        parameter.requires_grad_(place % 2 == 0)


def _digest(tensor: Tensor | None) -> str | None:
    return None if tensor is None else digest_of_tensors({"": tensor})


def _hooks(owner: nn.Module | Tensor, kinds: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(id(hook) for hook in (getattr(owner, kind, None) or {}).values()) for kind in kinds
    )


def _code(module: nn.Module) -> tuple[int, str]:
    """The class, and a ``forward`` that was set on the instance."""
    return id(type(module)), repr(vars(module).get("forward"))


def _numpy_state() -> tuple[Any, ...]:
    state: Any = numpy.random.get_state()
    name, keys, *rest = state
    return name, keys.tolist(), *rest


def _torch_states() -> list[Tensor]:
    """The states of the CPU and of each GPU."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *gpus]
