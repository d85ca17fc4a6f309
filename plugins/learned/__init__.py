"""Editors that learn to edit: KE (De Cao et al. 2021) and MEND (Mitchell et al. 2022)."""

from __future__ import annotations

from editkit import CommandSpec, EditorSpec, hookimpl

_EDITORS = {
    "mend": ("MendConfig", "MEND (Mitchell et al. 2022), trained on text"),
    "mend-cf": ("MendCounterfactConfig", "MEND, trained on CounterFact"),
    "mend-zsre": ("MendZsreConfig", "MEND, trained on zsRE"),
    "ke": ("KeConfig", "Knowledge Editor (De Cao et al. 2021), trained on text"),
    "ke-cf": ("KeCounterfactConfig", "Knowledge Editor, trained on CounterFact"),
    "ke-zsre": ("KeZsreConfig", "Knowledge Editor, trained on zsRE"),
}


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer KE and MEND, once for each set that the papers train them on."""
    return [
        EditorSpec(
            name=name,
            factory="editkit_plugins.learned.editor:LearnedEditor",
            config=f"editkit_plugins.learned.config:{config}",
            summary=summary,
            configs=f"editkit_configs:{name}",
        )
        for name, (config, summary) in _EDITORS.items()
    ]


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Offer ``editkit train`` and ``editkit convert-editor``."""
    return [
        CommandSpec(
            name="train",
            module="editkit_plugins.learned.training.command",
            summary="train KE or MEND for a model",
        ),
        CommandSpec(
            name="convert-editor",
            module="editkit_plugins.learned.convert",
            summary="take over a published checkpoint of KE or MEND",
        ),
    ]
