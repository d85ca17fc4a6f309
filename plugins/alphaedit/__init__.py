"""AlphaEdit, edits in the null space of what a model should keep (Fang et al. 2024)."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, Style, hookimpl
from editkit.editing.spreading_config import PUBLISHED_SPREADING
from editkit.palette import COLORS

PUBLISHED = {
    **PUBLISHED_SPREADING,
    "threshold": 2e-2,
    "threshold_unit": "absolute",
    "identity_weight": 10.0,
}
PAPER = {"identity_weight": 1.0}

# For models without a file of values. The corpus is for a first look; docs/statistics.md.
FALLBACK = (
    {"corpus": "editkit_benchmarks:corpora/first-look.txt.gz"},
    {"steps": 60},
    {"weight_decay": 0.1},
    {"threshold": 0.5, "threshold_unit": "mean"},
)

LAYERS = LayerRule(
    1 / 4,
    "a guess: up to five layers that end at a quarter of the depth; those of the published models "
    "end between 0.25 and 0.35",
    field="layers",
    is_guess=True,
    count=5,
)


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``alphaedit``."""
    return [
        EditorSpec(
            name="alphaedit",
            factory="editkit_plugins.alphaedit.editor:AlphaEditEditor",
            config="editkit_plugins.alphaedit.config:AlphaEditConfig",
            summary="Many facts in the null space of what to keep (Fang et al. 2024)",
            presets={"published": PUBLISHED, "paper": PAPER},
            configs="editkit_configs:alphaedit",
            layer_rule=LAYERS,
            fallback=FALLBACK,
            regimes=("independent", "joint", "sequential"),
            style=Style(COLORS["green"], "X", "--"),
        )
    ]
