"""Named ways of training. The settings' own defaults are those of the published code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FAST: Mapping[str, Any] = {
    "steps": 3000,
    "edits_per_step": 8,
    "locality": 8,
    "related": 0.8,
    "other_targets": True,
    "other_wordings": True,
    "warmup": 50,
    "decay": True,
    "validate_every": 250,
    "saved_dtype": "float16",
}

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "mend": {
        "published": {"sign": "plus"},
        "fast": {
            **_FAST,
            "rank": 128,
            "lr": 2e-4,
            "rate_lr": 1e-5,
            "edit_weight": 0.5,
        },
    },
    "ke": {
        "published": {},
        "fast": {
            **_FAST,
            "steps": 4000,
            "hidden": 128,
            "condition": 128,
            "train_embedding": False,
            "max_scale": 30.0,
            "lr": 1e-3,
            "edit_weight": 0.8,
        },
    },
}
"""Values of the settings by method and preset; ``fast`` is explained in ``docs/training.md``."""
