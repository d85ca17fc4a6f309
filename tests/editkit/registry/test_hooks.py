"""Every hook stands in the author's guide as it is, and what is deprecated is told."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import pytest

from editkit import EditorSpec, hookimpl
from editkit.cli import plugins as listing
from editkit.registry import hookspecs, plugin_checks
from editkit.registry.hookspecs import HOOKS_VERSION, Deprecation, HookInfo, hook_info, hookspec
from editkit.registry.plugins import Registry
from tests.editkit.benchmark.fakes import ROOT

HOOKS = sorted(name for name in vars(hookspecs) if hook_info(name) is not None)
ROW = re.compile(r"^\| `(editkit_\w+)(\([^`]*)` \| (\d+\.\d+) \| ", re.MULTILINE)


def signature(name: str) -> str:
    return str(inspect.signature(getattr(hookspecs, name))).replace("'", "")


def version(name: str) -> str:
    info = hook_info(name)
    assert info is not None
    return ".".join(map(str, info.since))


def test_the_guide_holds_every_hook_with_its_signature_and_version() -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8").replace("\\|", "|")
    told = {name: (rest, since) for name, rest, since in ROW.findall(guide)}
    assert told == {name: (signature(name), version(name)) for name in HOOKS}
    assert f"version of the hooks is {'.'.join(map(str, HOOKS_VERSION))}" in guide


def test_no_hook_is_newer_than_the_hooks() -> None:
    assert all(info.since <= HOOKS_VERSION for info in map(hook_info, HOOKS) if info)


@pytest.fixture
def old_hook(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Declares the hook ``editkit_old_things(thing)`` for the length of a test."""

    def declare(**options: Any) -> None:
        monkeypatch.setattr(hookspecs, "_infos", dict(hookspecs._infos))

        def editkit_old_things(thing: object) -> None: ...

        declared = hookspec(since=(1, 0), **options)(editkit_old_things)
        monkeypatch.setattr(hookspecs, "editkit_old_things", declared, raising=False)

    return declare


NEW = Deprecation("editkit_new_things", (2, 0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"deprecated": NEW},
            "hook editkit_old_things is deprecated: use editkit_new_things instead, "
            "goes away in 2.0",
        ),
        (
            {"deprecated_arguments": {"thing": Deprecation("'things'", (2, 0))}},
            "argument thing of editkit_old_things is deprecated: use 'things' instead, "
            "goes away in 2.0",
        ),
    ],
)
def test_deprecated_hooks_and_arguments_are_told(
    options: dict[str, object], said: str, old_hook: Callable[..., None]
) -> None:
    old_hook(**options)
    registry = Registry()
    guest = types.SimpleNamespace(editkit_old_things=hookimpl(lambda thing: None))
    registry.register(guest, name="guest", distribution="guest-dist")
    assert not registry.broken
    assert registry.plugins[0].deprecations == (said,)
    assert f"soon to break:\n  guest (guest-dist 0): {said}\n" in listing._text(registry)
    assert listing._document(registry)["deprecations"][0]["reason"] == said


def test_deprecated_fields_are_told_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {(EditorSpec, "configs"): Deprecation("'values'", (2, 0))}
    monkeypatch.setattr(plugin_checks, "DEPRECATED_FIELDS", fields)
    specs = [EditorSpec("a", "a:B", "a:C", "a"), EditorSpec("b", "a:B", "a:C", "b", configs="a:b")]
    registry = Registry()
    registry.register(types.SimpleNamespace(editkit_editors=hookimpl(lambda: specs)), name="guest")
    assert registry.plugins[0].deprecations == (
        "field configs of EditorSpec ('b') is deprecated: use 'values' instead, goes away in 2.0",
    )


def test_a_hook_without_history_is_not_deprecated() -> None:
    assert HookInfo((1, 0)).deprecated is None
    assert hook_info("no_such_hook") is None
