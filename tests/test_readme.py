"""The README is correct: its examples run, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from editkit.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = re.findall(r"^    (editkit .+)$", README, re.MULTILINE)


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    patch, effects = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(patch, "README.md", "exec"), namespace)
    assert (tmp_path / "corolla.safetensors").stat().st_size < 8192
    assert namespace["delta"].request == namespace["request"]
    capsys.readouterr()
    exec(compile(effects, "README.md", "exec"), namespace)
    assert capsys.readouterr().out.splitlines() == [
        "efficacy 0.0 -> 1.0",
        "paraphrase 0.0 -> 1.0",
        "neighborhood 1.0 -> 1.0",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    arguments = shlex.split(command)[1:]
    if arguments[0] == "run-benchmark":
        arguments.append("--dry-run")
    if "./my-gpt2" in arguments:  # stands for files of the reader's own
        arguments[arguments.index("./my-gpt2")] = "atlas"
        (tmp_path / "counterfact.json").write_bytes(
            (ROOT / "benchmarks" / "atlas" / "records" / "test.json").read_bytes()
        )
    assert main(arguments) == 0


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_two_commands_are_the_ones_that_ci_and_users_run() -> None:
    setup = "python -m venv .venv && . .venv/bin/activate && pip install -e "
    assert f"{setup}. && editkit run-benchmark\n" in README
    assert f"{setup}'.[test]' && pytest\n" in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet -e '.[test]'\npytest\n" in ci
