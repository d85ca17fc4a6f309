"""The commands, ours and those of plugins. A command's module is imported when it is used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from editkit.errors import UsageError, did_you_mean
from editkit.registry.plugins import default_registry, import_module
from editkit.registry.specs import CommandSpec

CORE = tuple(
    CommandSpec(name, f"editkit.cli.{module}", summary)
    for name, module, summary in (
        ("edit", "edit", "change one fact, and show what else changed"),
        ("patch", "patch", "show, check, combine and compare patches: edits in files"),
        ("run-benchmark", "run_benchmark", "edit many facts, score the edits, print the table"),
        ("merge", "merge", "merge the results of shards"),
        ("report", "report", "print results as tables, or write a page with plots"),
        ("published", "published", "print published tables, alone or beside your results"),
        ("show-generations", "show_generations", "show what edited models wrote, side by side"),
        ("plugins", "plugins", "list the installed editors, metrics, datasets, ..."),
        ("describe", "describe", "show what an editor, metric, ... does, and its values"),
        ("explain", "explain", "print a page of the documentation, as errors name them"),
        ("statistics", "statistics", "compute the second moment that an editor needs"),
        ("doctor", "doctor", "check what a run needs, before any weights are loaded"),
        ("new-plugin", "new_plugin", "write a plugin with a working example and tests"),
        ("check-plugin", "check_plugin", "check that a plugin keeps the rules of its kind"),
        ("check-architecture", "check_architecture", "check that editkit is correct on a model"),
        ("completion", "completion", "print a script that completes commands in your shell"),
    )
)
_NAMES = {spec.name for spec in CORE}
_DESPITE_BROKEN_PLUGINS = ("explain", "plugins")  # strict mode, too: they help with the repair


def command_module(name: str) -> ModuleType:
    """The module of a command, imported.

    Raises:
        UsageError: There is no such command.
        PluginError: It belongs to a plugin that is broken or clashes with another.
    """
    for spec in CORE:
        if spec.name == name:
            if name not in _DESPITE_BROKEN_PLUGINS:
                default_registry().check_strict()
            return importlib.import_module(spec.module)
    registry = default_registry()
    if not registry.has("command", name):
        raise _unknown(name)
    offer = registry.get("command", name)
    command: Any = offer.spec
    module = import_module(command.module, what=f"command {name!r} of {offer.source}")
    for function in ("configure", "run"):
        if not callable(getattr(module, function, None)):
            raise UsageError(
                f"command {name!r} of {offer.source} has no {function}() in {command.module}.",
                hint="Report this to the plugin's author.",
            )
    return module


def command_names() -> list[str]:
    """The names of all commands, ours first."""
    plugins = set(default_registry().names("command")) - _NAMES
    return [*(spec.name for spec in CORE), *sorted(plugins)]


def _unknown(name: str) -> UsageError:
    registry = default_registry()
    known = sorted(command_names())
    return UsageError(
        f"there is no command {name!r}.{registry.possible_reasons()}",
        hint=did_you_mean(name, known) or f"Known: {', '.join(known)}.",
    )


def reserved_clashes() -> list[str]:
    """One line per command of a plugin that is ignored because one of ours has its name."""
    return [
        f"command {offer.name!r} of {offer.source} is ignored: editkit itself has a command of "
        "that name"
        for offer in default_registry().offers("command")
        if offer.name in _NAMES
    ]


def summaries() -> dict[str, str]:
    """What each command does, by name."""
    specs: list[Any] = [*CORE]
    specs += [
        offer.spec for offer in default_registry().offers("command") if offer.name not in _NAMES
    ]
    known = {spec.name: spec.summary for spec in specs}
    return {name: known[name] for name in command_names()}


def listing() -> str:
    """All commands with their summaries, as text."""
    known = summaries()
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {summary}" for name, summary in known.items()]
    more = "'editkit COMMAND --help' describes a command and its arguments."
    return "\ncommands:\n" + "\n".join(lines) + f"\n\n{more}\n"
