"""Fine-tuning: of one module (FT), within a bound (FT+L, AttnEdit), or of all blocks."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, Style, hookimpl
from editkit.palette import COLORS

_PUBLISHED = {
    "lr": 5e-4,
    "weight_decay": 0.0,
    "steps": 25,
    "stop_loss": 1e-2,
    "target_positions": "last_prompt",
    "target_loss": "token_mean",
    "train_bias": True,
}
_PAPER = {
    "lr": 5e-4,
    "steps": 25,
    "stop_loss": 0.03,
    "target_positions": "teacher_forced",
    "target_loss": "sum",
    "train_bias": False,
}
_CORRECTED = {"target_positions": "teacher_forced", "train_bias": False}
_PRESETS = {"published": _PUBLISHED, "paper": _PAPER, "corrected": _CORRECTED}
_ATTNEDIT_PRESETS = {
    "published": {**_PUBLISHED, "part": "qkv", "lr": 1e-3, "max_change": 1e-3},
    "paper": {
        "part": "qkv",
        "max_change": 1e-3,
        "stop_loss": 0.03,
        "target_positions": "teacher_forced",
        "target_loss": "sum",
        "train_bias": False,
    },
    "corrected": _CORRECTED,
}
# Widths of the box that atlas and SmolLM2 need, which agree in these units; docs/defaults.md.
_RELATIVE_BOX = {"max_change": None, "max_relative_change": 2.0}
_FT_LAYER = LayerRule(
    1 / 48, "one of the first, as chosen for GPT-2 XL in the paper (1 of 48; for GPT-J 21 of 28)"
)
_FT_L_LAYER = LayerRule(0, "the first, as for all models of the paper")
_ATTNEDIT_LAYER = LayerRule(
    33 / 48, "two thirds of the depth, near where attention recalls facts in GPT-2 XL (33 of 48)"
)


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``ft``, ``ft+l``, ``attnedit`` and ``ft-all``."""
    return [
        EditorSpec(
            name="ft",
            factory="editkit_plugins.finetune.editor:FineTuneEditor",
            config="editkit_plugins.finetune.config:FineTuneConfig",
            summary="Fine-tuning of one MLP output projection (FT)",
            presets=_PRESETS,
            configs="editkit_configs:ft",
            layer_rule=_FT_LAYER,
            layer_locator="causal-tracing",
            model_presets={"paper": {"gpt2-xl": {"layer": 1}, "gpt-j-6b": {"layer": 21}}},
            regimes=("independent", "joint"),
            style=Style(COLORS["vermilion"], "s"),
        ),
        EditorSpec(
            name="ft+l",
            factory="editkit_plugins.finetune.editor:FineTuneEditor",
            config="editkit_plugins.finetune.config:ConstrainedFineTuneConfig",
            summary="Fine-tuning with an L-infinity bound on the change (FT+L)",
            presets=_PRESETS,
            configs="editkit_configs:ft+l",
            layer_rule=_FT_L_LAYER,
            layer_locator="causal-tracing",
            fallback=(_RELATIVE_BOX, {"lr": 2e-3}),
            model_presets={
                "paper": {
                    "gpt2-xl": {"layer": 0, "max_change": 5e-4},
                    "gpt-j-6b": {"layer": 0, "max_change": 5e-5},
                }
            },
            regimes=("independent", "joint"),
            style=Style(COLORS["olive"], "D", "-."),
        ),
        EditorSpec(
            name="attnedit",
            factory="editkit_plugins.finetune.editor:FineTuneEditor",
            config="editkit_plugins.finetune.config:AttentionFineTuneConfig",
            summary="FT+L on one layer's query, key and value projections (AttnEdit)",
            presets=_ATTNEDIT_PRESETS,
            configs="editkit_configs:attnedit",
            layer_rule=_ATTNEDIT_LAYER,
            fallback=(_RELATIVE_BOX, {"lr": 2e-3}),
            model_presets={"paper": {"gpt2-xl": {"layer": 33}}},
            regimes=("independent", "joint"),
            style=Style(COLORS["wine"], "^"),
        ),
        EditorSpec(
            name="ft-all",
            factory="editkit_plugins.finetune.full:FullFineTuneEditor",
            config="editkit_plugins.finetune.config:FullFineTuneConfig",
            summary="Fine-tuning of the linear modules of all blocks",
            configs="editkit_configs:ft-all",
            regimes=("independent", "joint"),
            style=Style(COLORS["vermilion"], "v", "--"),
        ),
    ]
