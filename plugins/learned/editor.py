"""The editors ``ke`` and ``mend``: one backward pass, then a trained network maps it to an edit."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from editkit import (
    ConfigError,
    Editor,
    EditRequest,
    LanguageModel,
    LowRank,
    Requirements,
    WeightDelta,
)
from editkit.editing.deltas import compacted, stack
from editkit.editing.gradients import Edit, LowerBlocks, edit_gradients
from editkit.models import ModelShape
from editkit.progress import counting
from editkit.storage.strict_json import parse_json
from editkit_plugins.learned.config import FILE, KeConfig, LearnedConfig, MendConfig
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.trained import Settings, TrainedEditor, existing_folder, load_trained

_log = logging.getLogger(__name__)
_ADVICE = (
    "train the editor for longer, or on facts and prompts more like these (editkit train); it has "
    "no steps or layers to tune"
)
_FLOAT = 4  # bytes


LearnedConfigT = TypeVar("LearnedConfigT", bound=LearnedConfig)


class LearnedEditor(Editor[LearnedConfigT]):
    """Base of both editors: loads the trained network and applies it.

    Attributes:
        settings_class: The training settings of the method.
    """

    settings_class: ClassVar[type[Settings]]

    def __init__(self, config: LearnedConfigT) -> None:
        super().__init__(config)
        self._loaded: tuple[str, TrainedEditor] | None = None  # with the fingerprint of its model

    def check(self, model: LanguageModel) -> None:
        """Refuse a model without a trained editor.

        Raises:
            ConfigError: There is no trained editor, its file is damaged, or it is of another
                method.
            DeltaError: It was trained on another model.
        """
        self.trained(model)

    def trained(self, model: LanguageModel) -> TrainedEditor:
        """The trained editor for a model. It is loaded on the first call.

        Raises:
            ConfigError, DeltaError: As for :meth:`check`.
        """
        base = model.base_fingerprint
        if self._loaded is None or self._loaded[0] != base:
            folder = existing_folder(self.config, self.name, model)
            trained = load_trained(folder, model)
            self._check_origin(trained, folder)
            self._loaded = (base, trained)
        return self._loaded[1]

    def _check_origin(self, trained: TrainedEditor, folder: Path) -> None:
        """Refuse the network of another method; warn about one trained for another editor name."""
        kind, trained_as = trained.settings.kind, trained.metadata.get("editor")
        if not isinstance(trained.settings, self.settings_class):
            raise ConfigError(
                f"the editor in {folder} is a network of {kind}, but {self.name} needs a network "
                f"of {self.settings_class().kind}.",
                hint=f"Use it with --editor {trained_as or kind}.",
            )
        if trained_as not in (None, self.name):
            _log.warning(
                "%s uses the network in %s, which was trained for %s", self.name, folder, trained_as
            )

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory for the network, one backward pass, and the deltas.

        Raises:
            ConfigError: The model has fewer blocks than the editor edits.
        """
        settings, note = self._expected_settings()
        matrices = _matrix_sizes(shape, settings.blocks)
        network = _FLOAT * _network_size(settings, shape, matrices)
        widths = sum(n_in + n_out for n_in, n_out in matrices)
        batch = min(requests, self.config.edits_per_pass)
        backward = shape.backward_bytes(batch, tokens, settings.blocks)
        factors = (2 * batch + requests) * tokens * widths * _FLOAT  # gradients and deltas
        return Requirements(
            memory=network + backward + factors,
            notes=(note,),
        )

    def _expected_settings(self) -> tuple[Settings, str]:
        """Settings of the configured trained editor, else the published ones, and a note which."""
        if self.config.trained is not None:
            adapter: TypeAdapter[Settings] = TypeAdapter(self.settings_class)
            try:
                path = self.config.folder("", self.name) / FILE
                with safe_open(path, framework="np") as file:  # reads the header only
                    header = file.metadata() or {}
                metadata = parse_json(header.get("editor", "null"), allow_nan=True)
                settings = adapter.validate_python(metadata["settings"])
                return settings, f"The network is the one in {self.config.trained}."
            except (OSError, ValueError, KeyError, TypeError, SafetensorError):
                pass  # check() reports the problem
        note = "The trained network is not known; the forecast assumes the published size."
        return self.settings_class(), note

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One low-rank delta per request.

        Raises:
            ConfigError: There is no trained editor for this model.
            ModelError: A prompt is longer than the model's context.
        """
        trained = self.trained(model)
        facts = [each.completion for each in model.requested(requests)]
        size = self.config.edits_per_pass
        deltas = []
        with counting("computing edits", len(requests), unit="fact") as advance:
            for start in range(0, len(requests), size):
                some = requests[start : start + size]
                part = [[fact] for fact in facts[start : start + size]]
                edits = _changes(model, trained, part, scale=self.config.scale)
                for request, (changes, loss) in zip(some, edits, strict=True):
                    deltas.append(self.delta(model, request, changes, notes=_notes(trained, loss)))
                advance(len(some))
        return deltas


def _notes(trained: TrainedEditor, loss: float) -> dict[str, Any]:
    return {"loss_before": loss, "trained": trained.metadata["digest"], "advice": _ADVICE}


def _changes(
    model: LanguageModel,
    trained: TrainedEditor,
    edits: Sequence[Edit],
    *,
    scale: float,
    weight: float = 1.0,
) -> list[tuple[dict[str, LowRank], float]]:
    """The changes of each edit and its loss, from one backward pass.

    Args:
        model: The model.
        trained: The trained editor.
        edits: The facts of each edit.
        scale: Factor on the changes.
        weight: Factor on the loss.
    """
    blocks = LowerBlocks(model, model.n_layers - trained.settings.blocks)
    gradients = edit_gradients(blocks, edits, trained.network.paths)
    if weight != 1:
        weighted = {path: weight * d for path, d in gradients.output_gradients.items()}
        gradients = dataclasses.replace(gradients, output_gradients=weighted)
    with torch.no_grad():
        changes = trained.network.changes(gradients, edits)
    return [
        ({name: each.low_rank(edit, scale) for name, each in changes.items()}, loss)
        for edit, loss in enumerate(gradients.losses.tolist())
    ]


class KeEditor(LearnedEditor[KeConfig]):
    """KE (De Cao et al. 2021)."""

    name = "ke"
    settings_class = KeSettings


class MendEditor(LearnedEditor[MendConfig]):
    """MEND (Mitchell et al. 2022)."""

    name = "mend"
    settings_class = MendSettings

    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One delta: the sum over all tokens of all requests, for the mean of their losses."""
        trained = self.trained(model)
        facts = [each.completion for each in model.requested(requests)]
        targets = sum(len(fact.target) for fact in facts)
        size = self.config.edits_per_pass
        total: WeightDelta | None = None
        mean = 0.0
        with counting("computing edits", len(facts), unit="fact") as advance:
            for start in range(0, len(facts), size):
                part = facts[start : start + size]
                weight = sum(len(fact.target) for fact in part) / targets
                [(changes, loss)] = _changes(
                    model, trained, [part], scale=self.config.scale, weight=weight
                )
                mean += weight * loss
                delta = self.delta(model, requests, changes, notes=_notes(trained, mean))
                if total is not None:
                    merged = compacted(stack([total, delta]))
                    delta = dataclasses.replace(delta, changes=merged.changes)
                total = delta
                advance(len(part))
        return cast("WeightDelta", total)  # there is at least one request


