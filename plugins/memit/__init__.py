"""MEMIT, mass-editing memory in a transformer (Meng et al. 2023)."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, hookimpl

PUBLISHED = {
    "position": "subject_last",
    "context_lengths": [[5, 10]],
    "context_starts": ["The", "Therefore", "Because", "I", "You"],
    "context_top_k": 5,
    "bare_context": True,
    "value_contexts": True,
    "key_text": "prompt",
    "key_average": "groups",
    "steps": 20,
    "step_is": "evaluation",
    "lr": 0.5,
    "weight_decay": 0.5,
    "clamp": 0.75,
    "kl_factor": 0.0625,
    "kl_position": "subject_last",
    "stop_loss": 0.05,
    "offset_from": "own",
    "target_loss": "token_mean",
    "corpus_row_tokens": 2048,
}

# For models without a file of values. The corpus is for a first look; docs/statistics.md.
FALLBACK = (
    {"corpus": "editkit_benchmarks:corpora/first-look.txt.gz"},
    {"ridge": 1e-3},
    {"steps": 60},
    {"weight_decay": 0.1},
    {"weight": 1000.0},
)

LAYERS = LayerRule(
    1 / 4,
    "a guess: up to five layers that end at a quarter of the depth; those of the published models "
    "end between 0.16 and 0.35",
    field="layers",
    is_guess=True,
    count=5,
)


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``memit``."""
    return [
        EditorSpec(
            name="memit",
            factory="editkit_plugins.memit.editor:MemitEditor",
            config="editkit_plugins.memit.config:MemitConfig",
            summary="Many facts by least squares over several layers (Meng et al. 2023)",
            presets={"published": PUBLISHED},
            configs="editkit_configs:memit",
            layer_rule=LAYERS,
            fallback=FALLBACK,
            regimes=("independent", "joint"),
        )
    ]
