"""Print a script for a shell that completes commands, flags, names and files.

The script has the names of everything that is installed now: print it again after you install a
plugin. Completing starts no Python. Save it where the shell looks for it, and start a new shell:

  bash  ~/.local/share/bash-completion/completions/editkit
  zsh   _editkit, in a folder of $fpath
  fish  ~/.config/fish/completions/editkit.fish
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from editkit.cli.arguments import add_examples, add_flag
from editkit.cli.command_parsers import all_parsers
from editkit.cli.commands import summaries
from editkit.cli.completion_scripts import SCRIPTS, Command, Flag, Values
from editkit.cli.parser import visible_spellings
from editkit.registry.plugins import KINDS, default_registry
from editkit.registry.specs import Kind

_WITH_PRESETS: tuple[Kind, ...] = ("editor", "locator", "metric", "model_metric")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(parser, "shell", choices=tuple(SCRIPTS), metavar="SHELL", help=f"{', '.join(SCRIPTS)}")
    add_examples(parser, "editkit completion bash", "editkit completion fish")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    known = summaries()
    top = [_command((name,), parser, known[name]) for name, parser in all_parsers()]
    sys.stdout.write(SCRIPTS[args.shell](top))
    return 0


def _command(path: tuple[str, ...], parser: argparse.ArgumentParser, summary: str) -> Command:
    """A command with its flags, arguments and own commands."""
    flags, positional, nested = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            nested = [
                _command((*path, name), inner, helps.get(name, ""))
                for name, inner in action.choices.items()
            ]
        elif action.help is argparse.SUPPRESS:
            continue
        elif action.option_strings:
            values = None if action.nargs == 0 else _values(action)
            text = (action.help or "").partition(" (default")[0].partition(";")[0]
            flags.append(Flag(tuple(visible_spellings(action)), text, values))
        else:
            positional.append(_values(action))
    return Command(path, summary, tuple(flags), tuple(positional), tuple(nested))


def _values(action: argparse.Action) -> Values:
    """What can be the value of an argument."""
    wanted: str | Sequence[str] | Callable[[], Sequence[str]] | None
    wanted = getattr(action, "complete", None)
    metavar = str(action.metavar or "")
    several = metavar.endswith(",...")
    names: Iterable[Any] = action.choices or ()
    paths = "file" if "FILE" in metavar else ""
    if callable(wanted):
        names = wanted()
    elif wanted in ("file", "folder"):
        paths = str(wanted)
    elif isinstance(wanted, str):
        names, paths = _names(wanted), paths or ("folder" if wanted == "model" else "")
    elif wanted is not None:
        names = wanted
    words = tuple(dict.fromkeys(str(name) for name in names if " " not in str(name)))
    repeated = action.nargs in ("*", "+") or isinstance(action, argparse._AppendAction)
    return Values(words, paths, several=several, repeated=repeated)


def _names(kind: str) -> list[str]:
    """The installed names of a kind of plugin; the presets of all; or the names of ``any`` kind."""
    registry = default_registry()
    if kind == "preset":
        offers = [offer for each in _WITH_PRESETS for offer in registry.offers(each)]
        presets = [getattr(offer.spec, "presets", {}) for offer in offers]
        return sorted({"published"}.union(*presets))
    if kind == "any":
        return sorted({name for each in KINDS for name in registry.names(each)})
    return registry.names(cast("Kind", kind))
