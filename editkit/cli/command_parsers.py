"""The parsers of all commands, and which commands have a flag that another one lacks."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from types import ModuleType

from editkit.cli.commands import command_module, command_names
from editkit.cli.parser import Parser, visible_spellings

__all__ = ["actions_of", "all_parsers", "commands_with", "parser_of"]

_MOST_NAMED = 4


def parser_of(name: str, module: ModuleType) -> Parser:
    """The parser of a command."""
    command = Parser(prog=f"editkit {name}", description=(module.__doc__ or "").strip() or None)
    command.titled_group("output").add_argument(
        "--debug", action="store_true", help="print the traceback of an error"
    )
    module.configure(command)
    return command


def all_parsers() -> Iterator[tuple[str, Parser]]:
    """The parser of each command that can be loaded, by its name."""
    for name in command_names():
        with contextlib.suppress(Exception):  # a broken plugin: 'editkit plugins' has the reason
            yield name, parser_of(name, command_module(name))


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a command, those of its own commands included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions_of(inner)
        elif action.help is not argparse.SUPPRESS:
            yield action


def commands_with(flag: str, *, besides: str) -> str | None:
    """``"--sequential is a flag of doctor and run-benchmark."``; None if no command has it."""
    owners = [
        name
        for name, parser in all_parsers()
        if name != besides
        and any(flag in visible_spellings(action) for action in actions_of(parser))
    ]
    if not owners:
        return None
    named = owners if len(owners) <= _MOST_NAMED else [*owners[:_MOST_NAMED], "others"]
    *first, last = named
    return f"{flag} is a flag of {', '.join(first)}{' and ' if first else ''}{last}."
