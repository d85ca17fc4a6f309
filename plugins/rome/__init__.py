"""ROME, rank-one model editing (Meng et al. 2022)."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, hookimpl

PUBLISHED: dict[str, object] = {}
PAPER = {
    "context_lengths": [[10, 5], [10, 10]],
    "corpus_tokens": 100_000,
    "kl_position": "prompt_last",
}
PAPER_V1 = {
    "context_lengths": [[6, 2], [6, 3], [6, 4], [6, 5], [6, 6], [5, 7], [5, 8], [5, 9], [5, 10]],
    "corpus_tokens": 100_000,
    "kl_position": "prompt_last",
    "kl_factor": 100.0,
    "weight_decay": 1.5e-3,
    "steps": 25,
}
CORRECTED = {"update_key": "mean", "kl_position": "prompt_last"}
LAYER = LayerRule(
    1 / 3, "a third of the depth, near where causal tracing finds facts in GPT-2 XL (17 of 48)"
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
            layer_rule=LAYER,
        )
    ]
