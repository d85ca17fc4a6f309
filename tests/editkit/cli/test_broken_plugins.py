"""Broken plugins, as users see them on the command line."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit.registry.plugins import default_registry
from tests.editkit.benchmark import fakes

Cli = Callable[..., tuple[int, str, str]]

OFFER = f"""
from editkit import EditorSpec, MetricSpec, hookimpl
def spec(name="mine", factory="json:JSONDecoder"):
    return EditorSpec(name, factory, "{fakes.HERE}:EditorConfig", "mine")
"""
HOOK = "@hookimpl\ndef editkit_editors(): return [spec()]\n"
WAYS = {
    "raises": ("raise ValueError('bad day')", "ValueError: bad day"),
    "exits": ("import sys; sys.exit(3)", "called sys.exit(3) while being imported"),
    "lacks": ("import nobody_has_it", "ModuleNotFoundError: No module named 'nobody_has_it'"),
    "misspelt": (
        HOOK.replace("editkit_editors", "editkit_editor"),
        "unknown hook 'editkit_editor'. Did you mean 'editkit_editors'?",
    ),
    "argument": (
        HOOK + "@hookimpl\ndef editkit_run_started(runn): pass\n",
        "editkit_run_started has no argument 'runn'; it takes run",
    ),
    "type": (
        "@hookimpl\ndef editkit_editors(): return ['mine']\n",
        "editkit_editors returned 'mine' (str), expected EditorSpec",
    ),
}


def install(site: Path, name: str, source: str) -> None:
    text = textwrap.dedent(OFFER) + source
    (site / f"sick_{name}.py").write_text(text, encoding="utf-8")
    fakes.write_distribution(site, f"dist-{name}", {name: f"sick_{name}"}, "2.1")
    sys.modules.pop(f"sick_{name}", None)  # of an earlier test
    default_registry.cache_clear()


def benchmark(editkit: Cli, editor: str, out: Path) -> tuple[int, str, str]:
    return editkit("run-benchmark", "small", "--editor", editor, "--out", out, "--quiet")


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_plugin_is_reported_in_one_line(
    way: str, fake_world: Path, editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, reason = WAYS[way]
    install(fake_world, way, source)
    code, out, _ = editkit("plugins")
    assert code == 0
    assert f"  {way} (dist-{way} 2.1): {reason}\n" in out
    code, _, err = benchmark(editkit, "mine", tmp_path / "out")
    assert code == 3
    assert "no editor named 'mine'" in err
    assert f"broken plugin: {way} (dist-{way} 2.1): {reason}" in err
    assert "Traceback" not in err
    arguments = ("run-benchmark", "small", "--editor", "one", "--out", tmp_path / "out")
    code, _, err = editkit(*arguments, "--dry-run")
    assert code == 0, err
    monkeypatch.setenv("EDITKIT_STRICT_PLUGINS", "1")
    default_registry.cache_clear()
    assert editkit("plugins")[0] == 3
    assert editkit("explain", "errors/plugin")[0] == 0
    code, _, err = editkit("describe", "one")
    assert code == 3
    assert f"EDITKIT_STRICT_PLUGINS is set, and some plugins are broken: {way}" in err


def test_a_clashing_name_is_listed_with_both_sources(
    fake_world: Path, editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(fake_world, "first", HOOK)
    install(fake_world, "second", HOOK)
    clash = "editor 'mine' is offered by dist-first 2.1 and dist-second 2.1"
    code, out, _ = editkit("plugins")
    assert (code, clash in out) == (0, True)
    code, _, err = benchmark(editkit, "mine", tmp_path / "out")
    assert code == 3
    assert "offered by dist-first 2.1 (plugin 'first') and dist-second 2.1" in err
    assert "EDITKIT_DISABLE_PLUGINS" in err
    monkeypatch.setenv("EDITKIT_STRICT_PLUGINS", "1")
    default_registry.cache_clear()
    code, _, err = editkit("describe", "one")
    assert (code, clash in err) == (3, True)
    monkeypatch.setenv("EDITKIT_DISABLE_PLUGINS", "editkit,first")
    default_registry.cache_clear()
    assert editkit("plugins")[0] == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('layer')", "cannot be built: KeyError: 'layer'"),
        ("raise SystemExit(4)", "cannot be built: called sys.exit(4) while being built"),
    ],
)
def test_a_factory_that_fails_is_reported(
    body: str, message: str, fake_world: Path, editkit: Cli, tmp_path: Path
) -> None:
    source = HOOK.replace("spec()", "spec(factory='sick_factory:Make')")
    install(fake_world, "factory", source + f"def Make(config): {body}\n")
    code, out, _ = editkit("plugins")
    assert (code, "broken plugins" in out) == (0, False), "it is only seen when it is used"
    code, _, err = benchmark(editkit, "mine", tmp_path / "out")
    assert code == 3, err
    assert f"editor 'mine' of dist-factory 2.1 {message}" in err
    assert "Traceback" not in err
