"""All commands, ours and plugins', follow one convention: docs/cli.md, "One convention"."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit.cli.arguments import SHARED, add_flag
from editkit.cli.command_parsers import actions_of, all_parsers, parser_of
from editkit.cli.commands import command_module
from editkit.cli.main import main
from editkit.cli.parser import Parser, visible_spellings
from editkit.errors import UsageError

PARSERS = dict(all_parsers())
_WITHOUT_DEFAULT = {  # texts that describe one fact, and flags that ask for more than the default
    *("edit --subject", "edit --to", "edit --batch", "trace --subject", "trace --facts"),
    *("patch apply --ledger", "compile-dataset --facts", "compile-dataset --count"),
}


def commands() -> Iterator[Parser]:
    """Every parser with arguments of its own: ``editkit edit``, ``editkit patch show``, ..."""
    pending: list[Any] = list(PARSERS.values())
    while pending:
        parser = pending.pop()
        nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not nested:
            yield parser
        pending += [inner for action in nested for inner in action.choices.values()]


def test_every_default_is_shown_once_and_in_the_same_words() -> None:
    wrong = []
    for parser in commands():
        formatter: Any = parser._get_formatter()
        for action in actions_of(parser):
            text = formatter._expand_help(action)
            name = f"{parser.prog} {(visible_spellings(action) or [action.dest])[-1]}"
            shown = text.count("(default: ")
            optional = action.option_strings and action.nargs != 0 and not action.required
            repeated = isinstance(action, argparse._AppendAction)
            if optional and not repeated and name.removeprefix("editkit ") not in _WITHOUT_DEFAULT:
                wrong += [f"{name}: {text}"] if shown != 1 else []
            if action.default not in (None, argparse.SUPPRESS, []) and action.nargs != 0:
                wrong += [f"{name}: {text}"] if shown != 1 else []
            if text.count("default") > shown or str(Path.cwd()) in text:
                wrong.append(f"{name}: {text}")
    assert wrong == []


def test_a_letter_means_the_same_in_every_command() -> None:
    letters = {str(flag["short"]): name for name, flag in SHARED.items() if "short" in flag}
    assert letters == {
        **{"-m": "--model", "-e": "--editor", "-o": "--out", "-n": "--limit", "-q": "--quiet"}
    }
    for parser in commands():
        for action in actions_of(parser):
            spellings = visible_spellings(action)
            for letter in (each for each in spellings if not each.startswith("--")):
                assert spellings[-1] == {**letters, "-h": "--help"}[letter], parser.prog
            for spelling in spellings:
                if spelling in letters.values():
                    assert len(spellings) == 2, f"{parser.prog} {spelling} has no letter"


def test_every_help_ends_with_examples_that_are_understood(monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for parser in commands():
        text = parser.format_help()
        examples = re.findall(r"^  (editkit .*)$", text.partition("\nexample")[2], re.MULTILINE)
        assert examples, parser.prog
        for example in examples:
            _, name, *rest = shlex.split(example)
            assert example.startswith(parser.prog), example
            PARSERS[name].parse_args(rest)
        prose = text.partition("\nexample")[0]
        assert not [line for line in prose.splitlines() if len(line) > 80], parser.prog


@pytest.mark.parametrize(
    "flags",
    [
        ["run-benchmark", "-e", "rome,ft", "-e", "none"],
        ["run-benchmark", "--editors", "rome,ft,none"],
        ["doctor", "--editor", "rome", "--editor", "ft", "--editor=none"],
        ["edit", "-e", "rome", "-e", " ft , none"],
        ["rate", "--editor", "rome,ft,none"],
        ["show-generations", "0", "-erome,ft,none"],
    ],
)
def test_lists_and_repetition_mean_the_same(flags: list[str]) -> None:
    assert PARSERS[flags[0]].parse_args(flags[1:]).editor == ["rome", "ft", "none"]


def test_only_names_and_numbers_are_lists() -> None:
    line = ["Paris, the capital of", "--subject", "Paris", "--to", "a, b", "--keep", "c, d"]
    args = PARSERS["edit"].parse_args([*line, "--keep", "e", "--set", "a=[1,2]"])
    assert (args.prompt, args.to, args.keep, args.sets) == (
        *("Paris, the capital of", "a, b"),
        *(["c, d", "e"], ["a=[1,2]"]),
    )
    args = PARSERS["show-generations"].parse_args(["0", "-e", "rome (layer 3, joint 2),ft"])
    assert args.editor == ["rome (layer 3, joint 2)", "ft"]
    args = PARSERS["run-benchmark"].parse_args(["--joint", "1_000,10", "--seed", "0", "--seed=2,3"])
    assert (args.joint, args.seed) == ([1000, 10], [0, 2, 3])
    with pytest.raises(UsageError, match="write 1_000 for one number"):
        PARSERS["run-benchmark"].parse_args(["--joint", "1,000"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [  # spellings of earlier versions
        ("report old --to a.md", {"out": Path("old"), "to": Path("a.md")}),
        ("rate old", {"out": Path("old")}),
        ("ui old", {"out": Path("old")}),
        ("statistics gpt2 --layer 1,2 --corpus c", {"model": "gpt2", "layer": [1, 2]}),
        ("trace --prompt p --subject s", {"prompt": "p", "model": "atlas"}),
        ("known-facts --facts f --out k.json", {"out": Path("k.json"), "model": "atlas"}),
        ("compile-dataset --facts f --out k.json", {"out": Path("k.json")}),
        ("patch stack a b --out c", {"out": Path("c")}),
        ("edit p --out c", {"save": Path("c")}),
        ("train mend --dataset d --name mend-x", {"name": "mend-x"}),
    ],
)
def test_old_spellings_work(line: str, expected: dict[str, Any]) -> None:
    name, *rest = line.split()
    assert expected.items() <= vars(PARSERS[name].parse_args(rest)).items()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run-benchmark --editr rome", "Did you mean '--editor'?"),
        ("run-benchmark -editor rome", "Did you mean '--editor'?"),
        ("run-benchmark --output_path x", "Did you mean '--out'?"),
        ("run-benchmark --seq 3", "Did you mean '--sequential'? Flags cannot be abbreviated."),
        ("edit --sequential 3", "--sequential is a flag of run-benchmark and doctor."),
        ("train --modle m", "Did you mean '--model'?"),  # before what is missing
        ("patch chek a", "Did you mean 'check'?"),
        ("patch check --modl m", "editkit patch check has no flag '--modl'"),
        ("edit p --to -x", "write --to=-x"),
        ("report a -o b", "--out: given twice: 'a' and 'b'"),
        ("report -o b a", "--out: given twice: 'a' and 'b'"),
        ("--model m", "A command comes first"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err


def test_a_plugin_gets_the_convention_from_plain_argparse_calls() -> None:
    parser = parser_of("report", command_module("report"))
    parser.add_argument("--strength", type=float, default=0.5, help="strength")
    add_flag(parser, "--layer", type=int, several=True, help="layers")
    assert "strength (default: 0.5)" in " ".join(parser.format_help().split())
    assert parser.parse_args(["--layer", "1,2", "--layer", "3"]).layer == [1, 2, 3]
