"""Which commands there are: our own and those of plugins. A module is imported when it is used."""

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
        ("run-benchmark", "run_benchmark", "edit many facts, score the edits, print the table"),
        ("merge", "merge", "join the results of shards"),
        ("report", "report", "show results as tables, or as a page with plots and texts"),
        ("show-generations", "show_generations", "show what edited models wrote, side by side"),
        ("plugins", "plugins", "list editors, metrics, datasets and what else is installed"),
        ("describe", "describe", "show what something does and every value it can be given"),
        ("statistics", "statistics", "compute the second moment that an editor needs"),
        ("doctor", "doctor", "tell what a run would need, before any weights are loaded"),
        ("new-plugin", "new_plugin", "write a plugin with a working example and tests"),
        ("check-plugin", "check_plugin", "hold a plugin to the rules of its kind"),
    )
)
_NAMES = {spec.name for spec in CORE}


def command_module(name: str) -> ModuleType:
    """The module of a command, imported.

    Raises:
        UsageError: There is no such command.
        PluginError: It belongs to a plugin that is broken or clashes with another.
    """
    for spec in CORE:
        if spec.name == name:
            if name != "plugins":  # which shows what is broken in strict mode, too
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
                hint="Tell the plugin's author.",
            )
    return module


def _unknown(name: str) -> UsageError:
    registry = default_registry()
    known = sorted({*_NAMES, *registry.names("command")})
    message = f"there is no command {name!r}."
    if registry.broken:
        broken = "; ".join(str(plugin) for plugin in registry.broken)
        message += f" These plugins are broken and may have offered it: {broken}."
    return UsageError(message, hint=did_you_mean(name, known) or f"Known: {', '.join(known)}.")


def reserved_clashes() -> list[str]:
    """One line per command of a plugin that has the name of one of ours, and is not used."""
    return [
        f"command {offer.name!r} of {offer.source} has the name of a command of editkit itself "
        "and is not used"
        for offer in default_registry().offers("command")
        if offer.name in _NAMES
    ]


def listing() -> str:
    """All commands with their summaries."""
    plugin_specs = {
        offer.name: offer.spec
        for offer in default_registry().offers("command")
        if offer.name not in _NAMES
    }
    specs: list[Any] = [*CORE, *(plugin_specs[name] for name in sorted(plugin_specs))]
    width = max(len(spec.name) for spec in specs)
    lines = [f"  {spec.name:{width}}  {spec.summary}" for spec in specs]
    more = "'editkit COMMAND --help' tells more about one of them."
    return "\ncommands:\n" + "\n".join(lines) + f"\n\n{more}\n"
