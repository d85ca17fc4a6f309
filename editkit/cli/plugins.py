"""List what is installed: editors, locators, metrics, judges, datasets, models, commands.

Below the table are broken plugins with the reason, names that clash, and notes: process settings
that a plugin changed when it was imported, packages that were loaded from another place than the
one they are installed in.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from editkit.cli.arguments import add_examples, add_flags
from editkit.cli.commands import reserved_clashes
from editkit.errors import PluginError
from editkit.registry.plugins import Registry, clash_line, default_registry
from editkit.registry.specs import EditorSpec, Spec
from editkit.terminal import aligned


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flags(parser, "--json")
    add_examples(parser, "editkit plugins")


def run(args: argparse.Namespace) -> int:
    """Print the list; in strict mode, a broken plugin makes the exit code 3."""
    registry = default_registry()
    text = json.dumps(_document(registry), indent=2) + "\n" if args.json else _text(registry)
    sys.stdout.write(text)
    unsound = bool(registry.broken or registry.clashes)
    return PluginError.exit_code if registry.strict and unsound else 0


def _document(registry: Registry) -> dict[str, Any]:
    return {
        "schema": 1,
        "offers": [
            {
                "kind": offer.kind,
                "name": offer.name,
                **dataclasses.asdict(offer.source),
                "summary": offer.spec.summary,
                **_regimes(offer.spec),
            }
            for offer in registry.offers()
        ],
        "broken": [
            {**dataclasses.asdict(broken.source), "reason": broken.reason}
            for broken in registry.broken
        ],
        "clashes": [
            {"kind": kind, "name": name, "distributions": [str(source) for source in sources]}
            for (kind, name), sources in registry.clashes.items()
        ],
        "notes": [
            {**dataclasses.asdict(plugin.source), "note": note}
            for plugin in registry.plugins
            for note in plugin.notes
        ],
        "disabled": [source.plugin for source in registry.disabled],
    }


def _regimes(spec: Spec) -> dict[str, list[str]]:
    """The regimes that an editor supports by itself; nothing for other plugins."""
    return {"regimes": list(spec.regimes)} if isinstance(spec, EditorSpec) else {}


def _text(registry: Registry) -> str:
    rows = [
        (offer.kind, offer.name, str(offer.source), offer.spec.summary)
        for offer in registry.offers()
    ]
    parts = [aligned([("kind", "name", "from", "summary"), *rows])]
    parts += _section("broken plugins", [str(broken) for broken in registry.broken])
    clashes = [clash_line(*clash) for clash in registry.clashes.items()]
    parts += _section("clashing names", clashes + reserved_clashes())
    notes = [
        f"{plugin.source.plugin} ({plugin.source}): {note}"
        for plugin in registry.plugins
        for note in plugin.notes
    ]
    parts += _section("notes", notes)
    parts += _section("disabled", [str(source.plugin) for source in registry.disabled])
    return "".join(parts)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"\n{title}:\n", *(f"  {line}\n" for line in lines)] if lines else []
