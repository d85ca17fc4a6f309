"""Editor ``none``: changes nothing. The baseline of every table and the smallest of plugins."""

from __future__ import annotations

from editkit import EditorSpec, hookimpl


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer the editor ``none``."""
    return [
        EditorSpec(
            name="none",
            factory="editkit_plugins.unedited.editor:NoEditor",
            config="editkit_plugins.unedited.config:NoEditorConfig",
            summary="changes nothing: the unedited model, the baseline of every table",
        )
    ]
