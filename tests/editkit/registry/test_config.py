from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from editkit import Config, ConfigError, EditorSpec, LayerRule, PluginError
from editkit.registry.config import GivenValues, gather_config, resolve_config
from editkit.registry.model_identity import short_name
from editkit.registry.plugins import Offer, Source
from editkit.storage.digests import canonical_json, digest


class Optimizer(Config):
    lr: float = Field(default=0.1, gt=0)
    """Step."""
    steps: int = 10
    """How many."""


class Settings(Config):
    layer: int
    """Which block."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    optimizer: Optimizer = Optimizer()
    """The optimizer."""
    seed: int = 7
    """Of its noise."""


class Listed(Config):
    kinds: tuple[Literal["a", "b"], ...] = Field(default=("a",), min_length=1)
    """Kinds."""


def offer(configs: str | None = None) -> Offer:
    presets: dict[str, dict[str, Any]] = {"published": {"layer": 1}, "paper": {"layer": 2}}
    spec = EditorSpec("mine", "json:X", f"{__name__}:Settings", "mine", presets, configs)
    return Offer("editor", spec, Source("mine", "mine", "1"))


def from_file(**values: Any) -> GivenValues:
    return GivenValues(values, "bench.yaml", "editors.0.config")


def from_flag(**values: Any) -> GivenValues:
    return GivenValues(values, "--set", "--set editors.mine")


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "made_up_configs" / "mine"
    folder.mkdir(parents=True)
    (tmp_path / "made_up_configs" / "__init__.py").touch()
    (folder / "tiny-1.yaml").write_text(
        "config: {mode: slow, optimizer: {lr: 0.5}}\npreset: paper\nnote: found by a sweep\n",
        encoding="utf-8",
    )
    (folder / "odd.yaml").write_text("confg: {}\n", encoding="utf-8")
    (folder / "torn.yaml").write_text("config: {mode: [slow\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_up_configs", raising=False)
    return "made_up_configs:mine"


def test_later_sources_win_and_every_value_has_a_source(configs: str) -> None:
    resolved = resolve_config(
        offer(configs),
        model="someone/Tiny-1",
        given=[from_file(optimizer={"steps": 3}), from_flag(layer=5)],
        seed=11,
    )
    assert resolved.to_dict() == {
        "layer": 5,
        "mode": "slow",
        "optimizer": {"lr": 0.5, "steps": 3},
        "seed": 11,
    }
    assert resolved.sources == {
        "layer": "--set",
        "mode": "made_up_configs/mine/tiny-1.yaml",
        "optimizer.lr": "made_up_configs/mine/tiny-1.yaml",
        "optimizer.steps": "bench.yaml",
        "seed": "run seed",
    }
    assert (resolved.preset, resolved.note) == ("paper", "found by a sweep")


def test_the_first_preset_is_the_default_and_a_set_seed_stays() -> None:
    resolved = resolve_config(offer(), given=[from_file(seed=3)], seed=11)
    assert (resolved.preset, resolved.to_dict()["layer"], resolved.to_dict()["seed"]) == (
        "published",
        1,
        3,
    )
    assert resolve_config(offer(), preset="paper").sources["layer"] == "preset paper"
    assert resolve_config(offer()).sources["seed"] == "default"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (from_file(layer="x"), r"^editors\.0\.config\.layer: got 'x', expected an integer\.$"),
        (from_flag(mode="slwo"), r"--set editors\.mine\.mode: got 'slwo', expected 'fast' or"),
        (
            from_file(optimizer={"lr": -1}),
            r"editors\.0\.config\.optimizer\.lr: got -1, expected greater than 0",
        ),
        (from_file(optimizer={"lr": float("inf")}), "expected a finite number"),
        (from_file(optimizer=3), r"editors\.0\.config\.optimizer: got 3, expected"),
    ],
)
def test_a_wrong_value_is_reported_with_its_place(layer: GivenValues, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(offer(), given=[layer])
    assert re.search(expected, caught.value.message), caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "place", "meant"),
    [
        ({"leyer": 1}, "editors.0.config.leyer", "layer"),
        ({"optimizer": {"stepz": 1}}, "editors.0.config.optimizer.stepz", "steps"),
    ],
)
def test_an_unknown_field_suggests_the_closest_one(
    values: dict[str, Any], place: str, meant: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(offer(), given=[from_file(**values)])
    assert caught.value.message == f"{place}: unknown field."
    assert caught.value.hint == f"Did you mean {meant!r}?"


def test_an_unknown_preset_suggests_the_closest_one() -> None:
    with pytest.raises(ConfigError, match=r"editors\.0\.preset: .* known: published, paper") as e:
        resolve_config(offer(), preset="papr", place="editors.0.preset")
    assert e.value.hint == "Did you mean 'paper'?"


def test_a_broken_file_of_values_is_reported_with_its_place(configs: str) -> None:
    with pytest.raises(ConfigError, match=r"mine/odd\.yaml: unknown key 'confg'"):
        resolve_config(offer(configs), model="odd")
    with pytest.raises(ConfigError, match=r"mine/torn\.yaml line 2"):
        resolve_config(offer(configs), model="torn")
    assert resolve_config(offer(configs), model="unheard-of").preset == "published"


@pytest.mark.parametrize("given", ["5e-4", "5", "true", True, [1]])
def test_a_text_is_not_a_number(given: object) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr: got .*, expected a number"):
        resolve_config(offer(), given=[from_flag(optimizer={"lr": given})])


def test_short_names_of_models() -> None:
    assert short_name("openai-community/GPT2-xl") == "gpt2-xl"
    assert short_name("folder/of/atlas/") == "atlas"


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_a_spec_with_an_unknown_package_is_an_error() -> None:
    with pytest.raises(PluginError, match="there is no package 'no_such_package'"):
        resolve_config(offer("no_such_package:mine"), model="tiny")


def ruled(configs: str | None = None) -> Offer:
    """An editor with a rule for the layer, and no preset that sets it."""
    spec = EditorSpec(
        "mine", "json:X", f"{__name__}:Settings", "mine", {"published": {"mode": "slow"}}, configs,
        layer_rule=LayerRule(1 / 3, "a third of the depth"),
    )  # fmt: skip
    return Offer("editor", spec, Source("mine", "mine", "1"))


def test_the_rule_chooses_an_unset_layer_and_is_reported(configs: str) -> None:
    resolved = resolve_config(ruled(), model="a/my-gpt2", n_layers=lambda: 13)
    assert resolved.to_dict()["layer"] == 4
    assert resolved.sources["layer"] == "fallback rule"
    expected = "no file of values for 'a/my-gpt2': layer 4 of 13, a third of the depth"
    assert resolved.rule == expected
    resolved = resolve_config(
        ruled(configs), model="tiny-1", preset="published", n_layers=lambda: 6
    )
    assert resolved.to_dict()["layer"] == 2
    assert resolved.rule.startswith("the values for 'tiny-1' set no layer: layer 2 of 6")


@pytest.mark.parametrize("layer", [from_file(layer=5), from_flag(layer=5)])
def test_a_given_layer_needs_no_rule(layer: GivenValues) -> None:
    def never() -> int:
        raise AssertionError("the number of layers is not needed")

    resolved = resolve_config(ruled(), model="my-gpt2", given=[layer], n_layers=never)
    assert (resolved.to_dict()["layer"], resolved.rule) == (5, None)
    assert resolve_config(ruled(), given=[layer], n_layers=never).rule is None


def test_without_the_number_of_layers_the_rule_chooses_nothing() -> None:
    stack = gather_config(ruled(), model="far/away", n_layers=lambda: None)
    assert "layer" not in stack.values
    assert re.search(r"its number of layers is unknown.*: a third of the depth", str(stack.rule))
    assert gather_config(ruled(), model="far/away").rule == stack.rule


@pytest.mark.parametrize(
    ("depth", "n_layers", "layer"),
    [(1 / 3, 6, 2), (1 / 3, 48, 16), (33 / 48, 48, 33), (1 / 48, 48, 1), (0, 1, 0), (1, 12, 11)],
)
def test_the_layer_of_a_rule(depth: float, n_layers: int, layer: int) -> None:
    assert LayerRule(depth, "because").layer_of(n_layers) == layer


SHARED = """
- note: as published
  preset: paper
  config: {mode: slow, layer: 3}
  models:
    small-1: {layer: 7}
    small-2:
