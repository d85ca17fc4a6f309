"""Architectures that plugins offer, for :mod:`editkit.models`, which does not know plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from editkit.models.architectures import Architecture
from editkit.models.lookup import FurtherArchitectures
from editkit.registry.plugins import BUILT_IN, Source, default_registry

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


OF_PLUGINS = FurtherArchitectures(_names, _find)
