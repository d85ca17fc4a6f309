"""Fine-tuning one module on the fact: freely (FT), or in a box (FT+L; AttnEdit on attention)."""

from __future__ import annotations

from editkit import EditorSpec, hookimpl

_TEXT = {"target_positions": "teacher_forced", "train_bias": False}
_PRESETS = {
    "published": {},
    "paper": {**_TEXT, "stop_loss": 0.03},
    "corrected": _TEXT,
}


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``ft``, ``ft+l`` and ``attnedit``."""
    return [
        EditorSpec(
            name="ft",
            factory="editkit_plugins.finetune.editor:FineTuneEditor",
            config="editkit_plugins.finetune.config:FineTuneConfig",
            summary="Fine-tuning of one MLP output projection (FT)",
            presets=_PRESETS,
            configs="editkit_configs:ft",
        ),
        EditorSpec(
            name="ft+l",
            factory="editkit_plugins.finetune.editor:FineTuneEditor",
            config="editkit_plugins.finetune.config:ConstrainedFineTuneConfig",
            summary="Fine-tuning within an L-infinity box around the weights (FT+L)",
            presets=_PRESETS,
            configs="editkit_configs:ft+l",
        ),
        EditorSpec(
            name="attnedit",
            factory="editkit_plugins.finetune.editor:FineTuneEditor",
            config="editkit_plugins.finetune.config:AttentionFineTuneConfig",
            summary="FT+L on one layer's query, key and value projections (AttnEdit)",
            presets=_PRESETS,
            configs="editkit_configs:attnedit",
        ),
    ]
