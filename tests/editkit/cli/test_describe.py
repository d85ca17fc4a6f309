from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import yaml

from editkit.palette import Style
from editkit.regimes import RegimeKind
from editkit.registry.plugins import default_registry
from editkit.registry.styles import style_of
from tests.editkit.benchmark import fakes

Cli = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("fake_world")


def test_it_shows_values_with_type_source_and_documentation(editkit: Cli) -> None:
    code, out, _ = editkit("describe", "one", "--preset", "paper")
    assert code == 0
    assert "one: editor of fake-plugin 1.0\n  edits nothing\n" in out
    assert "presets: published, paper (shown)" in out
    assert "  strength = 0.5  (float)  [preset paper]\n      How hard it edits.\n" in out
    assert "  fail_on = []  (tuple[int, ...])  [default]" in out


def test_a_metric_shows_its_protocol_and_scores(editkit: Cli) -> None:
    out = editkit("describe", "fake")[1]
    assert "protocol: fake/v1" in out
    assert "scores:\n    fake/score (FS): share of facts\n    fake/magnitude (FM)\n" in out


def test_the_snippet_is_yaml_for_a_benchmark_file(editkit: Cli) -> None:
    snippet = yaml.safe_load(editkit("describe", "one", "--yaml")[1])
    (editor,) = snippet["editors"]
    assert (editor["name"], editor["preset"]) == ("one", "published")
    assert fakes.EditorConfig.model_validate(editor["config"]) == fakes.EditorConfig()
    assert yaml.safe_load(editkit("describe", "few", "--yaml")[1])["dataset"]["config"]["n"] == 23


def test_schema_and_json(editkit: Cli) -> None:
    schema = json.loads(editkit("describe", "one", "--schema")[1])
    assert schema["properties"]["strength"]["description"] == "How hard it edits."
    (document,) = json.loads(editkit("describe", "one", "--json")[1])
    assert document["fields"][0] == {
        "name": "strength", "type": "float", "value": 1.0, "source": "default",
        "doc": "How hard it edits.", "required": False,
    }  # fmt: skip


def test_an_ambiguous_name_shows_all_and_kind_picks(editkit: Cli) -> None:
    class Plugin:
        editkit_metrics = staticmethod(fakes.hookimpl(lambda: [named_like_the_editor]))

    spec = fakes.editkit_metrics()[0]
    named_like_the_editor = type(spec)("one", spec.factory, spec.config, "a metric")
    default_registry().register(Plugin(), name="guest")
    out = editkit("describe", "one")[1]
    assert "one: editor of" in out
    assert "one: metric of" in out
    assert "one: metric of" not in editkit("describe", "one", "--kind", "editor")[1]
    code, _, err = editkit("describe", "one", "--yaml")
    assert code == 2
    assert "Choose one with --kind" in err


@pytest.mark.parametrize(
    ("regimes", "text"),
    [
        (["independent"], "independent by itself; joint edits and sequences write one fact after"),
        (["joint"], "independent, joint by itself; sequences make one joint edit per step"),
        (["sequential"], "independent, sequential by itself; joint edits write one fact after"),
        (["joint", "sequential"], "independent, joint, sequential by itself"),
    ],
)
def test_an_editor_shows_its_regimes(editkit: Cli, regimes: list[RegimeKind], text: str) -> None:
    spec = default_registry().get("editor", "one").spec
    object.__setattr__(spec, "regimes", tuple(regimes))
    assert f"regimes: {text}" in " ".join(editkit("describe", "one")[1].split())
    [document] = json.loads(editkit("describe", "one", "--json")[1])
    assert document["regimes"] == regimes
    offers = json.loads(editkit("plugins", "--json")[1])["offers"]
    assert {offer["name"]: offer.get("regimes") for offer in offers}["one"] == regimes
    assert all(("regimes" in offer) == (offer["kind"] == "editor") for offer in offers)


def test_an_editor_shows_its_style(editkit: Cli) -> None:
    spec = default_registry().get("editor", "one").spec
    picked = style_of("one")
    line = f"style: colour {picked.color}, marker {picked.marker}, line {picked.dash} (picked by"
    assert line in " ".join(editkit("describe", "one")[1].split())
    object.__setattr__(spec, "style", Style("#102030", "D", "--"))
    assert "style: colour #102030, marker D, line --\n" in editkit("describe", "one")[1]
    [document] = json.loads(editkit("describe", "one", "--json")[1])
    assert document["style"] == {"color": "#102030", "marker": "D", "dash": "--"}


def test_an_unknown_name_suggests_the_closest_one(editkit: Cli) -> None:
    code, _, err = editkit("describe", "won")
    assert code == 3
    assert "Did you mean" in err or "editkit plugins" in err


def test_offers_without_configuration_are_described(editkit: Cli) -> None:
    code, out, _ = editkit("describe", "small")
    assert code == 0
    assert "small: benchmark of fake-plugin" in out
    assert editkit("describe", "small", "--schema")[0] == 2
