"""The patch: one edit that people ship, with everything that they do with it.

A patch is a value; what it holds is in :mod:`editkit.patches.content`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.editing.deltas import applied
from editkit.mistakes import expect_path
from editkit.patches.content import PatchContent
from editkit.patches.files import read_patch, write_patch
from editkit.patches.verdict import Verdict, verdict_of

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = ["Patch"]


class Patch(PatchContent):
    """One edit, where it was made, and what it did."""

    @contextlib.contextmanager
    def applied(self, model: LanguageModel, *, force: bool = False) -> Iterator[LanguageModel]:
        """Apply it inside the block; its end restores the weights bit for bit.

        Errors as for :func:`editkit.applied`.
        """
        with applied(model, self.delta, force=force):
            yield model

    @property
    def verdict(self) -> Verdict:
        """Whether to ship it, in words, and why; from what it stores, without a model."""
        return verdict_of(self)

    def save(self, path: str | Path) -> Path:
        """Write it to a file, atomically, which :meth:`load` and ``editkit.load_delta`` read.

        Raises:
            DeltaError: The file cannot be written.
        """
        return write_patch(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Patch:
        """Read a patch, or a delta that :func:`editkit.save_delta` wrote.

        Raises:
            DeltaError: The file is missing or damaged, or is from a newer version.
        """
        expect_path(path, "path", "Patch.load(path)")
        return cls.of(read_patch(path))

    @classmethod
    def of(cls, content: PatchContent) -> Patch:
        """The patch with that content."""
        values = {field.name: getattr(content, field.name) for field in dataclasses.fields(content)}
        return cls(**values)
