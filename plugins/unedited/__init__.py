"""The editor ``none``, which changes nothing: the baseline of every table."""

from __future__ import annotations

from editkit import EditorSpec, Style, hookimpl
from editkit.palette import GREY


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer the editor ``none``."""
    return [
        EditorSpec(
            name="none",
            factory="editkit_plugins.unedited.editor:NoEditor",
            config="editkit_plugins.unedited.config:NoEditorConfig",
            summary="changes nothing: the unedited model, the baseline of every table",
            style=Style(GREY, "o", ":"),
        )
    ]
