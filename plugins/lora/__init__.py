"""LoRA: low-rank adapters trained on the facts, a baseline without a theory of where facts are."""

from __future__ import annotations

from editkit import EditorSpec, Style, hookimpl
from editkit.palette import COLORS


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``lora``."""
    return [
        EditorSpec(
            name="lora",
            factory="editkit_plugins.lora.editor:LoraEditor",
            config="editkit_plugins.lora.config:LoraConfig",
            summary="Low-rank adapters trained on the facts (LoRA)",
            configs="editkit_configs:lora",
            regimes=("independent", "joint"),
            style=Style(COLORS["olive"], "P"),
        )
    ]
