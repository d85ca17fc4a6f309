from __future__ import annotations

import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

from editkit import EditorSpec, PluginError, hookimpl
from editkit.registry.plugins import Registry, resolve
from tests.editkit.benchmark import fakes


def editor_spec(name: str = "mine", factory: str = "json:JSONDecoder") -> EditorSpec:
    return EditorSpec(name, factory, f"{fakes.HERE}:EditorConfig", "mine")


def plugin_with(**hooks: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{name: hookimpl(hook) for name, hook in hooks.items()})


def registry_with(plugin: object) -> Registry:
    registry = Registry()
    registry.register(fakes, name="fake", distribution="fake-plugin", version="1.0")
    registry.register(plugin, name="guest", distribution="guest-dist", version="2.1")
    return registry


def reason(plugin: object) -> str:
    """Why a plugin is broken; the sound one beside it must not notice."""
    registry = registry_with(plugin)
    assert registry.names("editor") == ["one", "short", "two"]
    assert len(registry.broken) == 1
    assert registry.broken[0].source.distribution == "guest-dist"
    assert "\n" not in registry.broken[0].reason
    return registry.broken[0].reason


def test_a_sound_plugin_is_looked_up_with_its_source() -> None:
    registry = registry_with(plugin_with(editkit_editors=lambda: [editor_spec()]))
    offer = registry.get("editor", "mine")
    assert not registry.broken
    assert (offer.source.distribution, offer.source.version) == ("guest-dist", "2.1")
    assert registry.names("editor") == ["mine", "one", "short", "two"]


def test_an_editor_is_built_from_its_config() -> None:
    config = fakes.EditorConfig(strength=2.0)
    built = registry_with(plugin_with()).build("editor", "one", config)
    assert built.config.strength == 2.0


def test_a_misspelt_hook_is_reported_with_the_right_name() -> None:
    assert "Did you mean 'editkit_editors'?" in reason(plugin_with(editkit_editor=lambda: []))


def test_a_hook_without_marker_is_reported() -> None:
    plugin = types.SimpleNamespace(editkit_editors=lambda: [])
    registry = registry_with(plugin)
    assert "put @editkit.hookimpl above it" in registry.broken[0].reason


def test_an_unknown_hook_argument_is_reported() -> None:
    text = reason(plugin_with(editkit_run_started=lambda rum: None))
    assert "it takes run" in text
    assert "'rum'" in text


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (["rome"], "expected EditorSpec"),
        (3, "expected a list of specs"),
        ([editor_spec("Mixed Case")], "expected lower-case"),
        ([editor_spec(factory="no colon")], "expected 'package.module:Name'"),
        ([editor_spec(), editor_spec()], "'mine' twice"),
        ([fakes.editkit_metrics()[0]], "expected EditorSpec"),
    ],
)
def test_a_wrong_return_value_is_reported(answer: Any, expected: str) -> None:
    assert expected in reason(plugin_with(editkit_editors=lambda: answer))


def test_a_hook_that_raises_or_exits_is_reported() -> None:
    def fail() -> list[EditorSpec]:
        raise KeyError("layer")

    def leave() -> list[EditorSpec]:
        raise SystemExit(3)

    assert reason(plugin_with(editkit_editors=fail)) == "KeyError: 'layer'"
    assert "called sys.exit(3)" in reason(plugin_with(editkit_editors=leave))


def test_looking_up_a_clashing_name_names_both_distributions() -> None:
    registry = registry_with(plugin_with(editkit_editors=lambda: [editor_spec("one")]))
    assert not registry.broken
    with pytest.raises(PluginError, match=r"fake-plugin 1\.0.*guest-dist 2\.1"):
        registry.get("editor", "one")
    assert registry.get("editor", "two").name == "two"
    assert list(registry.clashes) == [("editor", "one")]


def test_an_unknown_name_suggests_the_closest_and_lists_broken_plugins() -> None:
    registry = registry_with(plugin_with(editkit_editor=lambda: []))
    with pytest.raises(PluginError) as caught:
        registry.get("editor", "on")
    assert caught.value.hint == "Did you mean 'one'?"
    assert "one, short, two" in caught.value.message
    assert "guest (guest-dist 2.1)" in caught.value.message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("json", "expected 'package.module:Name'"),
        ("no_such_module_here:X", "ModuleNotFoundError"),
        ("json:NoSuchName", "has no 'NoSuchName'"),
    ],
)
def test_a_reference_to_nothing_is_a_plugin_error(reference: str, expected: str) -> None:
    with pytest.raises(PluginError, match=expected):
        resolve(reference, what="editor 'x' of y 1")


def test_a_class_that_cannot_be_built_is_a_plugin_error() -> None:
    registry = registry_with(plugin_with(editkit_editors=lambda: [editor_spec()]))
    with pytest.raises(PluginError, match=r"editor .mine. of guest-dist 2\.1 cannot be built"):
        registry.build("editor", "mine", object())


# ---------------------------------------------------------------- installed distributions

GUESTS = {
    "raises": "raise ValueError('bad day')",
    "exits": "import sys; sys.exit('bye')",
    "lacks": "import a_package_that_nobody_has",
    "misspelt": """
        from editkit import hookimpl
        @hookimpl
        def editkit_metric(): return []
        """,
    "fine": """
        from editkit import EditorSpec, hookimpl
        @hookimpl
        def editkit_editors(): return [EditorSpec("fine", "a:B", "a:C", "fine")]
        """,
}


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in GUESTS.items():
        (tmp_path / f"guest_{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        fakes.write_distribution(tmp_path, f"dist-{name}", {name: f"guest_{name}"})
    monkeypatch.syspath_prepend(str(tmp_path))


def discovered(**environ: str) -> Registry:
    return Registry.discover({"EDITKIT_DISABLE_PLUGINS": "editkit", **environ})


@pytest.mark.usefixtures("guests")
def test_discovery_survives_every_kind_of_broken_plugin() -> None:
    registry = discovered()
    reasons = {broken.source.plugin: broken.reason for broken in registry.broken}
    assert reasons == {
        "raises": "ValueError: bad day",
        "exits": "called sys.exit('bye') while being imported",
        "lacks": "ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
        "misspelt": "unknown hook 'editkit_metric'. Did you mean 'editkit_metrics'?",
    }
    assert registry.names("editor") == ["fine"]
    assert "rome" in {source.plugin for source in registry.disabled}


@pytest.mark.usefixtures("guests")
def test_the_environment_chooses_plugins() -> None:
    registry = discovered(EDITKIT_PLUGINS="fine, exits,absent")
    assert {broken.source.plugin for broken in registry.broken} == {"exits", "absent"}
    assert not discovered(EDITKIT_PLUGINS="dist-fine").broken
    with pytest.raises(PluginError, match=r"the environment disables.*fine"):
        discovered(EDITKIT_DISABLE_PLUGINS="editkit,fine").get("editor", "fine")


@pytest.mark.usefixtures("guests")
def test_strict_mode_refuses_to_run_with_a_broken_plugin() -> None:
    with pytest.raises(PluginError, match="bad day"):
        discovered(EDITKIT_STRICT_PLUGINS="1").get("editor", "fine")
    assert discovered(EDITKIT_STRICT_PLUGINS="1", EDITKIT_PLUGINS="fine").get("editor", "fine")
