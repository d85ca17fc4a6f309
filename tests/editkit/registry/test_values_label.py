"""A preset is shown with what replaces its values, also for cells of earlier versions."""

from __future__ import annotations

import dataclasses

import pytest

from editkit.registry.config import resolve_config
from editkit.registry.plugins import default_registry
from editkit.registry.values_label import label_of_values, names_its_preset, values_from
from editkit.results import Cell


def cell_of(editor: str, model: str, preset: str | None = None) -> Cell:
    offer = default_registry().get("editor", editor)
    resolved = resolve_config(offer, model=model, preset=preset, n_layers=lambda: 6)
    config, sources = resolved.to_dict(), resolved.sources
    # `describe` has only the given values, and shows the same.
    given = label_of_values(offer, resolved.preset, resolved.values, sources)
    made = Cell(
        editor, resolved.preset, config, sources, "editkit", "1", 0, f"{editor}{preset}", {}
    )
    assert values_from(made) == given
    return made


@pytest.mark.parametrize(
    ("editor", "model", "preset", "label"),
    [
        ("ft", "atlas", None, "published + atlas.yaml"),
        ("ft", "atlas", "published", "published"),
        ("ft", "atlas", "paper", "paper"),
        ("rome", "atlas", "paper", "paper"),
        ("rome", "unheard-of", None, "published + fallback values"),
        ("rome", "unheard-of", "published", "published"),
        ("ft", "unheard-of", None, "published"),
        ("ke", "atlas", None, "atlas.yaml"),
        ("none", "atlas", None, None),
    ],
)
def test_what_replaces_the_values_of_a_preset(
    editor: str, model: str, preset: str | None, label: str | None
) -> None:
    cell = cell_of(editor, model, preset)
    assert values_from(cell) == label
    assert names_its_preset(cell, model) == (
        preset is not None and values_from(cell_of(editor, model)) != label
    )


def test_a_user_value_in_place_of_the_file() -> None:
    cell = cell_of("ft", "atlas")
    assert values_from(dataclasses.replace(cell, sources={**cell.sources, "lr": "--set"})) == (
        "published"
    )
    assert values_from(dataclasses.replace(cell, config={**cell.config, "lr": 5e-4})) == "published"
    gone = dataclasses.replace(cell, editor="uninstalled")
    assert (values_from(gone), names_its_preset(gone, "atlas")) == ("published", False)
