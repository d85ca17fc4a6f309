"""The editors ``ke`` and ``mend``: one backward pass, and a trained network that reads it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from editkit import ConfigError, Editor, EditRequest, LanguageModel, Needs, WeightDelta
from editkit.models import Completion, ModelShape
from editkit_plugins.learned.below import Below
from editkit_plugins.learned.config import LearnedConfig, MendConfig
from editkit_plugins.learned.needs import learned_needs
from editkit_plugins.learned.signals import Edit, signals
from editkit_plugins.learned.trained import Trained, folder_of, load_trained

_log = logging.getLogger(__name__)
_ADVICE = (
    "train the editor for longer, or on facts and prompts like these (editkit train); a trained "
    "network has no steps or layers to change"
)


class LearnedEditor(Editor[LearnedConfig]):
    """KE (De Cao et al. 2021) and MEND (Mitchell et al. 2022), once they are trained."""

    def __init__(self, config: LearnedConfig) -> None:
        super().__init__(config)
        self._trained: tuple[str, Trained] | None = None

    def check(self, model: LanguageModel) -> None:
        """Refuse a model that no editor was trained for.

        Raises:
            ConfigError: There is no trained editor, or its file is damaged.
            DeltaError: It was trained on another model.
        """
        self.trained(model)

    def trained(self, model: LanguageModel) -> Trained:
        """The trained network for a model, read once."""
        base = model.base_fingerprint
        if self._trained is None or self._trained[0] != base:
            folder = folder_of(self.config, model)
            trained = load_trained(folder, model)
            self._check_kind(trained, folder)
            self._trained = (base, trained)
        return self._trained[1]

    def _check_kind(self, trained: Trained, folder: Path) -> None:
        """Refuse the network of another method, and report one that was trained for other data.

        Raises:
            ConfigError: It is of another method.
        """
        name, made_for = self.config.editor_name, trained.facts.get("editor")
        kind = "mend" if isinstance(self.config, MendConfig) else "ke"
        if trained.settings.kind != kind:
            raise ConfigError(
                f"the editor in {folder} is a network of {trained.settings.kind}, and {name} "
                f"needs one of {kind}.",
                hint=f"Use it with --editor {made_for or trained.settings.kind}.",
            )
        if made_for is not None and made_for != name:
            _log.warning("%s edits with the network in %s, which is %s's", name, folder, made_for)

    def needs(self, shape: ModelShape, *, requests: int, tokens: int) -> Needs:
        """Memory for the network, one backward pass, and the deltas."""
        return learned_needs(self.config, shape, requests=requests, tokens=tokens)

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One delta per request, of low rank.

        Raises:
            ConfigError: There is no trained editor for this model.
            ModelError: A prompt is longer than the model's context.
        """
        if not requests:
            return []
        facts = [each.completion for each in model.requested(requests)]
        trained, made_on = self.trained(model), model.fingerprint
        if isinstance(self.config, MendConfig) and self.config.joint:
            [delta] = self._deltas(model, trained, made_on, [facts], [tuple(requests)])
            return [delta] * len(requests)
        size = self.config.edits_per_pass
        return [
            delta
            for start in range(0, len(facts), size)
            for delta in self._deltas(
                model,
                trained,
                made_on,
                [[fact] for fact in facts[start : start + size]],
                requests[start : start + size],
            )
        ]

    def _deltas(
        self,
        model: LanguageModel,
        trained: Trained,
        made_on: str,
        edits: Sequence[Sequence[Completion]],
        requests: Sequence[EditRequest | tuple[EditRequest, ...]],
    ) -> list[WeightDelta]:
        network = trained.network
        paths = [matrix.path for matrix in network.matrices]
        below = Below(model, model.n_layers - trained.settings.blocks)
        groups: Sequence[Edit] = edits
        found = signals(below, groups, paths)
        with torch.no_grad():
            changes = network.changes(found, groups)
        return [
            WeightDelta(
                changes={name: change.of(edit) for name, change in changes.items()},
                request=request,
                editor=self.config.editor_name,
                config=self.config.model_dump(mode="json"),
                model_fingerprint=made_on,
                notes={
                    "loss_before": float(found.losses[edit]),
                    "trained": trained.facts["digest"],
                    "advice": _ADVICE,
                },
            )
            for edit, request in enumerate(requests)
        ]
