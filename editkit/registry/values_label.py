"""How a preset is shown. Its name alone does not distinguish its values from those of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editkit.errors import EditkitError
from editkit.registry.config import DEFAULT, FALLBACK
from editkit.registry.hparams import match_values
from editkit.registry.plugins import Offer, default_registry
from editkit.results import Cell

__all__ = ["label_of_values", "names_its_preset", "values_from"]


def values_from(cell: Cell) -> str | None:
    """Where a cell's values come from, as :func:`label_of_values`.

    It is derived from what the store has, so cells of earlier versions have it too. The bare preset
    if the editor is not installed.
    """
    offer = _offer(cell)
    if offer is None:
        return cell.preset
    return label_of_values(offer, cell.preset, cell.config, cell.sources)


def label_of_values(
    offer: Offer, preset: str | None, values: Mapping[str, Any], sources: Mapping[str, str]
) -> str | None:
    """A preset, and what changes its values: ``published + atlas.yaml``.

    Values that the user sets are not listed: they are in ``sources``.

    Args:
        offer: The editor or locator.
        preset: Its preset, if it has any.
        values: Its config values, nested.
        sources: Where each value comes from, by dotted field.

    Returns:
        The preset; the model's file of values if it replaces values of the preset, or if there is
        no preset; and ``fallback values`` if there are any. A preset that the user names wins over
        the file, so it is its name alone. None if there is nothing of these.
    """
    of_preset, used = _values_of_preset(offer, preset), _flat(values)
    parts = [preset] if preset else []
    for field, source in sources.items():
        if _is_file(offer, source) and (
            preset is None or (field in of_preset and of_preset[field] != used.get(field))
        ):
            parts.append(source.rpartition("/")[2])
    if FALLBACK in sources.values():
        parts.append("fallback values")
    return " + ".join(dict.fromkeys(parts)) or None


def names_its_preset(cell: Cell, model: str) -> bool:
    """Whether a cell's preset was named, so that the preset wins over the model's file.

    Args:
        cell: The cell.
        model: Name of its model.

    Returns:
        False also if the editor is not installed, if the model's file can no longer be read, or
        if naming the preset changes nothing.
    """
    offer = _offer(cell)
    if offer is None or cell.preset is None:
        return False
    try:
        file = match_values(offer, model).values
    except EditkitError:  # results are shown even if the model or its file is damaged by now
        return False
    if file is None:
        heads = [next(iter(group)) for group in getattr(offer.spec, "fallback", ())]
        unset = (DEFAULT, f"preset {cell.preset}")
        return any(cell.sources.get(head) in unset for head in heads)
    of_preset, of_file = _values_of_preset(offer, cell.preset), _flat(file.values)
    return any(
        cell.sources.get(field, "").startswith("preset ") and of_preset.get(field) != value
        for field, value in of_file.items()
    )


def _offer(cell: Cell) -> Offer | None:
    """The installed editor; None without one, or if several plugins offer its name."""
    offers = [each for each in default_registry().offers("editor") if each.name == cell.editor]
    return offers[0] if len(offers) == 1 else None


def _is_file(offer: Offer, source: str) -> bool:
    configs: str | None = getattr(offer.spec, "configs", None)
    return configs is not None and source.startswith(f"{configs.replace(':', '/')}/")


def _values_of_preset(offer: Offer, preset: str | None) -> dict[str, Any]:
    presets: Mapping[str, Mapping[str, Any]] = getattr(offer.spec, "presets", {})
    return _flat(presets.get(preset, {})) if preset else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted field, as plain data."""
    flat: dict[str, Any] = {}
    for field, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{field}.")
        else:
            flat[f"{prefix}{field}"] = list(value) if isinstance(value, tuple) else value
    return flat
