"""Human evaluation: people choose the better of two texts, without knowing who wrote which."""

from __future__ import annotations

from editkit import CommandSpec, hookimpl


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Add ``editkit rate``."""
    return [
        CommandSpec(
            name="rate",
            module="editkit_plugins.rating.command",
            summary="compare the texts of two editors' models, blind, in a browser",
        )
    ]
