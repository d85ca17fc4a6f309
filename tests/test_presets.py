"""The table of presets in docs/editors.md is what the plugins offer, value by value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from editkit.registry.config import config_class, resolve_config
from editkit.registry.plugins import Offer, default_registry

DOCS = Path(__file__).resolve().parents[1] / "docs" / "editors.md"
PRESETS = ("published", "paper", "paper-v1")
NOT_SET = "—"
_VALUE = re.compile(r"(?:(?P<model>[\w.-]+) )?`(?P<json>[^`]*)`")


def rows() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Name, field, and the cell of each preset."""
    section = DOCS.read_text(encoding="utf-8").split('<a id="presets"></a>')[1]
    lines = [line for line in section.split("\n## ")[1].splitlines() if line.startswith("|")]
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert head[1:] == ["field", *(f"`{preset}`" for preset in PRESETS), "in the texts"]
    for line in lines[2:]:
        name, field, *cells, place = (cell.strip() for cell in line.strip("|").split("|"))
        assert place, f"{name} {field}: no place in a text"
        yield name.strip("`"), field.strip("`"), dict(zip(PRESETS, cells, strict=True))


def values_of(cell: str) -> dict[str | None, Any]:
    """Values by model; None: for every model."""
    if cell == NOT_SET:
        return {}
    config_values = {m["model"]: json.loads(m["json"]) for m in _VALUE.finditer(cell)}
    assert _VALUE.sub("", cell).strip(", ") == "", cell
    return config_values


def offer_of(name: str) -> Offer:
    registry = default_registry()
    return registry.get("editor" if registry.has("editor", name) else "locator", name)


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


TABLE = list(rows())


@pytest.mark.parametrize(("name", "field", "cells"), TABLE, ids=[f"{n}.{f}" for n, f, _ in TABLE])
def test_a_row_is_what_the_presets_set(name: str, field: str, cells: Mapping[str, str]) -> None:
    offer = offer_of(name)
    for preset, cell in cells.items():
        stated = values_of(cell)
        if preset not in offer.spec.presets:
            assert stated == {}, f"{name} has no preset {preset}"
            continue
        own = offer.spec.presets[preset]
        assert (None in stated) == (field in own), f"{preset}: {cell}"
        if None in stated:
            assert stated[None] == plain(own[field]), preset
        by_model = offer.spec.model_presets.get(preset, {})
        if preset != "published":
            models = {model for model, values in by_model.items() if field in values}
            assert stated.keys() - {None} == models, preset
        for model, value in stated.items():
            resolved = resolve_config(offer, model=model, preset=preset).to_dict()
            assert resolved[field] == value, f"{preset} on {model}"


@pytest.mark.parametrize("name", sorted({name for name, _, _ in TABLE}))
def test_no_field_that_a_preset_sets_is_left_out(name: str) -> None:
    offer = offer_of(name)
    stated = [field for other, field, _ in TABLE if other == name]
    assert len(stated) == len(set(stated))
    expected = set()
    for preset in PRESETS:
        by_model = offer.spec.model_presets.get(preset, {}).values()
        for values in (offer.spec.presets.get(preset, {}), *by_model):
            expected |= set(values)
    assert expected <= set(stated)
    assert set(stated) <= set(config_class(offer).model_fields)


def test_every_method_with_a_preset_of_a_paper_is_in_the_table() -> None:
    registry = default_registry()
    named = {
        offer.name
        for offer in registry.offers()
        if offer.kind in ("editor", "locator")
        and {"paper", "paper-v1"} & set(getattr(offer.spec, "presets", ()))
    }
    assert named == {name for name, _, _ in TABLE}


@pytest.mark.parametrize(
    ("name", "preset", "model", "values"),
    [  # read from the texts once more, by hand
        (
            "rome",
            "paper",
            "gpt2-xl",
            {
                "layer": 18,
                "kl_factor": 100,
                "weight_decay": 1.5e-3,
                "lr": 0.5,
                "steps": 20,
                "stop_loss": 0.05,
                "context_lengths": [[10, 5], [10, 10]],
                "update_key": "mean",
                "corpus_tokens": 100_000,
            },
        ),
        (
            "rome",
            "paper-v1",
            "gpt2-xl",
            {
                "layer": 15,
                "kl_factor": 100,
                "weight_decay": 1.5e-3,
                "lr": 0.5,
                "steps": 25,
                "stop_loss": 0.05,
                "context_lengths": [[20, 2], [20, 5], [10, 10]],
                "value_contexts": False,
                "update_key": "mean",
            },
        ),
        ("ft", "paper", "gpt2-xl", {"layer": 1, "lr": 5e-4, "stop_loss": 0.03}),
        ("ft", "paper", "gpt-j-6B", {"layer": 21, "lr": 5e-4, "stop_loss": 0.03}),
        ("ft+l", "paper", "gpt2-xl", {"layer": 0, "max_change": 5e-4, "stop_loss": 0.03}),
        ("ft+l", "paper", "gpt-j-6B", {"layer": 0, "max_change": 5e-5}),
        ("attnedit", "paper", "gpt2-xl", {"layer": 33, "max_change": 1e-3}),
        ("kn", "paper", "gpt2-xl", {"refine": True, "p": 0.5, "threshold": 0.3}),
        ("causal-tracing", "paper", "gpt2-xl", {"window": 10, "window_side": "above"}),
    ],
)
def test_the_texts_numbers(name: str, preset: str, model: str, values: dict[str, Any]) -> None:
    config_values = resolve_config(offer_of(name), model=model, preset=preset).to_dict()
    assert {field: config_values[field] for field in values} == values