# ---------------------------------------------------------------- memory


def _matrix_sizes(shape: ModelShape, blocks: int) -> list[tuple[int, int]]:
    """Sizes of the edited matrices, the smaller one first."""
    if blocks > shape.n_layers:
        raise ConfigError(
            f"the editor edits the last {blocks} blocks, but the model has {shape.n_layers}.",
            hint="Use an editor that was trained for this model.",
        )
    parts = (shape.architecture.mlp_out, *shape.architecture.mlp_in)
    sizes = []
    for layer in range(shape.n_layers - blocks, shape.n_layers):
        shape.path(layer, "mlp_out")  # refuses experts
        for part in parts:
            path = shape.architecture.path(layer, part)
            smaller, *_, larger = sorted(shape.module_parameters(path)["weight"])
            sizes.append((smaller, larger))
    return sizes


def _network_size(settings: Settings, shape: ModelShape, matrices: list[tuple[int, int]]) -> int:
    """Number of the network's weights."""
    if isinstance(settings, MendSettings):
        total = 0
        # The two projections have the same sizes in opposite order: two transforms.
        for n_in, n_out in set(matrices):
            width = n_in + n_out
            modes = matrices.count((n_in, n_out)) / 2
            layer = 2 * width * min(settings.rank, width) + width * (1 + 2 * modes)
            total += math.ceil(2 * (settings.layers * layer + 2 * width))
        return total
    hidden, condition, embedded = settings.hidden, settings.condition, shape.hidden_size
    encoder = shape.vocabulary * embedded + 2 * 4 * hidden * (embedded + hidden + 2)
    encoder += condition * (2 * hidden + 1)
    shapers = sum(
        hidden * (condition + 2) + (2 * (n_in + n_out) + 1) * (hidden + 2)
        for n_in, n_out in matrices
    )
    return encoder + shapers
