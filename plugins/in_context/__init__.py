"""In-context editing: the facts are put before every prompt, and no weight changes."""

from __future__ import annotations

from editkit import EditorSpec, Style, hookimpl
from editkit.palette import COLORS

_PLAIN = {"template": "{statement}.", "separator": "\n", "before_prompt": ""}
_IKE = {
    "template": "New Fact: {statement}",
    "separator": "\n",
    "before_prompt": "Prompt: ",
}


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer the editor ``in-context``."""
    return [
        EditorSpec(
            name="in-context",
            factory="editkit_plugins.in_context.editor:InContextEditor",
            config="editkit_plugins.in_context.config:InContextConfig",
            summary="In-context editing: the facts are put before every prompt",
            presets={"plain": _PLAIN, "ike": _IKE},
            regimes=("independent", "joint"),
            style=Style(COLORS["lilac"], "o", "-."),
        )
    ]
