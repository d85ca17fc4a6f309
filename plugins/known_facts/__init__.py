"""Facts that a model knows: asked for, kept, and written for other commands."""

from __future__ import annotations

from editkit import CommandSpec, hookimpl


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Add ``editkit known-facts``."""
    return [
        CommandSpec(
            name="known-facts",
            module="editkit_plugins.known_facts.command",
            summary="keep the facts that a model knows, for tracing and benchmarks",
        )
    ]
