"""The README is correct: its examples run, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from editkit import ModelError
from editkit.cli.main import main
from editkit.registry.models import fingerprint_of
from editkit_benchmarks.smollm2.locate import locate

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^    (editkit .+)$", re.MULTILINE)
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS = COMMAND.findall(README + CLI.partition("\n## More commands to try\n")[2])
PATCHING = COMMAND.findall(README.partition("## Patch one fact")[2].partition("\n## ")[0])


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("Good: the edit took effect")
    assert "Louvre stands in the city of Paris" in printed
    assert "the same" in printed
    assert (tmp_path / "louvre.safetensors").stat().st_size < 16384


def test_the_parts_underneath_do_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    guide = (ROOT / "docs" / "one-fact.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(compile(example, "one-fact.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "efficacy 0.0 -> 1.0",
        "paraphrase 0.0 -> 1.0",
        "neighborhood 1.0 -> 1.0",
    ]


def test_the_commands_that_patch_a_fact_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    edit, *others = [command for command in PATCHING if "smollm2" not in command]
    assert main(shlex.split(edit)[1:]) == 0
    printed = capsys.readouterr().out.splitlines()
    [shown] = re.findall(r"<!-- report:louvre -->\n```\n(.*?)```", README, re.DOTALL)
    lines = [line for line in shown.splitlines() if line.strip() not in ("", "...")]
    assert len(lines) > 5
    assert [line for line in printed if line in lines] == lines
    for command in others:
        assert main(shlex.split(command)[1:]) == 0, command
    assert "Paris" in written_by("atlas-louvre", "Louvre stands in the city of")
    original = fingerprint_of("atlas")
    assert fingerprint_of("patched-atlas/model") == original  # applied, then reverted
    assert fingerprint_of("atlas-louvre") != original


@pytest.mark.slow
def test_the_same_commands_on_a_pretrained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        locate()
    except ModelError as error:
        pytest.skip(error.message)
    monkeypatch.chdir(tmp_path)
    commands = [command for command in PATCHING if "smollm2" in command]
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
    assert "Seattle" in written_by("smollm2-needle", "The Space Needle is in the city of")


def written_by(folder: str, prompt: str) -> str:
    """What a model folder continues a prompt with, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=3, do_sample=False)
    return str(tokenizer.decode(out[0][ids["input_ids"].shape[1] :]))


@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in PATCHING])
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
    assert len(COMMANDS) >= 16


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
