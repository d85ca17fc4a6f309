"""The interactive demonstration: edit a fact in a browser and see what the edit did."""

from __future__ import annotations

from editkit import CommandSpec, hookimpl


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Add ``editkit demo``."""
    return [
        CommandSpec(
            name="demo",
            module="editkit_plugins.demo.command",
            summary="edit a fact in a browser, and see what the edit did",
        )
    ]
