from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit import CommandSpec, __version__, hookimpl
from editkit.cli.patch import ACTIONS
from editkit.registry.plugins import default_registry
from tests.editkit.benchmark import fakes

Cli = Callable[..., tuple[int, str, str]]

HEAVY = ("torch", "transformers", "mlflow", "datasets", "numpy", "pandas")
KENYA = ("edit", "The capital of Kenya is", "--subject", "Kenya", "--to", "Paris")
WATCHED = """
import sys, time
from editkit.cli.main import main
code = main(sys.argv[1:])
loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(%r))
sys.stderr.write(f"{code} {loaded} {time.process_time():.2f}")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("plugins",),
        ("plugins", "--json"),
        ("run-benchmark", "--help"),
        ("explain", "delta"),
        ("edit", "--help"),
        ("patch", "--help"),
    ],
)
def test_listing_and_help_load_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert _watched(*arguments).startswith("0 [] ")


@pytest.mark.parametrize("action", [action.name for action in ACTIONS])
def test_help_of_an_action_on_patches_loads_nothing_heavy(action: str) -> None:
    assert _watched("patch", action, "--help").startswith("0 [] ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edit",), "PROMPT, --subject, --to are missing"),
        (("edit", "The capital of Kenya is", "--subject", "Mali", "--to", "Paris"), "Mali"),
        ((*KENYA, "--save", "setup.cfg"), "'setup.cfg' exists"),
        ((*KENYA, "--editor", "rom"), "rom"),
        (("edit", "--batch", "no-such-file.yaml"), "no-such-file.yaml"),
        (("patch", "show"), "FILE"),
        (("patch", "stack", "a", "b", "--out", "setup.cfg"), "'setup.cfg' exists"),
        (("patch", "apply", "a"), "--ledger DIR is missing"),
        (("patch", "list"), "--ledger"),
    ],
)
def test_errors_that_need_no_model_load_nothing_heavy(
    arguments: tuple[str, ...], message: str
) -> None:
    *report, last = _watched(*arguments).splitlines()
    assert message in "\n".join(report)
    assert re.match(r"[23] \[\] ", last), last


def _watched(*arguments: str) -> str:
    """What a command writes to stderr, then its exit code and the heavy modules it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED % (HEAVY,), *arguments],
        capture_output=True, text=True, check=False, cwd=fakes.ROOT,
    )  # fmt: skip
    return done.stderr


