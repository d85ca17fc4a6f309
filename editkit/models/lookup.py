"""The architecture of a model, looked up by its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editkit.errors import ModelError
from editkit.models.architectures import Architecture
from editkit.models.families import FAMILIES

ARCHITECTURES: Mapping[str, Architecture] = {
    model_type: architecture for architecture in FAMILIES for model_type in architecture.model_types
}
"""Architectures by ``config.model_type``."""


def architecture_of(config: Any) -> Architecture:
    """The architecture of a transformers config.

    Raises:
        ModelError: The architecture is unknown, or this config of it cannot be edited.
    """
    model_type = str(getattr(config, "model_type", None))
    if model_type not in ARCHITECTURES:
        raise ModelError(
            f"architecture {model_type!r} is not known.",
            hint=f"Use a model of one of: {', '.join(sorted(ARCHITECTURES))}.",
        )
    architecture = ARCHITECTURES[model_type]
    adapt = architecture.for_config
    return architecture if adapt is None else adapt(architecture, config)
