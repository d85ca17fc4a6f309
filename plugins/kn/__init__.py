"""Knowledge neurons (Dai et al. 2022): an editor and a locator."""

from __future__ import annotations

from editkit import EditorSpec, LocatorSpec, Style, hookimpl
from editkit.palette import COLORS

PUBLISHED = {
    "site": "pre_activation",
    "steps": 20,
    "alphas": "linspace",
    "target_space": False,
    "threshold": 0.2,
    "threshold_kind": "adaptive",
    "refine": False,
    "operation": "write",
    "old_token": "predicted",
    "old_scale": 2.0,
    "new_scale": 1.0,
    "scale_by": "embedding",
}
PAPER = {
    "site": "post_activation",
    "steps": 20,
    "alphas": "right",
    "target_space": True,
    "threshold": 0.3,
    "threshold_kind": "adaptive",
    "refine": True,
    "p": 0.5,
    "wanted_neurons": None,
}
ORIGINAL = {
    "site": "post_activation",
    "alphas": "left",
    "target_space": True,
    "refine": True,
    "p": 0.7,
    "wanted_neurons": [2, 5],
    "old_token": "target_true",
    "old_scale": 1.0,
    "new_scale": 8.0,
    "scale_by": "row",
}


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    """Offer ``kn``."""
    return [
        EditorSpec(
            name="kn",
            factory="editkit_plugins.kn.editor:KnEditor",
            config="editkit_plugins.kn.config:KnConfig",
            summary="Knowledge neurons (Dai et al. 2022)",
            presets={"published": PUBLISHED, "paper": PAPER, "original": ORIGINAL},
            configs="editkit_configs:kn",
            style=Style(COLORS["green"], "v", "-."),
        )
    ]


@hookimpl
def editkit_locators() -> list[LocatorSpec]:
    """Offer ``knowledge-neurons``."""
    return [
        LocatorSpec(
            name="knowledge-neurons",
            factory="editkit_plugins.kn.locator:KnowledgeNeuronsLocator",
            config="editkit_plugins.kn.config:KnowledgeNeuronsConfig",
            summary="neurons that carry a prediction, by integrated gradients",
        )
    ]
