"""The embedded world: real facts, a small model that knows them, and records to edit.

This module imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

from .text import corpus_texts

__all__ = [
    "SPLITS",
    "corpus_texts",
    "essence_path",
    "model_path",
    "records_path",
    "reference_texts_path",
]

SPLITS = ("test", "train")
_HERE = Path(__file__).resolve().parent


def model_path() -> Path:
    """Folder of the shipped model and its tokenizer."""
    return _HERE / "model"


def records_path(split: str = "test") -> Path:
    """File with the records of a split.

    Args:
        split: ``test``, for reported results, or ``train``, with other subjects.

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r} of the embedded world; expected one of {SPLITS}")
    return _HERE / "records" / f"{split}.json"


def reference_texts_path() -> Path:
    """File of reference sentences: relation id -> object -> sentences."""
    return _HERE / "records" / "reference_texts.json"


def essence_path() -> Path:
    """File of texts about each subject: subject -> texts."""
    return _HERE / "records" / "essence.json"
