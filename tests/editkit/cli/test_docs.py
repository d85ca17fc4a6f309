"""The documentation covers every error, command and flag, and names only things that exist."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pkgutil
import re
from pathlib import Path

import pytest

from editkit import CommandSpec, EditkitError
from editkit.benchmark.spec import Benchmark
from editkit.cli.command_parsers import actions_of, parser_of
from editkit.cli.commands import CORE, command_module
from editkit.cli.parser import visible_spellings
from editkit.cli.patch import ACTIONS
from editkit.data_types import EditRequest
from editkit.editing.deltas import WeightDelta
from editkit.patches.content import (
    ROLES,
    Answer,
    Check,
    Movement,
    Origin,
    ParameterSize,
    PatchContent,
    Question,
    Size,
)
from editkit.registry.plugins import default_registry
from editkit_benchmarks.speed.__main__ import parser as parser_of_speed
from tests.editkit.benchmark.fakes import ROOT

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted(DOCS.rglob("*.ipynb")),
]
ERRORS = sorted(EditkitError.__subclasses__(), key=lambda error: error.__name__)
_NAME = re.compile(r"(?<![\w./-])editkit(?:_[a-z]+)?(?:\.[A-Za-z_]\w*)+")
_IMPORT = re.compile(r"^ *from (editkit[\w.]*) import (\([^)]*\)|[^\n]*)$", re.MULTILINE)
_PATH = re.compile(  # of a file, or of a folder with its final slash
    r"(?<![\w./<{-])(?:editkit|plugins|benchmarks|configs|tests|docs)/[\w./*-]*(?:/|\.[a-z]+)(?!\w)"
)
_FENCED = re.compile(r"```.*?```", re.DOTALL)
_TAGS = {  # of MLflow
    f"editkit.{tag}"
    for tag in (
        *("content", "edits", "editor_version", "enclosed", "fingerprint", "model_fingerprint"),
    )
}
_FILES = {"editkit.json"}  # looks like the name of a module
_EXAMPLES = {"tests/test_contract.py", "configs/rome/gpt2-xl.yaml"}  # files of a reader's own
_BEFORE = re.compile(r"\(was [^)]*\)|Removed: .*")  # names that are gone


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_a_page_with_its_exit_code(error: type[EditkitError]) -> None:
    page = (DOCS / "errors" / f"{error.page}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {error.__name__}\n")
    assert f"xit code {error.exit_code}" in page
    index = (DOCS / "errors" / "index.md").read_text(encoding="utf-8")
    assert f"| [{error.page}]({error.page}.md) | `{error.__name__}` | {error.exit_code} |" in index


@pytest.mark.parametrize("command", CORE, ids=lambda command: command.name)
def test_every_flag_is_documented(command: CommandSpec) -> None:
    parser = parser_of(command.name, command_module(command.name))
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    for action in actions_of(parser):
        for spelling in visible_spellings(action):
            assert f"`{spelling}" in text


def test_every_action_of_patch_has_a_section_with_its_flags() -> None:
    parser = argparse.ArgumentParser()
    command_module("patch").configure(parser)
    [actions] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    section = text.partition("\n## patch\n")[2].partition("\n## ")[0]
    own = dict(part.partition("\n")[::2] for part in section.split("\n### "))
    for action in ACTIONS:
        assert action.name in own, f"docs/cli.md, '## patch' has no '### {action.name}'"
        assert f"| `{action.name}` | {action.summary} |" in section
        flags = [visible_spellings(each)[-1:] for each in actions_of(actions.choices[action.name])]
        missing = [flag for [flag] in filter(None, flags) if flag not in own[action.name]]
        assert set(missing) <= {"--help"}, action.name


def test_every_field_of_a_patch_file_is_documented() -> None:
    section = (DOCS / "patches.md").read_text(encoding="utf-8").partition("\n## The file\n")[2]
    section = section.partition("\n## ")[0]
    parts = (Answer, Check, Movement, Origin, ParameterSize, PatchContent, Question, Size)
    fields = {field.name for part in parts for field in dataclasses.fields(part)} - {"delta"}
    fields |= {field.name for field in dataclasses.fields(EditRequest)}
    fields |= {field.name for field in dataclasses.fields(WeightDelta)} - {"request", "made_for"}
    fields |= {"requests", "format", "digest", "patch", "patch_digest", *ROLES}
    assert not [field for field in sorted(fields) if f"`{field}`" not in section]


def test_every_command_and_field_of_a_benchmark_file_is_documented() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert all(f"\n## {spec.name}\n" in text for spec in CORE)
    assert all(f"| `{spec.name}` | {spec.summary} |" in text for spec in CORE)
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    assert all(
        f"\n    {field}: " in text or f"{field}:\n" in text for field in Benchmark.model_fields
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_paths_exist(page: Path) -> None:
    text = _BEFORE.sub("", _text(page))
    names = set(_NAME.findall(text)) - _TAGS - _FILES
    for module, imported in _IMPORT.findall(text):
        imported = re.sub(r"#.*| as \w+", "", imported)
        names |= {f"{module}.{name}" for name in re.findall(r"\w+", imported)}
    stale = []
    for name in sorted(names):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            stale.append(name)
    stale += [
        path
        for path in sorted(set(_PATH.findall(text)) - _EXAMPLES)
        if not any(ROOT.glob(path.rstrip("/")))
    ]
    assert stale == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_sections_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]*#[^)\s]+)\)", _text(page)):
        file, _, section = link.partition("#")
        target = page.parent / file if file else page
        assert section in _sections(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_exist(page: Path) -> None:
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", _text(page)))
    of_other_tools = {"--basetemp", "--local-dir", "--merge", "--no-deps"}
    of_other_tools |= {"--enable-lora", "--lora-modules", "--max-lora-rank"}  # vLLM
    of_other_tools |= {"--base", "--outtype"}  # llama.cpp's converters
    of_other_tools |= {"--model_args", "--output_path"}  # lm_eval
    of_other_tools |= {"--array", "--requeue", "--signal", "--time", "--mem", "--gres"}  # Slurm
    of_other_tools |= {"--job-name", "--cpus-per-task", "--open-mode", "--nodes", "--ntasks"}
    of_other_tools |= {"--ntasks-per-node", "--nodelist", "--exclude"}
    of_other_tools |= {"--generation", "--editors"}  # editkit_benchmarks.scale
    of_other_tools |= {"--address", "--block", "--generate", "--head", "--node-ip-address"}  # ray
    of_other_tools |= {"--num-cpus", "--num-gpus"}
    assert flags - _flags() - {"--version", "--debug"} - of_other_tools == set()


def _text(page: Path) -> str:
    """The text of a page, or the sources of a notebook's cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def _sections(page: Path) -> set[str]:
    """Where a link to a page can lead: its headings, as GitHub names them, and its anchors."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    named = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
    return named | set(re.findall(r'<a id="([^"]+)">', text))


def _flags() -> set[str]:
    """The flags of all commands, including those of plugins, and of the speed measurements."""
    flags: set[str] = set()
    commands = [spec.name for spec in CORE] + list(default_registry().names("command"))
    parsers = [parser_of_speed()]
    for name in commands:
        parser = argparse.ArgumentParser()
        command_module(name).configure(parser)
        parsers.append(parser)
    while parsers:
        parser = parsers.pop()
        flags.update(parser._option_string_actions)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers.extend(action.choices.values())
    return flags
