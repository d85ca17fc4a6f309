"""docs/your-own-model.md and the pages about models without a file of values are correct."""

from __future__ import annotations

import argparse
import gzip
import re
import shlex
from importlib import resources
from pathlib import Path

import pytest

from editkit.cli.commands import command_module
from editkit.cli.main import main
from editkit.registry.plugins import default_registry
from editkit.storage.strict_yaml import parse_yaml
from tests.editkit.benchmark.fakes import ROOT

DOCS = ROOT / "docs"
GUIDE = (DOCS / "your-own-model.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ +(editkit .+)$", GUIDE, re.MULTILINE)
BENCHMARKS = [
    command for command in COMMANDS if "run-benchmark" in command and "--dry-run" not in command
]
FIRST_LOOK = "editkit_benchmarks:corpora/first-look.txt.gz"
READERS = {"$MODEL": "atlas", "$FACTS": "atlas", "$LAYER": "3", "$CORPUS": FIRST_LOOK}


def arguments(command: str) -> list[str]:
    for variable, value in READERS.items():
        command = command.replace(variable, value)
    assert "$" not in command
    return shlex.split(command)[1:]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_guide_parses(command: str) -> None:
    name, *flags = arguments(command)
    parser = argparse.ArgumentParser()
    command_module(name).configure(parser)
    parser.parse_args(flags)


@pytest.mark.parametrize("command", BENCHMARKS)
def test_every_benchmark_of_the_guide_has_a_sound_plan(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    records = ROOT / "benchmarks" / "atlas" / "records" / "test.json"
    (tmp_path / "records.json").write_bytes(records.read_bytes())
    command = command.replace("layer=auto", "layer=0")  # does not trace
    assert main([*arguments(command), "--dry-run"]) == 0


def test_the_example_of_an_edits_notes_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    [example] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(compile(example, "your-own-model.md", "exec"), {})
    notes = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(notes["nll"]) < float(notes["loss"])
    assert notes["converged"] == "True"
    assert notes["unstable"] == notes["advice"] == "None"


def test_the_table_of_models_states_where_their_values_come_from() -> None:
    text = (ROOT / "configs" / "rome" / "models.yaml").read_text(encoding="utf-8")
    groups = parse_yaml(text, place="models.yaml")
    rows = re.findall(r"^\| [^|`]+ \| `[^/`]+/([^`]+)` \|[^|]*\| ([\w ]+) \|$", GUIDE, re.MULTILINE)
    assert len(rows) >= 8
    for name, values in rows:
        notes = [group["note"] for group in groups if name.lower() in group["models"]]
        assert notes[0].startswith(values) if notes else values == "fallback", name


def test_config_lists_the_groups_of_fallback_values() -> None:
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    table = dict(
        re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", text.split("| editor | groups |")[1], re.M)
    )
    listed = {
        editor: [set(re.findall(r"`(\w+)`", group)) for group in groups.split(";")]
        for editors, groups in table.items()
        for editor in re.findall(r"`([^`]+)`", editors)
    }
    registry = default_registry()
    specs = {name: registry.get("editor", name).spec for name in registry.names("editor")}
    assert listed == {
        name: [set(group) for group in fallback]
        for name, spec in specs.items()
        if (fallback := getattr(spec, "fallback", ()))
    }


def test_the_packaged_corpus_is_the_one_in_the_docs() -> None:
    text = (DOCS / "statistics.md").read_text(encoding="utf-8")
    file = resources.files("editkit_benchmarks") / FIRST_LOOK.partition(":")[2]
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    assert f"It has {len(lines):,} short English texts" in text
    assert f"--limit {len(lines)} " in text
    assert all(lines)
