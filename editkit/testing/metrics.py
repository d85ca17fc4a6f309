"""The rules that every metric keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from typing_extensions import override

from editkit.data_types import EditRequest, Probe, Record
from editkit.editing.deltas import LowRank, WeightDelta
from editkit.editing.edited_models import CandidateQuery, CandidateScore, EditedModels
from editkit.errors import EditkitError
from editkit.interfaces import Metric, MetricRow
from editkit.models.language_model import LanguageModel
from editkit.testing.contract import ContractError, require
from editkit.testing.model_contract import UNICODE
from editkit.testing.samples import RECORDS, random_edits
from editkit.testing.scoring import ScoringContract

__all__ = ["MetricContract"]


class _Recording(EditedModels):
    """Edited models that note what they are asked."""

    def __init__(self, model: LanguageModel, deltas: Sequence[WeightDelta]) -> None:
        super().__init__(model, deltas)
        self.asked: set[CandidateQuery] = set()

    @override
    def candidate_scores(self, queries: Sequence[CandidateQuery]) -> list[list[CandidateScore]]:
        self.asked.update(queries)
        return super().candidate_scores(queries)


class MetricContract(ScoringContract):
    """The rules for a metric; a subclass names it: ``plugin = "mine"``.

    Attributes:
        records: Records to score; at least two, with the prompts that the metric needs.
        needs_prompts: Whether a record without prompts and texts has no scores.
    """

    kind = "metric"
    base = Metric

    records: Sequence[Record] = RECORDS
    needs_prompts: bool = True

    @override
    def work(self, model: LanguageModel) -> list[MetricRow]:
        return self.score(model, self.records)

    def score(
        self,
        model: LanguageModel,
        records: Sequence[Record],
        edits: Sequence[WeightDelta] | None = None,
    ) -> list[MetricRow]:
        """Build the metric and score, under random edits or those given; a row per record."""
        edits = random_edits(model, records) if edits is None else edits
        metric = self.make()
        metric.prepare(self.corpora())
        rows: list[MetricRow] = metric.score(EditedModels(model, edits), records)
        require(
            isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows),
            f"score() returned {rows!r:.80}, expected a list of mappings.",
        )
        require(
            len(rows) == len(records),
            f"score() returned {len(rows)} rows for {len(records)} records.",
        )
        return rows

    def corpora(self) -> dict[str, tuple[str, ...]]:
        """The dataset's texts by kind: those of all the suite's records."""
        kinds = {kind for record in self.records for kind in record.texts}
        return {
            kind: tuple(text for record in self.records for text in record.texts.get(kind, ()))
            for kind in sorted(kinds)
        }

    # ------------------------------------------------------------ rows

    def test_one_row_per_record(self) -> None:
        """score() returns one row per record: declared scores as numbers, everything else as lists.

        A number under an undeclared key is lost; declare it, or return a list. A list has
        numbers, or texts that the edited model wrote.
        """
        for row in self.work(self.make_model()):
            self._require_sound(row)

    def test_declared_scores_appear(self) -> None:
        """Every declared score is present for records that have its prompts.

        Spell keys as in the spec; set `records` of the suite if the metric needs others.
        """
        keys = {key for row in self.work(self.make_model()) for key in row}
        missing = [key for key in self.scores() if key not in keys]
        require(not missing, f"no record has {', '.join(missing)}.")

    def test_numbers_are_in_range(self) -> None:
        """Summary scores are between 0 and 1, and only signed scores are negative.

        The summary is a harmonic mean of fractions. Mark a score that may be negative as
        signed. A score with the scale 100 is a fraction, unless it has bounds of its own.
        """
        model = self.make_model()
        scores = self.scores()
        for row in (*self.work(model), *self.score(model, self.records, _no_edits(model, self))):
            for key, value in row.items():
                score = scores.get(key)
                if score is None or not isinstance(value, (int, float)):
                    continue
                require(score.signed or value >= 0, f"{key} is {value}, but not signed.")
                require(
                    not score.summary or value <= 1,
                    f"{key} is {value}, but in the summary.",
                )
                self._require_within_bounds(score, value)

    def test_no_records_no_rows(self) -> None:
        """score() returns an empty list for no records.

        Return [] before anything is stacked or averaged.
        """
        rows = self.score(self.make_model(), [])
        require(rows == [], f"score() returned {rows!r}, expected [].")

    def test_records_without_prompts(self) -> None:
        """A record without the prompts has no scores, and does not change other records.

        Omit a score from the row if it cannot be computed; do not return 0 or nan.
        """
        model = self.make_model()
        first, *others = self.records
        bare = Record(first.case_id, first.request)
        rows = self.score(model, [bare, *others])
        for row in rows:
            self._require_sound(row)
        for row in (rows[0], *self.score(model, [bare])):
            keys = [key for key in self.scores() if key in row]
            require(
                not (self.needs_prompts and keys),
                f"a record without prompts and texts has {', '.join(keys)}; set "
                "`needs_prompts = False` if the request alone is enough.",
            )
        how = "with and without a record without prompts"
        self._require_close(self.score(model, others), rows[1:], how)

    def test_announced_queries_are_asked(self) -> None:
        """queries() announces only what score() asks, of the edited model that it is given.

        Build both from one function; without queries(), nothing is announced.
        """
        model, metric = self.make_model(), self.make()
        metric.prepare(self.corpora())
        models = _Recording(model, random_edits(model, self.records))
        metric.score(models, self.records)
        for edit, record in enumerate(self.records):
            for query in metric.queries(edit, record):
                require(
                    query.edit == edit,
                    f"queries({edit}, record) asks edited model {query.edit}.",
                )
                require(
                    query in models.asked,
                    f"queries({edit}, record) has {query!r:.120}, which score() does not ask.",
                )

    # ------------------------------------------------------------ edits and records

    def test_each_record_sees_its_own_edit(self) -> None:
        """Row i measures edited model i on record i: alone, together, in any order.

        Give each query the number of its own edit.
        """
        model = self.make_model()
        together = self.work(model)
        alone = [self.score(model, [record])[0] for record in self.records]
        self._require_close(alone, together, "alone and together")
        backwards = self.score(model, self.records[::-1])[::-1]
        self._require_close(together, backwards, "in this order and in reverse")

    def test_no_edit_is_no_edit(self) -> None:
        """An edit that adds zeros scores the same as the unedited model.

        Query the edited models for everything; do not look at what a delta contains.
        """
        model = self.make_model()
        zeros = [
            dataclasses.replace(
                edit,
                changes={
                    name: LowRank(torch.zeros(change.shape[0], 1), torch.zeros(1, change.shape[1]))
                    for name, change in edit.changes.items()
                },
            )
            for edit in random_edits(model, self.records)
        ]
        self._require_close(
            self.score(model, self.records, _no_edits(model, self)),
            self.score(model, self.records, zeros),
            "unedited and with zeros added",
        )

    # ------------------------------------------------------------ kinds of models and records

    def test_every_architecture(self) -> None:
        """Every architecture is scored, with and without a start token, also in bfloat16.

        Use EditedModels and model.encode, which handle the differences.
        """
        variants: list[dict[str, Any]] = [{"begin": True}, {"dtype": torch.bfloat16}]
        models = [self.make_model(architecture) for architecture in self.architectures]
        for model in (*models, *(self.make_model(**variant) for variant in variants)):
            for row in self.work(model):
                self._require_sound(row)

    def test_separators_and_chats(self) -> None:
        """The separator between prompt and answer, and a chat around them, change the scores.

        Pass probe.separator and probe.chat to each CandidateQuery. This does not apply if
        the scores do not depend on the answers of probes.
        """
        model = self.make_model()
        usual = self.work(model)

        def changes(**values: Any) -> bool:
            rows = self.score(model, [_probed(each, **values) for each in self.records])
            return self.distance(usual, rows) > 0

        if changes(target_new="Microsoft Rome", target_true="Windows France"):
            require(changes(separator="\n"), "the separator of a probe makes no difference.")
            require(changes(chat=True), "a chat around a probe makes no difference.")

    def test_unicode(self) -> None:
        """Records in any script can be scored.

        Find tokens by the characters that they cover, never by decoding single tokens.
        """
        model = self.make_model()
        for text in UNICODE:
            try:
                [row] = self.score(model, [_in_another_script(self.records[0], text)])
            except EditkitError as error:
                raise ContractError(f"the subject {text!r} is refused: {error}") from error
            self._require_sound(row)


def _no_edits(model: LanguageModel, suite: MetricContract) -> list[WeightDelta]:
    return [dataclasses.replace(edit, changes={}) for edit in random_edits(model, suite.records)]


def _probed(record: Record, **values: Any) -> Record:
    """The record with these values in all of its probes."""
    probes = {
        kind: tuple(dataclasses.replace(probe, **values) for probe in of_kind)
        for kind, of_kind in record.probes.items()
    }
    return dataclasses.replace(record, probes=probes)


def _in_another_script(record: Record, text: str) -> Record:
    """The record with a text in another script as its subject and as every answer."""
    subject = record.request.subject

    def filled(sentence: str) -> str:
        return sentence.replace(subject, text)

    request = record.request
    return Record(
        record.case_id,
        EditRequest(request.prompt, text, text, request.target_true),
        probes={
            kind: tuple(Probe(filled(probe.prompt), probe.target_true, text) for probe in probes)
            for kind, probes in record.probes.items()
        },
        texts={kind: tuple(map(filled, texts)) for kind, texts in record.texts.items()},
    )
