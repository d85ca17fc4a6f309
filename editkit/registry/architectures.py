"""Architectures that plugins offer, for :mod:`editkit.models`, which does not know plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from editkit.errors import EditkitError, PluginError
from editkit.models.architectures import Architecture
from editkit.models.lookup import FurtherArchitectures
from editkit.registry.guard import Guard, PluginFailure
from editkit.registry.plugins import BUILT_IN, Source, default_registry
from editkit.registry.specs import wrong_field

if TYPE_CHECKING:
    from editkit.registry.specs import ArchitectureSpec

__all__ = ["OF_PLUGINS", "offered_entry"]


def _names() -> list[str]:
    return default_registry().names("architecture")


def offered_entry(model_type: str) -> tuple[Architecture, Source] | None:
    """The entry for a model type in editkit's table or a plugin, unchecked; None if none has it.

    Raises:
        PluginError: Several distributions offer it.
    """
    registry = default_registry()
    if not registry.has("architecture", model_type):
        return None
    offer = registry.get("architecture", model_type)
    return cast("ArchitectureSpec", offer.spec).architecture, offer.source


def _find(config: Any) -> Architecture | None:
    """A plugin's entry for a config, or that of a known layout; each passed the self-check.

    Raises:
        PluginError: Several distributions offer it.
        ModelError: The entry fails the self-check.
    """
    offered = offered_entry(str(config.model_type))
    if offered is None:
        from editkit.selfcheck.check import find_unlisted

        return find_unlisted(config)
    entry, source = offered
    if source.plugin != BUILT_IN:
        from editkit.selfcheck.check import refuse_unsound

        refuse_unsound(config, entry, str(source))
    return entry


def _adapt(architecture: Architecture, config: Any) -> Architecture:
    """What an entry's ``for_config`` returns for a config.

    Raises:
        EditkitError: It raised one.
        PluginError: It raised something else, or returned no valid entry.
    """
    function = architecture.for_config
    if function is None:
        return architecture
    wrong = ""
    adapted: Any = None
    try:
        with Guard("being called"):
            adapted = function(architecture, config)
    except PluginFailure as failure:
        if isinstance(failure.error, EditkitError):
            raise failure.error from None
        text = str(failure)
        wrong = (
            text if isinstance(failure.error, SystemExit | KeyboardInterrupt) else f"raised {text}"
        )
    else:
        if not isinstance(adapted, Architecture):
            wrong = f"returned {adapted!r:.80} ({type(adapted).__name__}), expected an Architecture"
        elif problem := wrong_field(adapted):
            wrong = f"returned an Architecture with {problem}"
    if wrong:
        raise PluginError(
            f"for_config of {_offering(architecture)} {wrong}.",
            hint="Fix the function: it gets the entry and the model's config, and returns an "
            "Architecture ('editkit explain architectures'). A field that a config may lack "
            "needs getattr.",
        )
    return cast("Architecture", adapted)


def _offering(architecture: Architecture) -> str:
    """What offers an entry: ``plugin 'xglm' (editkit-xglm 0.1.0), model type 'xglm'``."""
    types = ", ".join(map(repr, architecture.model_types))
    for offer in default_registry().offers("architecture"):
        offered = cast("ArchitectureSpec", offer.spec).architecture
        if offered.for_config is architecture.for_config:
            return f"plugin {offer.source.plugin!r} ({offer.source}), model type {types}"
    return f"the entry for model type {types}"


OF_PLUGINS = FurtherArchitectures(_names, _find, _adapt)
