"""Metrics that break one rule each."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from editkit import EditedModels, Probe, Record, RequestError, Score
from editkit.editing.edited_models import CandidateQuery
from tests.editkit.testing.in_process_plugins import SCORES, Broken, collector
from tests.editkit.testing.sound_plugins import SoundMetric

CASES: list[Broken] = [
    Broken("metric", "test_protocol_is_named", "empty", "protocol is ''", {"protocol": ""}),
    Broken("metric", "test_scores_are_declared", "none", "scores are []", {"scores": ()}),
    Broken("metric", "test_scores_are_declared", "twice", "scores are", {"scores": SCORES * 2}),
    Broken(
        "metric", "test_declared_scores_appear", "misspelt", "guest/scroe",
        {"scores": (*SCORES, Score("guest/scroe"))},
    ),
    Broken(
        "metric", "test_numbers_are_in_range", "unsigned", "but not signed",
        {"scores": tuple(dataclasses.replace(score, signed=False) for score in SCORES)},
    ),
]  # fmt: skip
breaks = collector("metric", CASES)

Records = Sequence[Record]


class _Changed(SoundMetric):
    """Changes the rows that have something in them."""

    def score(self, models: EditedModels, records: Records) -> list[Any]:
        rows = super().score(models, records)
        return [self.change(row) if row else row for row in rows]

    @abstractmethod
    def change(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row in its place."""


@breaks("one_row_per_record", "2 rows for 3 records")
class TooFew(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        return super().score(models, records)[:2]


@breaks("one_row_per_record", "expected a list of mappings")
class PlainNumbers(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        return [row.get("guest/score") for row in super().score(models, records)]


@breaks("one_row_per_record", "not a declared")
class Undeclared(_Changed):
    def change(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "guest/extra": 1.0}


@breaks("one_row_per_record", "it is a declared")
class ListForScore(_Changed):
    def change(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "guest/score": [1.0]}


@breaks("one_row_per_record", "Tensor")
class TensorForScore(_Changed):
    def change(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "guest/score": torch.tensor(0.5)}


@breaks("one_row_per_record", "has nan")
class NotFinite(_Changed):
    def change(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "guest/nll": [float("nan")]}


@breaks("numbers_are_in_range", "in the summary")
class Percent(_Changed):
    def change(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "guest/score": 1 + 100 * row["guest/score"]}


@breaks("numbers_are_in_range", "outside its bounds -1.0 and 1.0")
class OutOfBounds(_Changed):
    def change(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "guest/change": 7.5}


@breaks("no_records_no_rows", "returned None")
class NoneForNone(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> Any:
        return super().score(models, records) if records else None


@breaks("records_without_prompts", "ZeroDivisionError")
class Divides(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        for record in records:
            1 / len(record.probes.get("rewrite", ()))
        return super().score(models, records)


@breaks("records_without_prompts", "has nan")
class NanForNothing(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        rows = super().score(models, records)
        return [row or {"guest/score": float("nan")} for row in rows]


@breaks("records_without_prompts", "a record without prompts and texts has guest/score")
class ZeroForNothing(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        return [row or {"guest/score": 0.0} for row in super().score(models, records)]


@breaks("records_without_prompts", "without a record without prompts")
class Shifts(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        rows = super().score(models, records)
        return rows if all(rows) else [{}, *rows[:0:-1]]


class _Announces(SoundMetric):
    """Asks for what it should, whatever it announces."""

    def score(self, models: EditedModels, records: Records) -> list[Any]:
        return SoundMetric(self.config).score(models, records)


@breaks("announced_queries_are_asked", "which score() does not ask")
class AnnouncesMore(_Announces):
    def queries(self, edit: int, record: Record) -> list[CandidateQuery]:
        return [*super().queries(edit, record), CandidateQuery(edit, "Rome is", ("new",))]


@breaks("announced_queries_are_asked", "asks edited model 0")
class AnnouncesForTheFirst(_Announces):
    def queries(self, edit: int, record: Record) -> list[CandidateQuery]:
        return super().queries(0, record)


@breaks("each_record_sees_its_own_edit", "alone and together")
class FirstEditForAll(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        firsts = EditedModels(models.model, models.deltas[:1] * len(records))
        return super().score(firsts, records)


@breaks("each_record_sees_its_own_edit", "alone and together")
class AveragesTheBatch(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        rows = super().score(models, records)
        scores = [row["guest/score"] for row in rows if row]
        return [{**row, "guest/score": sum(scores) / len(scores)} if row else row for row in rows]


@breaks("no_edit_is_no_edit", "with zeros added")
class LooksAtDeltas(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        rows = super().score(models, records)
        for delta, row in zip(models.deltas, rows, strict=True):
            row.update({"guest/change": 1.0} if row and delta.changes else {})
        return rows


@breaks("every_architecture", "AttributeError")
class OnlyGpt2(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        _ = models.model.hf.transformer
        return super().score(models, records)


@breaks("every_architecture", "TypeError")
class ThroughNumpy(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        next(models.model.hf.parameters()).detach().numpy()
        return super().score(models, records)


@breaks("unicode", "is refused")
class OnlyAscii(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        if not all(record.request.target_new.isascii() for record in records):
            raise RequestError("no letters like these, please.")
        return super().score(models, records)


# ---------------------------------------------------------------- rules of all guests


@breaks("random_numbers_are_left_alone", "torch's random")
class Draws(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        torch.rand(1)
        return super().score(models, records)


@breaks("modules_and_hooks_are_restored", "hooks of")
class LeavesHook(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        models.model.block(0).register_forward_hook(lambda *_: None)
        return super().score(models, records)


@breaks("errors_leave_nothing_behind", "training mode of")
class ModeWithoutFinally(SoundMetric):
    def score(self, models: EditedModels, records: Records) -> list[Any]:
        model = models.model
        modes = [module.training for module in model.hf.modules()]
        model.hf.eval()
        models.candidate_nll([CandidateQuery(0, "The city", ("Rome",))] * bool(records))
        for module, mode in zip(model.hf.modules(), modes, strict=True):
            module.training = mode
        return super().score(models, records)


@breaks("separators_and_chats", "the separator of a probe makes no difference")
class PutsASpace(SoundMetric):
    def query(self, edit: int, probe: Probe) -> CandidateQuery:
        return dataclasses.replace(super().query(edit, probe), separator=" ")


@breaks("separators_and_chats", "a chat around a probe makes no difference")
class KnowsNoChat(SoundMetric):
    def query(self, edit: int, probe: Probe) -> CandidateQuery:
        return dataclasses.replace(super().query(edit, probe), chat=False)
