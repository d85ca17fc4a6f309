"""ROME, rank-one model editing (Meng et al. 2022)."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, Style, hookimpl
from editkit.editing.rome_value_config import PUBLISHED_VALUE
from editkit.palette import COLORS

PUBLISHED = {**PUBLISHED_VALUE, "update_key": "bare", "corpus_row_tokens": 2048}
_TEXT = {
    "position": "subject_last",
    "bare_context": False,
    "key_text": "subject",
    "update_key": "mean",
    "step_is": "update",
    "lr": 0.5,
    "weight_decay": 1.5e-3,
    "clamp": None,
    "kl_factor": 100.0,
    "kl_position": "prompt_last",
    "stop_loss": 0.05,
    "offset_from": "bare",
    "target_loss": "sum",
    "corpus_tokens": 100_000,
    "corpus_order": "random",
}
PAPER = {
    **_TEXT,
    "context_lengths": [[10, 5], [10, 10]],
    "value_contexts": True,
    "steps": 20,
    "corpus_row_tokens": 2048,
}
PAPER_V1 = {
    **_TEXT,
    "context_lengths": [[20, 2], [20, 5], [10, 10]],
    "value_contexts": False,
    "steps": 25,
}
CORRECTED = {"update_key": "mean", "kl_position": "prompt_last"}

# For models without a file of values. The corpus is for a first look; docs/statistics.md.
FALLBACK = (
    {"corpus": "editkit_benchmarks:corpora/first-look.txt.gz"},
    {"ridge": 1e-3},
    {"steps": 60},
    {"weight_decay": 0.1},
)


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``rome``."""
    return [
        EditorSpec(
            name="rome",
            factory="editkit_plugins.rome.editor:RomeEditor",
            config="editkit_plugins.rome.config:RomeConfig",
            summary="Rank-one model editing (Meng et al. 2022)",
            presets={
                "published": PUBLISHED,
                "paper": PAPER,
                "paper-v1": PAPER_V1,
                "corrected": CORRECTED,
            },
            configs="editkit_configs:rome",
            layer_rule=LayerRule.A_TENTH,
            layer_locator="causal-tracing",
            fallback=FALLBACK,
            model_presets={
                "paper": {"gpt2-xl": {"layer": 18}},
                "paper-v1": {"gpt2-xl": {"layer": 15}},
            },
            style=Style(COLORS["blue"], "*"),
        )
    ]
