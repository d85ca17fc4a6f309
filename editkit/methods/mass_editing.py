"""The base class of editors that spread values over layers; a method implements its update.

Everything but the update is the same in MEMIT, EMMET and AlphaEdit: the contexts, the values z at
the last edited layer, the keys, the residuals (:mod:`editkit.editing.spreading`), the second
moments, and the notes on how the edit of each fact went.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from typing_extensions import override

from editkit.covariance.second_moment import (
    SecondMoment,
    Whitening,
    configured_second_moments,
    source_of_statistics,
)
from editkit.data_types import EditRequest, Requirements
from editkit.editing.changes import Change
from editkit.editing.delta_effects import norm_of
from editkit.editing.deltas import WeightDelta
from editkit.editing.rome_rows import RequestRows, request_rows, sampled_or_given_contexts
from editkit.editing.rome_value import Value, find_values
from editkit.editing.spreading import Update, check_layers, spread
from editkit.editing.value_reports import convergence, memory_of_values
from editkit.errors import RequestError
from editkit.interfaces import JointEditor
from editkit.methods.mass_editing_config import MassEditingConfig
from editkit.models import LanguageModel, ModelShape
from editkit.models.weight_layout import input_major
from editkit.registry.specs import LayerRule

__all__ = ["MassEditor", "Notes"]

MassConfigT = TypeVar("MassConfigT", bound=MassEditingConfig)
Notes = dict[str, Any]
"""The notes of one fact, under the keys of :mod:`editkit.editing.outcomes`."""

_FLOAT = 4  # bytes


class MassEditor(JointEditor[MassConfigT]):
    """Writes many facts with one change per layer.

    Attributes:
        layer_rule: Chooses the layers if the configuration does not.
    """

    layer_rule: ClassVar[LayerRule]

    def __init__(self, config: MassConfigT) -> None:
        super().__init__(config)
        self._whitenings: tuple[str, tuple[Whitening, ...]] | None = None  # with C's model

    @abstractmethod
    def update(self, model: LanguageModel, notes: Sequence[Notes]) -> Update:
        """The method's change of a layer, for :func:`editkit.editing.spreading.spread`.

        Args:
            model: The model, including any applied edits.
            notes: The notes of each fact, to which the update may add: ``unstable``, ``advice``.
        """

    def layers(self, model: LanguageModel | ModelShape) -> tuple[int, ...]:
        """The edited blocks, ascending: the configuration's, or those of the rule."""
        return self.config.layers or self.layer_rule.layers_of(model.n_layers)

    @override
    def check(self, model: LanguageModel) -> None:
        """Refuse layers that the model does not have, and a second moment without a corpus.

        Raises:
            ModelError: A layer does not exist or has experts instead of one MLP, or values cannot
                be written to the output of the last one.
            ConfigError: A second moment is wanted, but no corpus and no file was named.
        """
        check_layers(model, self.layers(model))
        self.config.corpus_for(self.name)

    @override
    def prepare(self, model: LanguageModel) -> None:
        """Sample the contexts and get the second moments, both cached.

        Raises:
            ConfigError: A second moment is wanted, but no corpus and no file was named; or it is
                singular and no ridge was set.
        """
        sampled_or_given_contexts(model, self.config)
        self.whitenings(model)

    def second_moments(self, model: LanguageModel) -> tuple[SecondMoment, ...]:
        """C of each layer's keys, from one pass over the corpus; the identity without C."""
        paths = [model.path(layer, "mlp_out") for layer in self.layers(model)]
        moments = configured_second_moments(model, paths, self.config, editor=self.name)
        if moments is not None:
            return tuple(moments[path] for path in paths)
        widths = [self._width(model, path) for path in paths]
        return tuple(SecondMoment(torch.eye(width), 0) for width in widths)

    def _width(self, model: LanguageModel, path: str) -> int:
        """Length D of the inputs of a layer's projection."""
        return len(input_major(model.module(path), model.hf.get_parameter(f"{path}.weight")))

    def whitenings(self, model: LanguageModel) -> tuple[Whitening, ...]:
        """C of each layer with the ridge, factorised once for a model and all edits on top of it.

        Raises:
            ConfigError: C is singular with this ridge.
        """
        source = source_of_statistics(model, self.config)
        if self._whitenings is None or self._whitenings[0] != source:
            moments = self.second_moments(model)
            self._whitenings = (source, tuple(self.whitening_of(moment) for moment in moments))
        return self._whitenings[1]

    def whitening_of(self, moment: SecondMoment) -> Whitening:
        """The factor of the matrix that protects the keys of the corpus: C with the ridge."""
        return Whitening.of(moment, self.config.ridge)

    @override
    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One delta per request; the values of all requests are optimised together.

        Raises:
            RequestError: A subject has no token of its own.
            ModelError: A prompt is longer than the model's context.
        """
        rows, values = self.values(model, requests)
        deltas = []
        for request, own_rows, value in zip(requests, rows, values, strict=True):
            changes, [notes] = self.written(model, [own_rows], [value])
            deltas.append(self.delta(model, request, changes, notes=notes))
        return deltas

    @override
    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One delta for all requests: the method's own form.

        Raises:
            RequestError: There are no requests, or a subject has no token of its own.
            ModelError: A prompt is longer than the model's context.
        """
        if not requests:
            raise RequestError(
                f"{self.name} was given no requests to write jointly.", hint="Give at least one."
            )
        rows, values = self.values(model, requests)
        changes, notes = self.written(model, rows, values)
        return self.delta(model, tuple(requests), changes, notes={"facts": notes})

    def values(
        self, model: LanguageModel, requests: Sequence[EditRequest]
    ) -> tuple[list[RequestRows], list[Value]]:
        """The rows of each request, and its value z at the last layer."""
        contexts = sampled_or_given_contexts(model, self.config)
        rows = [request_rows(model, request, contexts, self.config) for request in requests]
        return rows, find_values(model, rows, self.layers(model)[-1], self.config, site="block")

    def written(
        self,
        model: LanguageModel,
        rows: Sequence[RequestRows],
        values: Sequence[Value],
        *,
        update: Update | None = None,
    ) -> tuple[dict[str, Change], list[Notes]]:
        """The changes that write values, by the parameter's name, and the notes of each fact.

        Args:
            model: The model, including any applied edits.
            rows: Rows of each request.
            values: The value of each request.
            update: The change of a layer; None: that of :meth:`update`.
        """
        config, layers = self.config, self.layers(model)
        elsewhere = f"edit other layers than {', '.join(map(str, layers))}"
        notes: list[Notes] = [
            {"layers": list(layers), **convergence(value, config, elsewhere=elsewhere)}
            for value in values
        ]
        z = torch.stack([value.v_star for value in values])  # (n, H)
        changes = spread(model, rows, z, layers, config, update or self.update(model, notes))
        if unstable := self._too_large(model, changes, len(values)):
            for own in notes:
                own.setdefault("unstable", unstable)
                hint = f"{self.advice_against_large_changes()}, or {elsewhere}"
                own["advice"] = f"{own['advice']}; and {hint}" if "advice" in own else hint
        return changes, notes

    def advice_against_large_changes(self) -> str:
        """What makes the method's changes smaller: ``raise ridge (0.001)``."""
        return f"raise ridge ({self.config.ridge:g})"

    def _too_large(self, model: LanguageModel, changes: Mapping[str, Change], n: int) -> str | None:
        """Why the changes of n facts should not be trusted, if one is large against its weight."""
        for name, change in changes.items():
            norm, weight = (
                norm_of(change),
                float(model.hf.get_parameter(name).detach().float().norm()),
            )
            if norm > self.config.unstable_norm * n**0.5 * weight:
                return f"the change of {name} has the norm {norm:.3g}, the weight {weight:.3g}"
        return None

    @override
    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """The second moments, and memory of the requests that are optimised side by side."""
        config, layers = self.config, self.layers(shape)
        paths = [shape.path(layer, "mlp_out") for layer in layers]
        memory, note = memory_of_values(shape, layers[-1], config, requests=requests, tokens=tokens)
        deltas = requests * len(layers) * (shape.inner_size + shape.hidden_size) * _FLOAT
        return Requirements(
            memory=memory + deltas,
            statistics=config.statistics(paths, shape.inner_size),
            notes=(note,),
        )
