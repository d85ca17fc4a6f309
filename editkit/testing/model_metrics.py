"""The rules that every metric of a model as a whole keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from editkit.editing.deltas import Change, Dense, LowRank, Rows, WeightDelta
from editkit.editing.edited_models import EditedModels
from editkit.interfaces import MetricRow, ModelMetric
from editkit.models.language_model import LanguageModel
from editkit.testing.contract import few, require
from editkit.testing.samples import RECORDS, random_edits
from editkit.testing.scoring import ScoringContract
from editkit.testing.state import differences, state_of

__all__ = ["ModelMetricContract"]

_BROKEN = 1e38  # its products overflow in float32


class ModelMetricContract(ScoringContract):
    """The rules for a metric of models; a subclass names it: ``plugin = "mine"``."""

    kind = "model_metric"
    base = ModelMetric

    @override
    def work(self, model: LanguageModel) -> list[MetricRow]:
        return self.score(model, random_edits(model, RECORDS))

    def score(
        self,
        model: LanguageModel,
        edits: Sequence[WeightDelta],
        metric: ModelMetric[Any] | None = None,
    ) -> list[MetricRow]:
        """Prepare and score as a benchmark does; a row per edited model."""
        metric = metric or self.make()
        metric.prepare(model)
        rows: list[MetricRow] = metric.score(EditedModels(model, edits))
        require(
            isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows),
            f"score() returned {rows!r:.80}, expected a list of mappings.",
        )
        require(
            len(rows) == len(edits),
            f"score() returned {len(rows)} rows for {len(edits)} edited models.",
        )
        return rows

    # ------------------------------------------------------------ rows

    def test_one_row_per_model(self) -> None:
        """score() returns one row per edited model: declared scores as numbers, the rest as lists.

        A number under an undeclared key is lost; declare it, or return a list. A list has
        numbers, or texts.
        """
        for row in self.work(self.make_model()):
            self._require_sound(row)

    def test_every_score_is_in_every_row(self) -> None:
        """Every row has every declared score.

        Spell keys as in the spec. A model always has a score, whatever was edited.
        """
        model = self.make_model()
        for row in (*self.work(model), *self.score(model, [_unedited(model)])):
            missing = [key for key in self.scores() if key not in row]
            require(not missing, f"a row has no {few(missing)}.")

    def test_numbers_are_in_range(self) -> None:
        """No score is part of the summary, and only signed scores are negative.

        The summary is a mean over records. Mark a score that may be negative as signed. A score
        with the scale 100 is a fraction, unless it has bounds of its own.
        """
        model = self.make_model()
        for key, score in self.scores().items():
            require(not score.summary, f"{key} is in the summary.")
            for row in (*self.work(model), *self.score(model, [_unedited(model)])):
                value = row.get(key, 0.0)
                require(
                    score.signed or (isinstance(value, (int, float)) and value >= 0),
                    f"{key} is {value}, but not signed.",
                )
                if isinstance(value, (int, float)):
                    self._require_within_bounds(score, value)

    def test_no_models_no_rows(self) -> None:
        """score() returns an empty list for no edited models.

        Return [] before anything is stacked or averaged.
        """
        rows = self.score(self.make_model(), [])
        require(rows == [], f"score() returned {rows!r}, expected [].")

    # ------------------------------------------------------------ edits

    def test_each_model_sees_its_own_edit(self) -> None:
        """Row i measures edited model i: alone, together, in any order.

        Give each query the number of its own edit.
        """
        model = self.make_model()
        edits = random_edits(model, RECORDS)
        together = self.score(model, edits)
        alone = [self.score(model, [edit])[0] for edit in edits]
        self._require_close(alone, together, "alone and together")
        backwards = self.score(model, edits[::-1])[::-1]
        self._require_close(together, backwards, "in this order and in reverse")

    def test_no_edit_is_no_edit(self) -> None:
        """An edit that adds zeros scores the same as the unedited model, each time.

        Compare with the unedited model, and leave out what a delta names but does not change.
        """
        model, metric = self.make_model(), self.make()
        zeros = [_scaled(edit, 0.0) for edit in random_edits(model, RECORDS)]
        unedited = self.score(model, [_unedited(model)] * len(zeros), metric)
        again = self.score(model, [_unedited(model)] * len(zeros), metric)
        self._require_close(unedited, again, "unedited, scored twice")
        self._require_close(
            unedited, self.score(model, zeros, metric), "unedited and with zeros added"
        )

    def test_every_kind_of_change(self) -> None:
        """The same edit as low-rank, row or dense changes scores the same; any weight may change.

        Ask the edited models, or use change.dense(): editors return changes of every kind, and
        joint edits change several layers.
        """
        model = self.make_model()
        [low_rank, rows, dense] = _in_every_form(model)
        together = self.score(model, [low_rank, rows, dense])
        for other, how in ((1, "rows"), (2, "dense changes")):
            self._require_close(
                together[:1], [together[other]], f"as low-rank changes and as {how}"
            )
        [everywhere] = self.score(model, [_of_several_layers(model)])
        self._require_sound(everywhere)

    def test_broken_models_have_scores(self) -> None:
        """A model that an edit broke, so that it computes inf or nan, has finite scores.

        Bound what overflows, and give NaN the worst value: collapsed models are what such
        metrics are for.
        """
        model = self.make_model()
        broken = [_scaled(edit, _BROKEN) for edit in random_edits(model, RECORDS)[:1]]
        [row, intact] = self.score(model, [*broken, _unedited(model)])
        self._require_sound(row)
        self._require_close(
            [intact], self.score(model, [_unedited(model)]), "next to a broken model and alone"
        )

    # ------------------------------------------------------------ the unedited model

    def test_prepare_can_be_repeated(self) -> None:
        """prepare() does not change the model, and repeating it changes nothing.

        Do not accumulate what prepare() measures.
        """
        model, metric = self.make_model(), self.make()
        before = state_of(model)
        metric.prepare(model)
        metric.prepare(model)
        changed = differences(before, state_of(model))
        require(not changed, f"prepare() changed {few(changed)}.")
        edits = random_edits(model, RECORDS)
        again = self.score(model, edits, metric)
        self._require_close(self.work(model), again, "prepared once and three times", tolerance=0.0)

    def test_models_are_not_mixed_up(self) -> None:
        """What prepare() measured of one model is not used for another.

        Keep it under model.fingerprint, which also changes when edits are applied.
        """
        model, metric = self.make_model(), self.make()
        metric.prepare(self.make_model(seed=1))
        again = self.score(model, random_edits(model, RECORDS), metric)
        self._require_close(self.work(model), again, "with and without another model before it")

    # ------------------------------------------------------------ kinds of models

    def test_every_architecture(self) -> None:
        """Every architecture is scored, with and without a start token, also in bfloat16.

        Use EditedModels and model.encode, which handle the differences.
        """
        variants: list[dict[str, Any]] = [{"begin": True}, {"dtype": torch.bfloat16}]
        models = [self.make_model(architecture) for architecture in self.architectures]
        for model in (*models, *(self.make_model(**variant) for variant in variants)):
            for row in (*self.work(model), *self.score(model, [_unedited(model)])):
                self._require_sound(row)


def _unedited(model: LanguageModel) -> WeightDelta:
    return WeightDelta({}, None, "none", {}, model.fingerprint)


def _scaled(delta: WeightDelta, factor: float) -> WeightDelta:
    changes = {
        name: LowRank(change.left, factor * change.right)
        for name, change in delta.changes.items()
        if isinstance(change, LowRank)
    }
    return dataclasses.replace(delta, changes=changes)


def _in_every_form(model: LanguageModel) -> list[WeightDelta]:
    """One edit, which changes two rows of a weight, in three forms."""
    [edit, *_] = random_edits(model, RECORDS)
    [(name, change)] = edit.changes.items()
    inner, hidden = change.shape
    indices = torch.tensor([1, inner - 1])
    values = change.dense().norm() * torch.eye(2, hidden)  # (2, out)
    left = torch.zeros(inner, 2).index_put((indices, torch.arange(2)), torch.tensor(1.0))
    forms: list[Change] = [
        LowRank(left, values), Rows(indices, values, inner), Dense(left @ values),
    ]  # fmt: skip
    return [dataclasses.replace(edit, changes={name: form}) for form in forms]


def _of_several_layers(model: LanguageModel) -> WeightDelta:
    """A joint edit of two layers and the token embeddings, which are not a linear module."""
    edits = random_edits(model, RECORDS)
    [change] = edits[0].changes.values()
    embeddings: Tensor = model.hf.get_input_embeddings().weight
    name = next(name for name, each in model.hf.named_parameters() if each is embeddings)
    rows, width = embeddings.shape
    generator = torch.Generator().manual_seed(0)
    pushed = Rows(torch.tensor([5]), torch.randn(1, width, generator=generator), rows)
    changes: dict[str, Change] = {
        f"{model.path(layer, 'mlp_out')}.weight": change for layer in (0, model.n_layers - 1)
    }
    return dataclasses.replace(
        edits[0],
        changes={**changes, name: pushed},
        request=tuple(record.request for record in RECORDS),
    )
