"""The editor ``none``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editkit import Editor, EditRequest, Requirements, WeightDelta
from editkit_plugins.unedited.config import NoEditorConfig

if TYPE_CHECKING:
    from editkit import LanguageModel
    from editkit.models import ModelShape


class NoEditor(Editor[NoEditorConfig]):
    """Answers every request with a delta that changes no parameter."""

    name = "none"

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """No memory beyond the model's own."""
        return Requirements()

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One empty delta per request."""
        return [self.delta(model, request, {}) for request in requests]
