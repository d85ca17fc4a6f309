"""Human evaluation: people say which of two texts is better, without knowing whose they are."""

from __future__ import annotations

from editkit import CommandSpec, hookimpl


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Add ``editkit rate``."""
    return [
        CommandSpec(
            name="rate",
            module="editkit_plugins.rating.command",
            summary="let people judge what two editors' models wrote, blind, in a browser",
        )
    ]
