"""What KE and MEND need in memory besides the model's weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from editkit import ConfigError, Needs
from editkit.storage.strict_json import parse_json
from editkit_plugins.learned.config import FILE, LearnedConfig, MendConfig
from editkit_plugins.learned.settings import KeSettings, MendSettings

if TYPE_CHECKING:
    from editkit.models import ModelShape

_FLOAT = 4


def learned_needs(config: LearnedConfig, shape: ModelShape, *, requests: int, tokens: int) -> Needs:
    """Memory for the network, one backward pass, and the factors that come out.

    Raises:
        ConfigError: The model has fewer blocks than are edited.
    """
    settings, note = _settings(config)
    matrices = _matrices(shape, settings.blocks)
    network = _FLOAT * _network(settings, shape, matrices)
    widths = sum(n_in + n_out for n_in, n_out in matrices)
    together = min(requests, config.edits_per_pass)
    activations = together * tokens * shape.saved_bytes * settings.blocks
    signals = together * tokens * widths * _FLOAT
    logits = 3 * together * 2 * shape.vocabulary * _FLOAT
    factors = requests * tokens * widths * _FLOAT
    passing = 4 * together * tokens * max(n_in + n_out for n_in, n_out in matrices) * _FLOAT
    return Needs(
        edit=network + activations + 2 * signals + logits + passing + factors,
        deltas=network + factors,
        notes=(note,),
    )


def _settings(config: LearnedConfig) -> tuple[MendSettings | KeSettings, str]:
    """The settings of the trained editor that the configuration names, or else the published."""
    own = MendSettings if isinstance(config, MendConfig) else KeSettings
    if config.trained is not None:
        adapter: TypeAdapter[MendSettings | KeSettings] = TypeAdapter(own)
        try:
            with safe_open(config.folder("") / FILE, framework="np") as file:  # its header
                facts = parse_json((file.metadata() or {}).get("editor", "null"), allow_nan=True)
            settings = adapter.validate_python(facts["settings"])
            return settings, f"The network is the one in {config.trained}."
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            pass  # the editor's check says what is wrong with it
    return own(), "Which network was trained is not known: one of published size is assumed."


def _matrices(shape: ModelShape, blocks: int) -> list[tuple[int, int]]:
    """Sizes (in, out) of the edited matrices."""
    if blocks > shape.n_layers:
        raise ConfigError(
            f"the last {blocks} blocks are to be edited, but the model has {shape.n_layers}.",
            hint="Use an editor that was trained for this model.",
        )
    parts = (shape.architecture.mlp_out, *shape.architecture.mlp_in)
    found = []
    for layer in range(shape.n_layers - blocks, shape.n_layers):
        for part in parts:
            path = shape.architecture.path(layer, part)
            sizes = sorted(shape.module_parameters(path)["weight"])
            found.append((sizes[0], sizes[-1]))
    return found


def _network(
    settings: MendSettings | KeSettings, shape: ModelShape, matrices: list[tuple[int, int]]
) -> int:
    """Number of the network's weights."""
    if isinstance(settings, MendSettings):
        total = 0
        # Both projections have the same two sizes, one way and the other: two transforms.
        for n_in, n_out in set(matrices):
            width = n_in + n_out
            modes = matrices.count((n_in, n_out)) / 2
            layer = 2 * width * min(settings.rank, width) + width * (1 + 2 * modes)
            total += math.ceil(2 * (settings.layers * layer + 2 * width))
        return total
    hidden, condition, embedded = settings.hidden, settings.condition, shape.hidden_size
    reader = shape.vocabulary * embedded + 2 * 4 * hidden * (embedded + hidden + 2)
    reader += condition * (2 * hidden + 1)
    shapers = sum(
        hidden * (condition + 2) + (2 * (n_in + n_out) + 1) * (hidden + 2)
        for n_in, n_out in matrices
    )
    return reader + shapers
