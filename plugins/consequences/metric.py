"""The metric ``consequences``: tests of what follows from an edit, answered in the model's words.

For a record with the tests T_g of each group g, asked of the edited model f and the unedited f_0::

    E_g                 = {t in T_g: f_0 answers all conditions of t}
    GROUP               = share of E_g that f passes
    GROUP_before        = share of E_g that f_0 passes
    GROUP_changed       = share of the questions of E_g that f and f_0 answer differently
    all, kept           = mean of GROUP over the groups with answers that must change, must stay
    GROUP_executed      = |E_g| / |T_g|
    executed            = sum over g of |E_g| / sum over g of |T_g|

A test passes if any, or all, of its questions are answered right; an answer is a greedy text up to
its end (:mod:`editkit.editing.open_questions`). Cohen et al. (2024, arXiv 2307.12976) introduced
conditions and most groups.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from itertools import compress
from statistics import fmean

from editkit import Consequence, EditedModels, Metric, MetricRow, OpenQuestion, Record
from editkit.editing.open_questions import Outcome, free_answers, outcomes, passes
from editkit.editing.stops import Stop
from editkit.matching import normalised
from editkit_plugins.consequences.config import ConsequencesConfig

_Row = dict[str, float | list[float] | list[str]]
_Tests = Mapping[str, Sequence[Consequence]]
_log = logging.getLogger(__name__)


class Consequences(Metric[ConsequencesConfig]):
    """Shares of passed tests by group, after and before the edit."""

    def __init__(self, config: ConsequencesConfig) -> None:
        super().__init__(config)
        self._stop = Stop(config.stop, config.tokens)
        self._groups = (*config.changing_groups, *config.kept_groups)
        self._unknown: set[str] = set()

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Scores of each record.

        As details, for each group: 1 for each test with all conditions met, and 0 for the others; 1
        for each executed test that is passed, before and after the edit; and the questions with the
        answers.
        """
        tests = [self._tests(record) for record in records]
        after = outcomes(models, tests, match=self.config.match, stop=self._stop)
        before = outcomes(models.unedited(), tests, match=self.config.match, stop=self._stop)
        asked = [number for number, groups in enumerate(tests) if groups]
        edited = self._edited(models, {number: records[number] for number in asked})
        rows: list[MetricRow] = [{} for _ in records]
        for number in asked:
            rows[number] = self._row(tests[number], before[number], after[number], edited[number])
        return rows

    def _tests(self, record: Record) -> dict[str, tuple[Consequence, ...]]:
        """A record's tests by group, as they are asked; without groups that are not scored."""
        unknown = {*record.consequences} - {*self._groups} - self._unknown
        if unknown:
            self._unknown |= unknown
            _log.warning(
                "tests of the groups %s are not scored; list them in the metric's 'changing' or "
                "'kept'",
                ", ".join(sorted(unknown)),
            )
        return {
            name: tuple(map(self._as_asked, tests))
            for name, tests in record.consequences.items()
            if tests and name in self._groups
        }

    def _as_asked(self, test: Consequence) -> Consequence:
        if self.config.frame == "record":
            return test
        questions, conditions = (
            tuple(dataclasses.replace(each, chat=True) for each in asked)
            for asked in (test.questions, test.conditions)
        )
        return dataclasses.replace(test, questions=questions, conditions=conditions)

    def _edited(self, models: EditedModels, records: Mapping[int, Record]) -> dict[int, bool]:
        """Whether each edited model answers all of its record's edits with the new object."""
        asked = [
            (
                number,
                OpenQuestion(
                    request.sentence,
                    (record.spellings(request.target_new),),
                    chat=request.chat or self.config.frame == "chat",
                ),
            )
            for number, record in records.items()
            for request in record.requests
        ]
        edited = dict.fromkeys(records, True)
        texts = free_answers(models, asked, self._stop)
        for (number, question), text in zip(asked, texts, strict=True):
            edited[number] &= passes(text, question, self.config.match)
        return edited

    def _row(
        self,
        tests: _Tests,
        before: Mapping[str, Sequence[Outcome]],
        after: Mapping[str, Sequence[Outcome]],
        edited: bool,
    ) -> _Row:
        """Scores and details of one record."""
        scores: dict[str, float] = {}
        shares: dict[str, float] = {}
        details: dict[str, list[float] | list[str]] = {}
        n_executed = 0
        for name, group in tests.items():
            is_executed = [each.passed is not None for each in after[name]]
            details[f"{name}_conditions_met"] = [float(each) for each in is_executed]
            shares[f"{name}_executed"] = fmean(is_executed)
            executed = list(
                compress(zip(group, before[name], after[name], strict=True), is_executed)
            )
            if not executed:
                continue
            n_executed += len(executed)
            passed = [float(bool(new.passed)) for _, _, new in executed]
            passed_before = [float(bool(old.passed)) for _, old, _ in executed]
            details[f"{name}_passed"], details[f"{name}_passed_before"] = passed, passed_before
            details[f"{name}_answers"] = [
                f"{question.prompt} {text}"
                for test, _, new in executed
                for question, text in zip(test.questions, new.texts, strict=True)
            ]
            scores[name], scores[f"{name}_before"] = fmean(passed), fmean(passed_before)
            if name in self.config.kept_groups:
                differs = [
                    float(normalised(one) != normalised(other))
                    for _, old, new in executed
                    for one, other in zip(old.texts, new.texts, strict=True)
                ]
                details[f"{name}_differs"], scores[f"{name}_changed"] = differs, fmean(differs)
        if self.config.only_successful_edits and not edited:
            scores = {}
        scores |= self._means(scores)
        shares["executed"] = n_executed / sum(map(len, tests.values()))
        shares["edited"] = float(edited)
        row: _Row = {**scores, **shares, **details}
        return {f"consequences/{key}": value for key, value in row.items()}

    def _means(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Means over the groups that must change, and over those that must stay."""
        kept = [("kept", self.config.kept_groups, end) for end in ("", "_before", "_changed")]
        changing = [("all", self.config.changing_groups, end) for end in ("", "_before")]
        values = {
            f"{name}{end}": [scores[key] for group in groups if (key := f"{group}{end}") in scores]
            for name, groups, end in (*changing, *kept)
        }
        return {key: fmean(shares) for key, shares in values.items() if shares}