- note: untested
  models:
    small-2: {layer: 9}
    small-3: {layer: 8}
    tiny-1: {layer: 8}
"""


def test_one_file_has_values_for_many_models(configs: str, tmp_path: Path) -> None:
    shared = tmp_path / "made_up_configs" / "mine" / "models.yaml"
    shared.write_text(SHARED, encoding="utf-8")
    first = resolve_config(offer(configs), model="Someone/Small-1")
    assert (first.to_dict()["layer"], first.to_dict()["mode"]) == (7, "slow")
    assert (first.preset, first.note) == ("paper", "as published")
    assert first.sources["layer"] == "made_up_configs/mine/models.yaml"
    assert resolve_config(offer(configs), model="small-2").to_dict()["layer"] == 3
    third = resolve_config(offer(configs), model="small-3")
    assert (third.to_dict()["layer"], third.preset, third.note) == (8, "published", "untested")
    assert resolve_config(offer(configs), model="tiny-1").note == "found by a sweep"
    assert resolve_config(offer(configs), model="unheard-of").note is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("config: {}", r"models\.yaml: got .*expected a list of groups"),
        ("- config: {}", r"models\.yaml group 1: expected 'models:'"),
        ("- models: {m: 3}", r"models\.yaml group 1: m: got 3, expected fields"),
        ("- models: {m: }\n  confg: 1", r"models\.yaml group 1: unknown key 'confg'"),
    ],
)
def test_a_broken_shared_file_is_reported_with_its_place(
    configs: str, tmp_path: Path, content: str, expected: str
) -> None:
    shared = tmp_path / "made_up_configs" / "mine" / "models.yaml"
    shared.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=expected):
        resolve_config(offer(configs), model="m")


def test_a_preset_that_the_user_names_wins_over_the_models_file(configs: str) -> None:
    presets: dict[str, dict[str, Any]] = {
        "published": {"layer": 1},
        "paper": {"layer": 2, "optimizer": {"lr": 0.25}},
        "same": {"layer": 3, "mode": "slow"},
    }
    spec = EditorSpec("mine", "json:X", f"{__name__}:Settings", "mine", presets, configs)
    with_file = Offer("editor", spec, Source("mine", "mine", "1"))
    file = "made_up_configs/mine/tiny-1.yaml"

    by_file = resolve_config(with_file, model="tiny-1")
    assert (by_file.preset, by_file.to_dict()["optimizer"]["lr"]) == ("paper", 0.5)
    assert by_file.overridden == by_file.remarks == ()

    named = resolve_config(with_file, model="tiny-1", preset="paper")
    assert named.to_dict()["optimizer"] == {"lr": 0.25, "steps": 10}
    assert named.to_dict()["mode"] == "slow"  # the preset does not set it
    assert named.sources["optimizer.lr"] == "preset paper"
    assert named.sources["mode"] == file
    assert named.overridden == (f"optimizer.lr is 0.25, not 0.5 from {file}",)
    assert "the named preset 'paper' overrides the file" in named.remarks[0]

    same = resolve_config(with_file, model="tiny-1", preset="same")
    assert same.overridden == ()  # the file has the same value
    flags = [from_flag(optimizer={"lr": 0.75})]
    set_by_hand = resolve_config(with_file, model="tiny-1", preset="paper", given=flags)
    assert set_by_hand.to_dict()["optimizer"]["lr"] == 0.75


def test_a_preset_may_set_values_for_single_models(configs: str) -> None:
    spec = EditorSpec(
        "mine",
        "json:X",
        f"{__name__}:Settings",
        "mine",
        {"published": {"layer": 1}, "paper": {"layer": 2}},
        configs,
        model_presets={"paper": {"tiny-1": {"layer": 7, "mode": "fast"}}},
    )
    with_file = Offer("editor", spec, Source("mine", "mine", "1"))
    named = resolve_config(with_file, model="someone/Tiny-1", preset="paper")
    assert named.to_dict() == {
        "layer": 7,
        "mode": "fast",
        "optimizer": {"lr": 0.5, "steps": 10},
        "seed": 7,
    }
    assert named.sources["layer"] == "preset paper for tiny-1"
    [overridden] = named.overridden
    assert overridden.startswith("mode is 'fast', not 'slow' from")
    assert resolve_config(with_file, model="other", preset="paper").to_dict()["layer"] == 2
    by_file = resolve_config(with_file, model="tiny-1").to_dict()  # the file names the preset
    assert (by_file["layer"], by_file["mode"]) == (7, "slow")


def test_a_list_without_its_wrong_elements_is_no_second_problem() -> None:
    given = Offer(
        "editor", EditorSpec("l", "json:X", f"{__name__}:Listed", "l"), Source("l", "l", "1")
    )
    for values, message in (
        (["nope"], "--set kinds.0: got 'nope', expected 'a' or 'b'."),
        ([], "--set kinds: got [], expected at least 1 value."),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve_config(given, given=[GivenValues({"kinds": values}, "--set", "--set")])
        assert caught.value.message == message
