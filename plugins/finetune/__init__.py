"""Fine-tuning one module on the fact: unconstrained (FT), and within a box (FT+L)."""

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
    """Offer ``ft`` and ``ft+l``."""
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
    ]
