"""Language models: loading, architectures, encoding of texts, forward passes, identity."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from editkit.models.architectures import Architecture
from editkit.models.lookup import ARCHITECTURES, architecture_of
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
    "shape_of",
]
