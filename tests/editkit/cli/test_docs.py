"""The documentation covers every error, command and flag."""

from __future__ import annotations

import argparse
import importlib

import pytest

from editkit import CommandSpec, EditkitError
from editkit.benchmark.spec import Benchmark
from editkit.cli.commands import CORE
from tests.editkit.benchmark.fakes import ROOT

DOCS = ROOT / "docs"
ERRORS = sorted(EditkitError.__subclasses__(), key=lambda error: error.__name__)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_a_page_with_its_exit_code(error: type[EditkitError]) -> None:
    page = (DOCS / "errors" / f"{error.page}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {error.__name__}\n")
    assert f"xit code {error.exit_code}" in page
    index = (DOCS / "errors" / "index.md").read_text(encoding="utf-8")
    assert f"| [{error.page}]({error.page}.md) | `{error.__name__}` | {error.exit_code} |" in index


@pytest.mark.parametrize("command", CORE, ids=lambda command: command.name)
def test_every_flag_is_documented(command: CommandSpec) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(command.module).configure(parser)
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    for flag in parser._option_string_actions:
        assert flag in text


def test_every_command_and_field_of_a_benchmark_file_is_documented() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert all(f"\n## {spec.name}\n" in text for spec in CORE)
    assert all(f"| `{spec.name}` | {spec.summary} |" in text for spec in CORE)
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    assert all(
        f"\n    {field}: " in text or f"{field}:\n" in text for field in Benchmark.model_fields
    )
