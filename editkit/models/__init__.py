"""Language models: loading them, and naming their parts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from editkit.models.architectures import ARCHITECTURES, Architecture, architecture_of
from editkit.models.finding import fingerprint_of, model_folder, n_layers_of
from editkit.models.identity import identity_of, identity_of_loaded
from editkit.models.loading import load_model
from editkit.models.shape import ModelShape, shape_of

if TYPE_CHECKING:
    from editkit.models.encoding import Completion, Encoding
    from editkit.models.language_model import LanguageModel

_LAZY = {
    "Completion": "editkit.models.encoding",
    "Encoding": "editkit.models.encoding",
    "LanguageModel": "editkit.models.language_model",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'editkit.models' has no attribute {name!r}")


__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Completion",
    "Encoding",
    "LanguageModel",
    "ModelShape",
    "architecture_of",
    "fingerprint_of",
    "identity_of",
    "identity_of_loaded",
    "load_model",
    "model_folder",
    "n_layers_of",
    "shape_of",
]
