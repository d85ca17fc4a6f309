"""Names of relations, for people: ``native language`` instead of ``P103``."""

from __future__ import annotations

import functools
import json
from typing import Any

from editkit.errors import PluginError
from editkit.registry.plugins import Registry
from editkit.storage.resources import resource_text

__all__ = ["WIKIDATA_NAMES", "relation_names", "with_wikidata_name"]

WIKIDATA_NAMES = "editkit.records:wikidata_properties.json"
"""Names of properties of Wikidata, for :attr:`DatasetSpec.relation_names`."""


def relation_names(dataset: str, registry: Registry) -> dict[str, str]:
    """The names of a dataset's relations by identifier; equal names get their identifiers appended.

    Args:
        dataset: Name of the dataset; names of one that is not installed are unknown.
        registry: The installed plugins.

    Raises:
        PluginError: The file of names is missing or is not a JSON object of names.
    """
    if not registry.has("dataset", dataset):
        return {}
    offer = registry.get("dataset", dataset)
    spec: Any = offer.spec
    if spec.relation_names is None:
        return {}
    return _names(spec.relation_names, f"dataset {dataset!r} of {offer.source}")


def with_wikidata_name(relation: str) -> str:
    """An identifier that a user may have to type, with its name: ``P103 (native language)``."""
    name = _wikidata().get(relation)
    return f"{relation} ({name})" if name else relation


@functools.cache
def _wikidata() -> dict[str, str]:
    return _names(WIKIDATA_NAMES, "editkit")


def _names(reference: str, owner: str) -> dict[str, str]:
    try:
        content = json.loads(resource_text(reference, owner=owner))
        names = {
            relation: each["name"] if isinstance(each, dict) else each
            for relation, each in content.items()
        }
    except (ValueError, AttributeError, KeyError) as error:
        raise _invalid(reference, owner) from error
    texts = list(names.values())
    if not all(isinstance(name, str) and name.strip() for name in texts):
        raise _invalid(reference, owner)
    return {
        relation: name if texts.count(name) == 1 else f"{name} ({relation})"
        for relation, name in names.items()
    }


def _invalid(reference: str, owner: str) -> PluginError:
    return PluginError(
        f"{reference}, the relation names of {owner}, is not a JSON object of names.",
        hint='Write {"P103": "native language", ...}.',
    )
