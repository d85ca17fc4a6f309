"""MEMIT, mass-editing memory in a transformer (Meng et al. 2023)."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, Style, hookimpl
from editkit.editing.spreading_config import PUBLISHED_SPREADING
from editkit.palette import COLORS

PUBLISHED = PUBLISHED_SPREADING

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
            style=Style(COLORS["teal"], "v"),
        )
    ]
