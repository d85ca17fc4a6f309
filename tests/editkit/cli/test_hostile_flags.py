"""Every flag of every command with absurd values: a documented exit code.

A command line is made at random (seeded) from the commands' own parsers: required arguments always,
others at times, each with a hostile value. Nothing may end as unexpected, show a secret, or print
anything but one JSON document under ``--json``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit.cli.commands import command_module
from editkit.cli.main import main

COMMANDS = (
    *("run-benchmark", "merge", "report", "show-generations", "plugins", "describe", "statistics"),
    *("doctor", "new-plugin", "check-plugin", "compile-dataset", "convert-editor"),
    *("export-mlflow", "rate", "run-experiment", "trace", "train", "ui"),
)
SECRET = "SECRET"
VALUES = (
    *(
        "",
        " ",
        "x",
        "0",
        "-1",
        "1.5",
        "nan",
        "inf",
        "1e999",
        "9" * 30,
        "true",
        "null",
        "~",
        "-",
        "--",
    ),
    *("a=b", "=", "a.b=", "a..b=1", "a={", "a=[1", "=cmd()", "model=1", "model.device=meta"),
    *("model.dtype=int8", "batch=true", "batch=0", "limit=true", "limit='5'", "editors=1"),
    *(
        "editors.rome=1",
        "editors.rome.layer=x",
        "metrics=1",
        "dataset=1",
        "seeds=[]",
        "seeds=[1,1]",
    ),
    *("a" * 300, "/", "/dev/null", ".", "..", "../x", "file", "loop", "folder.yaml", "bytes.yaml"),
    *("nul\0x", "\ud800", "\u202eabc", "💥", "a\nb", "<script>", "*", "cuda:99", "meta", "mps"),
    *(f"https://u:{SECRET}@h/x?token={SECRET}", f"password={SECRET}1", "sqlite:///x", "{}", "[]"),
    *("1/0", "0/0", "3/2", "1/2/3", "package:x", "os:path", "json:", "editkit:x", "1,2", ","),
    "!!python/object:os.system x",
)
LINES = 110


def parsers(prefix: tuple[str, ...], parser: Any) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """The arguments of a command, or of each of its own commands."""
    inner = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not inner:
        yield prefix, [each for each in parser._actions if "--help" not in each.option_strings]
    for action in inner:
        for name, each in action.choices.items():
            yield from parsers((*prefix, name), each)


def grammar() -> list[tuple[tuple[str, ...], list[Any]]]:
    nested = []
    for name in COMMANDS:
        module: Any = command_module(name)
        parser = argparse.ArgumentParser()
        module.configure(parser)
        nested += list(parsers((name,), parser))
    return nested


def given(draw: random.Random, action: Any) -> list[str]:
    """An argument with a value."""
    value = draw.choice([*VALUES, *map(str, action.choices or ())])
    if not action.option_strings:
        return [value]
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [flag]
    return [f"{flag}={value}"] if draw.random() < 0.6 else [flag, value]


def lines(seed: int) -> Iterator[list[str]]:
    """Command lines."""
    draw = random.Random(seed)
    known = grammar()
    for number in range(LINES):
        command, actions = known[number % len(known)]
        line = list(command)
        for action in actions:
            needed = action.required or not action.option_strings
            if draw.random() < (0.9 if needed else 0.25):
                line += given(draw, action)
        yield line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of odd things, to be in."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("hello", encoding="utf-8")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize("seed", [0])
def test_no_arguments_cause_an_unexpected_error(
    seed: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = set()
    for line in lines(seed):
        code = main(line)
        out, err = capsys.readouterr()
        codes.add(code)
        assert code in (0, 1, 2, 3, 4), line
        assert "unexpected" not in err.replace("unexpected keyword", ""), (line, err)
        assert "Traceback" not in err, (line, err)
        assert SECRET not in out + err, (line, out, err)
        assert code == 0 or err.strip() or line[0] in ("doctor", "check-plugin"), line
        if code == 0 and "--json" in line and "--dry-run" not in line:
            json.loads(out)
    assert {0, 2, 3, 4} <= codes
