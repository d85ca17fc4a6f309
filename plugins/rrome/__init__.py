"""R-ROME, rank-one edits that use one key throughout (Gupta et al. 2024)."""

from __future__ import annotations

from editkit import EditorSpec, LayerRule, Style, hookimpl
from editkit.editing.rome_value_config import PUBLISHED_VALUE
from editkit.palette import COLORS

PUBLISHED = {**PUBLISHED_VALUE, "key": "mean", "corpus_row_tokens": 2048}
P_ROME = {**PUBLISHED, "key": "bare"}

# For models without a file of values, as for rome: R-ROME differs from it in the update alone.
FALLBACK = (
    {"corpus": "editkit_benchmarks:corpora/first-look.txt.gz"},
    {"ridge": 1e-3},
    {"steps": 60},
    {"weight_decay": 0.1},
)


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``r-rome``."""
    return [
        EditorSpec(
            name="r-rome",
            factory="editkit_plugins.rrome.editor:RRomeEditor",
            config="editkit_plugins.rrome.config:RRomeConfig",
            summary="Rank-one model editing with one key throughout (Gupta et al. 2024)",
            presets={"published": PUBLISHED, "p-rome": P_ROME},
            configs="editkit_configs:r-rome",
            layer_rule=LayerRule.A_TENTH,
            layer_locator="causal-tracing",
            fallback=FALLBACK,
            style=Style(COLORS["blue"], "o", "--"),
        )
    ]
