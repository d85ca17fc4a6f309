"""The architecture of a model, looked up by its config."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from editkit.errors import ModelError
from editkit.models.architectures import Architecture
from editkit.models.families import FAMILIES

ARCHITECTURES: Mapping[str, Architecture] = {
    model_type: architecture for architecture in FAMILIES for model_type in architecture.model_types
}
"""The tested table: architectures by ``config.model_type``."""


@dataclasses.dataclass(frozen=True)
class FurtherArchitectures:
    """Architectures outside the table, which a layer above this package knows.

    Attributes:
        names: Their model types.
        find: The entry for a config, or None; called for model types of the table, too, and raises
            an EditkitError for an entry that clashes or fails the self-check.
        adapt: Calls an entry's ``for_config``; raises an EditkitError, whatever that function does.
    """

    names: Callable[[], Collection[str]]
    find: Callable[[Any], Architecture | None]
    adapt: Callable[[Architecture, Any], Architecture]


class UnknownArchitectureError(ModelError):
    """No entry has the model type, and no layout of the table has the model's modules."""


def _adapt(architecture: Architecture, config: Any) -> Architecture:
    function = architecture.for_config
    return architecture if function is None else function(architecture, config)


_NONE = FurtherArchitectures(names=lambda: (), find=lambda config: None, adapt=_adapt)
_further = _NONE
_assumed: contextvars.ContextVar[Architecture | None] = contextvars.ContextVar(
    "editkit_assumed_architecture", default=None
)


def consult(further: FurtherArchitectures) -> None:
    """Look in these architectures, too, from now on. ``import editkit`` adds those of plugins."""
    global _further
    _further = further


@contextlib.contextmanager
def assuming(architecture: Architecture) -> Iterator[None]:
    """Inside, an entry is used for its model types as it is, without a self-check."""
    token = _assumed.set(architecture)
    try:
        yield
    finally:
        _assumed.reset(token)


def known_types() -> list[str]:
    """Model types of the table and of plugins, sorted."""
    return sorted({*ARCHITECTURES, *_further.names()})


def is_known(model_type: str) -> bool:
    """Whether a model type is in the table, or a plugin offers it."""
    assumed = _assumed.get()
    if assumed is not None and model_type in assumed.model_types:
        return True
    return model_type in ARCHITECTURES or model_type in _further.names()


def architecture_of(config: Any) -> Architecture:
    """The architecture of a transformers config.

    An entry from outside the table is checked on a small random model first; the verdict is cached.

    Raises:
        UnknownArchitectureError: The architecture is unknown.
        ModelError: This config of it cannot be edited, or its entry fails the self-check.
        PluginError: Several distributions offer it, or its ``for_config`` is wrong.
    """
    model_type = str(getattr(config, "model_type", None))
    assumed = _assumed.get()
    if assumed is not None and model_type in assumed.model_types:
        architecture: Architecture | None = assumed
    else:
        architecture = _further.find(config) or ARCHITECTURES.get(model_type)
    if architecture is None:
        raise UnknownArchitectureError(
            f"architecture {model_type!r} is not known.",
            hint=f"Use a model of one of: {', '.join(known_types())}.",
        )
    return adapted(architecture, config)


def adapted(architecture: Architecture, config: Any) -> Architecture:
    """An entry after its ``for_config``, if it has one.

    Raises:
        ModelError: This config cannot be edited.
        PluginError: ``for_config`` raised something else, or returned no valid entry.
    """
    return architecture if architecture.for_config is None else _further.adapt(architecture, config)