@pytest.fixture
def guest(fake_world: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A plugin with a command of its own."""
    source = textwrap.dedent("""
        '''Do what the test wants.'''
        import sys
        def configure(parser):
            parser.add_argument("how")
        def run(args):
            if args.how == "exit": sys.exit(7)
            if args.how == "raise": raise ValueError("a long story\\nwith lines")
            if args.how == "interrupt": raise KeyboardInterrupt
            if args.how == "pipe": raise BrokenPipeError
            return 5
        """)
    (fake_world / "guest_command.py").write_text(source, encoding="utf-8")

    class Plugin:
        @hookimpl
        def editkit_commands(self) -> list[CommandSpec]:
            return [
                CommandSpec("try-me", "guest_command", "does what the argument says"),
                CommandSpec("lost", "no_such_module", "cannot be loaded"),
                CommandSpec("plugins", "guest_command", "takes our name"),
            ]

    default_registry().register(Plugin(), name="guest", distribution="guest-dist", version="2.1")


def test_help_lists_our_commands_and_those_of_plugins(guest: Any, editkit: Cli) -> None:
    code, out, _ = editkit("--help")
    assert code == 0
    for command in ("run-benchmark", "merge", "plugins", "describe", "try-me"):
        assert f"  {command} " in out
    assert "editkit run-benchmark" in editkit()[1]
    assert "Do what the test wants." in editkit("try-me", "--help")[1]


def test_version(editkit: Cli) -> None:
    assert editkit("--version")[:2] == editkit("-V")[:2] == (0, f"editkit {__version__}\n")


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("return", 5, ""),
        ("exit", 7, ""),
        ("raise", 1, "error: unexpected ValueError: a long story\n  hint: Run the command again"),
        ("interrupt", 130, "interrupted\n"),
    ],
)
def test_how_a_command_ends(guest: Any, editkit: Cli, how: str, code: int, message: str) -> None:
    returned, _, err = editkit("try-me", how)
    assert returned == code
    assert err.startswith(message)
    assert "Traceback" not in err


def test_debug_shows_where_an_error_came_from(
    guest: Any, editkit: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Traceback" in editkit("try-me", "raise", "--debug")[2]
    err = editkit("--debug", "describe", "nothing")[2]
    assert "Traceback" in err
    assert err.count("'nothing'") == editkit("describe", "nothing")[2].count("'nothing'")
    monkeypatch.setenv("EDITKIT_DEBUG", "1")
    assert "Traceback" in editkit("try-me", "raise")[2]


def test_a_command_that_cannot_be_loaded_is_a_plugin_error(guest: Any, editkit: Cli) -> None:
    code, _, err = editkit("lost")
    assert code == 3
    assert "command 'lost' of guest-dist 2.1 could not be loaded" in err
    assert "see: editkit explain errors/plugin" in err


def test_a_command_with_the_name_of_one_of_ours_is_ignored(guest: Any, editkit: Cli) -> None:
    code, out, _ = editkit("plugins")
    assert code == 0
    assert "command 'plugins' of guest-dist 2.1 is ignored" in out


@pytest.mark.usefixtures("fake_world")
def test_an_unknown_command_suggests_the_closest_one(editkit: Cli) -> None:
    code, _, err = editkit("run-benchmrk")
    assert code == 2
    assert err.startswith("error: there is no command 'run-benchmrk'. ")
    assert err.endswith(
        "\n  hint: Did you mean 'run-benchmark'?\n  see: editkit explain errors/usage\n"
    )


@pytest.mark.usefixtures("fake_world")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--nonsense",), 2, "no flag '--nonsense'"),
        (("run-benchmark", "--nonsense"), 2, "no flag '--nonsense'"),
        (("run-benchmark", "small", "--limit", "0"), 2, "got '0', expected a whole number above 0"),
        (("run-benchmark", "small", "--shard", "3/2"), 2, "expected I/N"),
        (("run-benchmark", "small", "--set", "editors.one.strength=x"), 2, "expected a number"),
        (("run-benchmark", "no/such.yaml"), 2, "there is no benchmark file"),
        (("run-benchmark", "smal"), 3, "Did you mean 'small'?"),
        (("run-benchmark", "small", "--editor", "tow"), 3, "Did you mean 'two'?"),
        (("merge", "a", "no-such-shard"), 4, "there is no result store"),
    ],
)
def test_exit_codes(
    editkit: Cli, arguments: tuple[str, ...], code: int, message: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    returned, out, err = editkit(*arguments)
    assert (returned, out) == (code, "")
    assert message in err


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", "from editkit.cli.main import main; exit(main(['plugins']))"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=fakes.ROOT,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 0


def test_plugins_shows_broken_ones_with_reasons(
    fake_world: Path, editkit: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_world / "guest_raises.py").write_text("raise ValueError('bad day')", encoding="utf-8")
    fakes.write_distribution(fake_world, "bad-dist", {"bad": "guest_raises"}, "3.0")
    code, out, _ = editkit("plugins")
    assert code == 0
    assert "  bad (bad-dist 3.0): ValueError: bad day\n" in out
    document = json.loads(editkit("plugins", "--json")[1])
    assert document["broken"] == [
        {"plugin": "bad", "distribution": "bad-dist", "version": "3.0",
         "reason": "ValueError: bad day"}
    ]  # fmt: skip
    assert {"kind": "editor", "name": "one"}.items() <= document["offers"][0].items()
    monkeypatch.setenv("EDITKIT_STRICT_PLUGINS", "1")
    default_registry.cache_clear()
    assert editkit("plugins")[0] == 3
    code, _, err = editkit("describe", "one")
    assert code == 3
    assert "bad day" in err
