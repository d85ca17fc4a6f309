"""Whatever a plugin does when it is imported, one line names it and no other plugin is affected."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import locale
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import EditorSpec, MetricSpec, PluginError, Score, Style, hookimpl
from editkit.registry.guard import Guard, PluginFailure, reason_of
from editkit.registry.plugins import BUILT_IN, Registry, default_registry, import_module
from tests.editkit.benchmark import fakes

FINE = """
from editkit import EditorSpec, hookimpl
@hookimpl
def editkit_editors(): return [EditorSpec("fine", "a:B", "a:C", "fine")]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("guest_"):
            del sys.modules[name]
    importlib.invalidate_caches()


def install(site: Path, name: str, source: str) -> None:
    (site / f"guest_{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    fakes.write_distribution(site, f"dist-{name}", {name: f"guest_{name}"}, "2.1")


def of_users(registry: Registry) -> list[Any]:
    """The plugins other than the one in which editkit offers its own architectures."""
    return [plugin for plugin in registry.plugins if plugin.source.plugin != BUILT_IN]


def discover(*names: str) -> Registry:
    return Registry.discover({"EDITKIT_PLUGINS": ",".join(names)})


RAISES = {
    "exits": ("import sys; sys.exit(3)", "called sys.exit(3) while being imported"),
    "generator": ("raise GeneratorExit", "GeneratorExit"),
    "stops": ("raise StopIteration(3)", "StopIteration: 3"),
    "own": ("class Mine(BaseException): pass\nraise Mine('a\\nb')", "Mine: a"),
    "interrupts": (
        "raise KeyboardInterrupt",
        "raised KeyboardInterrupt while being imported, without Ctrl-C",
    ),
    "recursion": ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "memory": ("raise MemoryError", "MemoryError"),
    "syntax": ("def", "SyntaxError: invalid syntax"),
    "nul": ("\0", "source code string cannot contain null bytes"),
    "colour": ("raise ValueError('\\x1b[31mred')", "ValueError: \\x1b[31mred"),
    "long": ("raise ValueError('x' * 10_000)", "x..."),
    "silent": (
        "class Mine(Exception):\n    def __str__(self): raise SystemExit(1)\nraise Mine",
        "Mine",
    ),
}


@pytest.mark.parametrize("way", RAISES)
def test_whatever_is_raised_is_one_line(way: str, site: Path) -> None:
    source, reason = RAISES[way]
    install(site, way, source)
    install(site, "sound", FINE)
    registry = discover(way, "sound")
    [broken] = registry.broken
    assert reason in broken.reason
    assert broken.reason.isprintable()
    assert len(broken.reason) < 400
    assert registry.names("editor") == ["fine"]
    with pytest.raises(PluginError, match=f"dist-{way}"):
        registry.get("editor", "absent")
    importlib.invalidate_caches()
    with pytest.raises(PluginError) as refused:  # a module that is imported when it is used
        import_module(f"guest_{way}", what="editor 'x'")
    assert "editor 'x' could not be loaded" in refused.value.message


CHANGES = {
    "the working directory": "import os; os.chdir('/')",
    "sys.argv": "import sys; sys.argv[:] = ['x']; sys.argv.append('y')",
    "the handler of SIGINT": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "the handler of SIGTERM": "import signal; signal.signal(signal.SIGTERM, lambda *_: None)",
    "the handler of SIGUSR1": "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "logging": "import logging; logging.basicConfig(level=0, force=True); logging.disable(50)",
    "filters of all warnings": "import warnings; warnings.simplefilter('ignore')",
    "the recursion limit": "import sys; sys.setrecursionlimit(12345)",
    "defaults of torch": "import torch; torch.set_default_dtype(torch.float64)",
    "torch's number of threads": "import torch; torch.set_num_threads(3)",
    "stdin or stderr": "import sys; sys.stderr = None",
}


def state() -> list[Any]:
    return [
        Path.cwd(),
        list(sys.argv),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGUSR1),
        (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        [entry for entry in warnings.filters if entry[2] is Warning],
        locale.setlocale(locale.LC_ALL),
        sys.getrecursionlimit(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        sys.stderr,
        sys.stdout,
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_settings_of_the_process_are_restored_and_listed(
    change: str, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = signal.signal(signal.SIGTERM, lambda *_: None)  # as in a run
    try:
        name = f"c{list(CHANGES).index(change)}"
        install(site, name, FINE + CHANGES[change])
        before = state()
        registry = discover(name)
        assert state() == before
        [plugin] = of_users(registry)
        assert plugin.notes == (f"changed {change} while being imported; it was restored",)
        assert registry.names("editor") == ["fine"]
        del sys.modules[f"guest_{name}"]
        import_module(f"guest_{name}", what="editor 'x'")
        assert state() == before
        assert f"editor 'x' changed {change}" in caplog.text
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_plugin_that_changes_nothing_has_no_notes(site: Path) -> None:
    install(site, "sound", FINE)
    [plugin] = of_users(discover("sound"))
    assert plugin.notes == ()
    assert all(not plugin.notes for plugin in default_registry().plugins)


def run(site: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(site), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "editkit", *arguments],
        capture_output=True, text=True, check=False, timeout=120, env=environ, **options,
    )  # fmt: skip


def test_stdout_stays_one_document(site: Path) -> None:
    noise = """
        import os, subprocess, sys
        print("noise from print")
        sys.stdout.write("noise from sys.stdout")
        sys.__stdout__.write("noise from the first stdout"); sys.__stdout__.flush()
        os.write(1, b"noise from a descriptor")
        subprocess.run([sys.executable, "-c", "print('noise from a child')"])
        """
    install(site, "noise", FINE + textwrap.dedent(noise))
    done = run(site, "plugins", "--json")
    assert done.returncode == 0, done.stderr
    assert "fine" in [offer["name"] for offer in json.loads(done.stdout)["offers"]]
    assert done.stderr.count("noise") == 5


def test_a_hook_may_print(site: Path) -> None:
    install(site, "noise", FINE.replace("return", "print('noise'); return"))
    done = run(site, "plugins", "--json", env={"EDITKIT_PLUGINS": "noise"})
    offers = json.loads(done.stdout)["offers"]
    assert [each["name"] for each in offers if each["kind"] != "architecture"] == ["fine"]


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_during_an_import_ends_the_program(site: Path, *, swallowed: bool) -> None:
    source = f"""
        import pathlib, time
        pathlib.Path({str(site / "started")!r}).touch()
        try:
            time.sleep(60)
        except BaseException:
            if not {swallowed}: raise
        """
    install(site, "slow", FINE + textwrap.dedent(source))
    environ = {**os.environ, "PYTHONPATH": str(site), "EDITKIT_PLUGINS": "slow"}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    )
    deadline = time.monotonic() + 60
    while not (site / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (out, err.decode()) == (b"", "interrupted\n")


# Background jobs ignore Ctrl-C unless they ask for it.
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from editkit.cli.main import main
sys.exit(main(["plugins"]))
"""


def test_an_interrupt_of_its_own_does_not_end_the_program(site: Path) -> None:
    install(site, "rude", "raise KeyboardInterrupt")
    done = run(site, "plugins", env={"EDITKIT_PLUGINS": "rude,editkit"})
    assert done.returncode == 0
    assert "rude (dist-rude 2.1): raised KeyboardInterrupt while being imported" in done.stdout


def test_an_interrupt_raised_in_a_thread_is_a_failure() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with Guard("being imported"):
                raise KeyboardInterrupt
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(caught[0], PluginFailure)


def test_an_error_that_cannot_be_shown_has_its_type() -> None:
    class Evil(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert reason_of(Evil(), "x") == "Evil"


# ---------------------------------------------------------------- wrong answers of hooks


def metric_spec(**changes: Any) -> MetricSpec:
    return MetricSpec(**{"name": "m", "factory": "a:B", "config": "a:C", "summary": "s", **changes})


def editor_spec(**changes: Any) -> EditorSpec:
    return EditorSpec(**{"name": "e", "factory": "a:B", "config": "a:C", "summary": "s", **changes})


def endless() -> Iterator[EditorSpec]:
    number = 0
    while True:
        number += 1
        yield editor_spec(name=f"e{number}")


def raising() -> Iterator[EditorSpec]:
    yield editor_spec()
    raise GeneratorExit


class Evil:
    def __repr__(self) -> str:
        raise SystemExit(1)


WRONG: list[tuple[str, Any, str]] = [
    ("editors", 3, "returned 3, expected a list of specs"),
    ("editors", "text", "returned 'text', expected a list of specs"),
    ("editors", b"text", "returned 116 (int), expected EditorSpec"),
    ("editors", {"a": 1}, "returned 'a' (str), expected EditorSpec"),
    ("editors", [None], "returned None (NoneType), expected EditorSpec"),
    ("editors", [metric_spec()], "expected EditorSpec"),
    ("editors", [Evil()], "called sys.exit(1) while being registered"),
    ("editors", [editor_spec(), editor_spec()], "offers 'e' twice"),
    ("editors", [editor_spec(name=3)], "offers the name 3, expected lower-case"),
    ("editors", [editor_spec(name="../x")], "offers the name '../x', expected lower-case"),
    ("editors", [editor_spec(factory=dict)], "as factory of 'e', expected 'package.module:Name'"),
    ("editors", [editor_spec(summary=None)], "has None as summary of 'e', expected a text"),
    ("editors", [editor_spec(presets=["a"])], "presets of 'e', expected a mapping of mappings"),
    ("editors", [editor_spec(presets={"a": 1})], "presets of 'e', expected a mapping of mappings"),
    ("editors", [editor_spec(configs=3)], "has 3 as configs of 'e', expected a text"),
    ("editors", [editor_spec(layer_rule=3)], "has 3 as layer_rule of 'e', expected LayerRule"),
    ("editors", [editor_spec(style="red")], "has 'red' as style of 'e', expected Style"),
    ("editors", [editor_spec(style=Style("red", "o"))], "color 'red', expected '#RRGGBB'"),
    ("editors", [editor_spec(style=Style("#707478", "o"))], "grey is for the unedited model"),
    ("editors", [editor_spec(style=Style("#BD3942", "x"))], "marker 'x', expected one of o s D"),
    ("editors", [editor_spec(style=Style("#BD3942", "o", ""))], "dash '', expected one of - --"),
    ("metrics", [metric_spec(scores=["s"])], "as scores of 'm', expected a tuple of Score"),
    ("metrics", [metric_spec(scores=("s",))], "as scores of 'm', expected a tuple of Score"),
    ("metrics", [metric_spec(protocol=3)], "has 3 as protocol of 'm', expected a text"),
    ("editors", endless(), "editkit_editors returned more than 1000 specs"),
    ("editors", raising(), "GeneratorExit"),
]


@pytest.mark.parametrize(("hook", "answer", "reason"), WRONG)
def test_what_is_wrong_with_a_hooks_return_value_is_named(
    hook: str, answer: Any, reason: str
) -> None:
    registry = Registry()
    plugin = types.SimpleNamespace(**{f"editkit_{hook}": hookimpl(lambda: answer)})
    registry.register(plugin, name="guest", distribution="guest-dist", version="2.1")
    [broken] = registry.broken
    assert reason in broken.reason


@pytest.mark.parametrize(
    "answer", [None, [], (), iter([]), (editor_spec(),), {editor_spec().name: 1}]
)
def test_a_hook_may_return_nothing_a_generator_or_a_tuple(answer: Any) -> None:
    if isinstance(answer, dict):
        answer = (spec for spec in [editor_spec()])
    registry = Registry()
    plugin = types.SimpleNamespace(editkit_editors=hookimpl(lambda: answer))
    registry.register(plugin, name="guest")
    assert not registry.broken
    assert registry.names("editor") in ([], ["e"])


def test_a_score_with_a_spec_is_fine() -> None:
    registry = Registry()
    plugin = types.SimpleNamespace(
        editkit_metrics=hookimpl(lambda: [metric_spec(scores=(Score("a"),))])
    )
    registry.register(plugin, name="guest")
    assert registry.names("metric") == ["m"]


@pytest.mark.parametrize("plugin", [types.SimpleNamespace(), object()])
def test_a_plugin_without_hooks_is_noted(plugin: Any) -> None:
    registry = Registry()
    registry.register(plugin, name="guest")
    [loaded] = registry.plugins
    assert loaded.notes == ("implements no hook of editkit",)


# ---------------------------------------------------------------- packages that are hidden


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An editable install of ``guest_memit`` in a flat layout, its clone's folder of that name."""
    package = tmp_path / "guest_memit" / "guest_memit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FINE, encoding="utf-8")

    class Editable:
        """What setuptools puts behind Python's own finders."""

        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            if name != "guest_memit":
                return None
            return importlib.util.spec_from_file_location(
                name, package / "__init__.py", submodule_search_locations=[str(package)]
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable])
    yield tmp_path
    sys.modules.pop("guest_memit", None)


@pytest.mark.parametrize("value", ["guest_memit", "guest_memit:plugin", "guest_memit.sub"])
def test_a_folder_that_hides_a_plugin_is_named(
    value: str, clone: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_distribution(site, "guest-memit", {"hidden": value}, "0.1")
    if value == "guest_memit":
        assert discover("hidden").names("editor") == ["fine"]
        del sys.modules["guest_memit"]
    monkeypatch.syspath_prepend(str(clone))  # Python started beside the clone
    registry = discover("hidden")
    [broken] = registry.broken
    assert f"Python imported the folder {clone / 'guest_memit'} as the package" in broken.reason
    assert f"hides the installed one in {clone / 'guest_memit' / 'guest_memit'}" in broken.reason
    with pytest.raises(PluginError, match="start Python in another folder, or rename that one"):
        registry.get("editor", "fine")
    with pytest.raises(PluginError, match="start Python in another folder"):
        import_module("guest_memit.editor", what="editor 'x'")


def test_a_package_from_another_place_is_noted(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "moved", FINE)
    record = site / "dist_moved-2.1.dist-info"
    [info] = site.glob("dist*moved*.dist-info")
    assert record.name.replace("_", "-") == info.name.replace("_", "-")
    (info / "RECORD").write_text("guest_moved.py,,\n", encoding="utf-8")
    [plugin] = of_users(discover("moved"))
    assert plugin.notes == ()
    del sys.modules["guest_moved"]
    here = tmp_path / "here"
    here.mkdir()
    (here / "guest_moved.py").write_text(FINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(here))
    [plugin] = of_users(discover("moved"))
    assert plugin.notes == (
        f"'guest_moved' was loaded from {here}, but is installed in {site / 'guest_moved.py'}",
    )
    root = {"url": here.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(root), encoding="utf-8")
    del sys.modules["guest_moved"]
    [plugin] = of_users(discover("moved"))
    assert plugin.notes == ()  # that is where the editable install points
