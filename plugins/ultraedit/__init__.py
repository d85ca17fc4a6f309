"""UltraEdit: one closed-form step from hidden states and gradients, without any optimisation."""

from __future__ import annotations

from editkit import EditorSpec, Style, hookimpl
from editkit.palette import COLORS


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``ultraedit``."""
    return [
        EditorSpec(
            name="ultraedit",
            factory="editkit_plugins.ultraedit.editor:UltraEditEditor",
            config="editkit_plugins.ultraedit.config:UltraEditConfig",
            summary="Closed-form shift from normalised gradients (UltraEdit)",
            presets={
                "published": {"lr": 1e-6, "tokens": "target", "ridge": 1.0, "variance": "unbiased"},
                "corrected": {"variance": "exact"},
            },
            configs="editkit_configs:ultraedit",
            fallback=({"variance": "exact"},),
            regimes=("independent", "joint", "sequential"),
            style=Style(COLORS["wine"], "<", "-."),
        )
    ]
