"""EMMET, mass editing with equality constraints (Gupta et al. 2024)."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, Style, hookimpl
from editkit.editing.spreading_config import PUBLISHED_SPREADING
from editkit.palette import COLORS

PUBLISHED = {**PUBLISHED_SPREADING, "emmet_lambda": 0.1, "update_norm_lambda": 0.0}
EXACT = {"emmet_lambda": 0.0}

# For models without a file of values. The corpus is for a first look; docs/statistics.md.
FALLBACK = (
    {"corpus": "editkit_benchmarks:corpora/first-look.txt.gz"},
    {"ridge": 1e-3},
    {"steps": 60},
    {"weight_decay": 0.1},
)

LAYER = LayerRule(
    1 / 10,
    "a guess: a tenth of the depth, as for rome, which edits one layer, too",
    field="layers",
    is_guess=True,
    count=1,
)


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``emmet``."""
    return [
        EditorSpec(
            name="emmet",
            factory="editkit_plugins.emmet.editor:EmmetEditor",
            config="editkit_plugins.emmet.config:EmmetConfig",
            summary="Many facts with exact values and the least change (Gupta et al. 2024)",
            presets={"published": PUBLISHED, "exact": EXACT},
            configs="editkit_configs:emmet",
            layer_rule=LAYER,
            fallback=FALLBACK,
            regimes=("independent", "joint"),
            style=Style(COLORS["blue"], "D", "-."),
        )
    ]
