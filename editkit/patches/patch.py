"""The patch: one edit that people ship, with everything that they do with it.

A patch is a value; what it holds is in :mod:`editkit.patches.content`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.editing.deltas import applied
from editkit.mistakes import expect, expect_list, expect_path
from editkit.patches.checking import Recheck, recheck
from editkit.patches.combining import PatchDifference, diff, stacked
from editkit.patches.content import PatchContent
from editkit.patches.export import FolderExport, Format, export_patches
from editkit.patches.files import read_patch, write_patch
from editkit.patches.interference import Conflict, conflicts, interference, overlap
from editkit.patches.notebook import patch_html, patches_html
from editkit.patches.overview import summary
from editkit.patches.verdict import Verdict, verdict_of

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel
    from editkit.patches.lora import LoraExport

__all__ = ["Patch", "Patches"]


class Patch(PatchContent):
    """One edit, where it was made, and what it did."""

    def __repr__(self) -> str:
        return f"Patch({summary(self)})"

    def _repr_html_(self) -> str:
        """What it did as a table, for notebooks."""
        return patch_html(self)

    @contextlib.contextmanager
    def applied(self, model: LanguageModel, *, force: bool = False) -> Iterator[LanguageModel]:
        """Apply it inside the block; its end restores the weights bit for bit.

        Errors as for :func:`editkit.applied`.
        """
        with applied(model, self.delta, force=force):
            yield model

    def check(self, model: LanguageModel, others: Sequence[PatchContent] = ()) -> Recheck:
        """Whether it still does what it did when it was made, from its own questions.

        Args:
            model: The unedited model that it was made for.
            others: Patches to apply as well; first, for a patch that was made on top of them.

        Raises:
            DeltaError: A patch was made for another model, or does not fit it.
        """
        expect(model, "LanguageModel", "model", "patch.check(model, others)")
        expect_list(others, "Patch", "others", "patch.check(model, others)")
        return recheck(self, model, others)

    @property
    def verdict(self) -> Verdict:
        """Whether to ship it, in words, and why; from what it stores, without a model."""
        return verdict_of(self)

    def save(self, path: str | Path) -> Path:
        """Write it to a file, atomically, which :meth:`load` and ``editkit.load_delta`` read.

        Raises:
            DeltaError: The file cannot be written.
        """
        expect_path(path, "path", "patch.save(path)")
        return write_patch(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Patch:
        """Read a patch, or a delta that :func:`editkit.save_delta` wrote.

        Raises:
            DeltaError: The file is missing or damaged, or is from a newer version.
        """
        expect_path(path, "path", "Patch.load(path)")
        return cls.of(read_patch(path))

    def export(
        self,
        out: str | Path,
        *,
        model: str | None = None,
        format: Format = "folder",
        dtype: str | None = None,
        force: bool = False,
    ) -> FolderExport | LoraExport:
        """Write it as a model folder or a LoRA adapter, which load without editkit.

        Args:
            out: The new folder; it must not exist, or be empty.
            model: A registered name, a folder, a GGUF file, or a hub id; None: the model that the
                patch was made on.
            format: ``folder`` is the whole model with the patch in its weights, for transformers,
                vLLM and llama.cpp's converter. ``lora`` is an adapter for PEFT and vLLM.
            dtype: ``float32`` to store the folder's bfloat16 and float16 weights as float32; None:
                types stay as they are.
            force: Export it although it was made for another model.

        Raises:
            DeltaError: The patch was made for another model, changes a parameter that the format
                cannot hold, or the folder cannot be written.
            ModelError: The model cannot be read.
        """
        expect_path(out, "out", "patch.export(out)", "the path of a new folder")
        if model is not None:
            expect_path(model, "model", "patch.export(out)", "a model's name, folder or file")
        return export_patches([self], out, model=model, format=format, dtype=dtype, force=force)

    @classmethod
    def stack(
        cls,
        patches: Sequence[PatchContent],
        *,
        force: bool = False,
        model: LanguageModel | None = None,
    ) -> Patch:
        """One patch with the edits of several; their model measures its checks, if it is given.

        Raises:
            DeltaError: The patches conflict (:meth:`conflicts`), or one does not fit the model. Two
                equal patches, and two for one fact, are combined if forced.
        """
        expect_list(patches, "Patch", "patches", "Patch.stack(patches)")
        return cls.of(stacked(patches, force=force, model=model))

    @staticmethod
    def conflicts(patches: Sequence[PatchContent]) -> list[Conflict]:
        """What is wrong with applying patches together, in this order."""
        expect_list(patches, "Patch", "patches", "Patch.conflicts(patches)")
        return conflicts(patches)

    def overlap(self, other: PatchContent) -> float:
        """How far the two react to the same inputs, from 0 to 1: a warning of interference."""
        expect(other, "Patch", "other", "patch.overlap(other)")
        return overlap(self, other)

    def interference(self, model: LanguageModel, other: PatchContent) -> float:
        """How much another patch changes where this one was made, relative to what this one does.

        0: nothing; 1: as much. Unlike :meth:`overlap`, it needs the model, and is not symmetric.

        Args:
            model: The unedited model of both.
            other: The other patch.

        Raises:
            DeltaError: A patch does not fit the model.
        """
        expect(model, "LanguageModel", "model", "patch.interference(model, other)")
        expect(other, "Patch", "other", "patch.interference(model, other)")
        return interference(model, self, other)

    def diff(self, other: PatchContent) -> PatchDifference:
        """What differs: fact, editor, settings, weights, origin, and answers to the same checks."""
        expect(other, "Patch", "other", "patch.diff(other)")
        return diff(self, other)

    @classmethod
    def of(cls, content: PatchContent) -> Patch:
        """The patch with that content."""
        values = {field.name: getattr(content, field.name) for field in dataclasses.fields(content)}
        return cls(**values)


class Patches(list[Patch]):
    """Patches of one fact by several editors: a list that notebooks show side by side."""

    def _repr_html_(self) -> str:
        return patches_html(self)
