"""Metrics of models that break one rule each."""

from __future__ import annotations

import dataclasses
from typing import Any

from editkit import EditedModels, LanguageModel, Score
from tests.editkit.testing.in_process_plugins import MODEL_SCORES, Broken, collector
from tests.editkit.testing.sound_plugins import SoundModelMetric

_SUMMARY = (dataclasses.replace(MODEL_SCORES[0], summary=True), MODEL_SCORES[1])
_UNSIGNED = tuple(dataclasses.replace(score, signed=False) for score in MODEL_SCORES)
CASES: list[Broken] = [
    Broken("model_metric", "test_protocol_is_named", "empty", "protocol is ''", {"protocol": ""}),
    Broken("model_metric", "test_scores_are_declared", "none", "scores are []", {"scores": ()}),
    Broken(
        "model_metric", "test_every_score_is_in_every_row", "misspelt", "no guest/scroe",
        {"scores": (*MODEL_SCORES, Score("guest/scroe"))},
    ),
    Broken(
        "model_metric", "test_numbers_are_in_range", "summary", "in the summary",
        {"scores": _SUMMARY},
    ),
    Broken(
        "model_metric", "test_numbers_are_in_range", "unsigned", "but not signed",
        {"scores": _UNSIGNED},
    ),
]  # fmt: skip
breaks = collector("model_metric", CASES)


@breaks("one_row_per_model", "2 rows for 3 edited models")
class TooFew(SoundModelMetric):
    def score(self, models: EditedModels) -> list[Any]:
        return super().score(models)[:2]


@breaks("one_row_per_model", "expected a list of mappings")
class PlainNumbers(SoundModelMetric):
    def score(self, models: EditedModels) -> list[Any]:
        return self.nll(models)


@breaks("one_row_per_model", "not a declared")
class Undeclared(SoundModelMetric):
    def row(self, now: float, then: float) -> dict[str, Any]:
        return {**super().row(now, then), "guest/extra": now}


@breaks("every_score_is_in_every_row", "no guest/change")
class OnlyWhatChanged(SoundModelMetric):
    def row(self, now: float, then: float) -> dict[str, Any]:
        row = super().row(now, then)
        return row if row["guest/change"] else {"guest/score": row["guest/score"]}


@breaks("no_models_no_rows", "returned None")
class NoneForNone(SoundModelMetric):
    def score(self, models: EditedModels) -> Any:
        return super().score(models) or None


@breaks("each_model_sees_its_own_edit", "alone and together")
class FirstEditForAll(SoundModelMetric):
    def score(self, models: EditedModels) -> list[Any]:
        return super().score(EditedModels(models.model, models.deltas[:1] * len(models)))


@breaks("no_edit_is_no_edit", "with zeros added")
class LooksAtDeltas(SoundModelMetric):
    def score(self, models: EditedModels) -> list[Any]:
        rows = super().score(models)
        for delta, row in zip(models.deltas, rows, strict=True):
            row["guest/layers"] = [1.0 for _ in delta.changes]
        return rows


@breaks("no_edit_is_no_edit", "scored twice")
class AveragesOverCalls(SoundModelMetric):
    calls = 0

    def score(self, models: EditedModels) -> list[Any]:
        self.calls += 1
        return [{**row, "guest/score": row["guest/score"] + self.calls}
                for row in super().score(models)]  # fmt: skip


@breaks("every_kind_of_change", "AttributeError")
class OnlyLowRank(SoundModelMetric):
    def score(self, models: EditedModels) -> list[Any]:
        ranks = [change.left.shape[1] for delta in models.deltas
                 for change in delta.changes.values()]  # fmt: skip
        return [{**row, "guest/ranks": list(map(float, ranks))} for row in super().score(models)]


@breaks("every_kind_of_change", "as low-rank changes and as rows")
class NormsOfParts(SoundModelMetric):
    def score(self, models: EditedModels) -> list[Any]:
        rows = super().score(models)
        for delta, row in zip(models.deltas, rows, strict=True):
            tensors = [t for change in delta.changes.values() for t in change.tensors().values()]
            row["guest/score"] = float(sum(tensor.float().norm() for tensor in tensors))
        return rows


@breaks("broken_models_have_scores", "has nan")
class NotBounded(SoundModelMetric):
    def bounded(self, nats: float) -> float:
        return nats


@breaks("broken_models_have_scores", "next to a broken model and alone")
class RelativeToTheWorst(SoundModelMetric):
    def score(self, models: EditedModels) -> list[Any]:
        worst = max(self.nll(models), default=1.0)
        return [{**row, "guest/score": row["guest/nll"][0] / worst}
                for row in super().score(models)]  # fmt: skip


@breaks("prepare_can_be_repeated", "prepared once and three times")
class Accumulates(SoundModelMetric):
    def prepare(self, model: LanguageModel) -> None:
        earlier = self.before.get(self.key(model), 0.0)
        super().prepare(model)
        self.before[self.key(model)] += earlier


@breaks("prepare_can_be_repeated", "prepare() changed training mode of")
class LeavesTraining(SoundModelMetric):
    def prepare(self, model: LanguageModel) -> None:
        super().prepare(model)
        model.hf.train()


@breaks("models_are_not_mixed_up", "another model before it")
class RemembersTheFirst(SoundModelMetric):
    def prepare(self, model: LanguageModel) -> None:
        if not self.before:
            super().prepare(model)

    def key(self, model: LanguageModel) -> str:
        return "the model"


@breaks("every_architecture", "AttributeError")
class OnlyGpt2(SoundModelMetric):
    def prepare(self, model: LanguageModel) -> None:
        _ = model.hf.transformer
        super().prepare(model)
