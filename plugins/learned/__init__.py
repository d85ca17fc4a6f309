"""Editors that are trained to edit: KE (De Cao et al. 2021) and MEND (Mitchell et al. 2022)."""

from __future__ import annotations

from editkit import CommandSpec, EditorSpec, Style, hookimpl
from editkit.palette import COLORS

_SUMMARIES = {
    "mend": "MEND (Mitchell et al. 2022), trained on text",
    "mend-cf": "MEND, trained on CounterFact",
    "mend-zsre": "MEND, trained on zsRE",
    "ke": "Knowledge Editor (De Cao et al. 2021), trained on text",
    "ke-cf": "Knowledge Editor, trained on CounterFact",
    "ke-zsre": "Knowledge Editor, trained on zsRE",
}
_STYLES = {
    "mend": Style(COLORS["teal"], "<"),
    "mend-cf": Style(COLORS["teal"], ">", "--"),
    "mend-zsre": Style(COLORS["teal"], "^", ":"),
    "ke": Style(COLORS["lilac"], "P"),
    "ke-cf": Style(COLORS["lilac"], "X", "--"),
    "ke-zsre": Style(COLORS["lilac"], "D", ":"),
}
_WITHOUT_CONFIGS = {"mend-zsre", "ke-zsre"}  # no trained editor ships


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Register KE and MEND, once per dataset that the papers train them on."""
    return [
        EditorSpec(
            name=name,
            factory=f"editkit_plugins.learned.editor:{method}Editor",
            config=f"editkit_plugins.learned.config:{method}Config",
            summary=summary,
            configs=None if name in _WITHOUT_CONFIGS else f"editkit_configs:{name}",
            regimes=("independent", "joint") if method == "Mend" else ("independent",),
            style=_STYLES[name],
        )
        for name, summary in _SUMMARIES.items()
        for method in [name.partition("-")[0].capitalize()]
    ]


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Register ``editkit train`` and ``editkit convert-editor``."""
    return [
        CommandSpec(
            name="train",
            module="editkit_plugins.learned.training.command",
            summary="train KE or MEND for a model",
        ),
        CommandSpec(
            name="convert-editor",
            module="editkit_plugins.learned.convert",
            summary="convert a published checkpoint of KE or MEND",
        ),
    ]
