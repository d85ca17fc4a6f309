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

from editkit import (
    Consequence,
    EditedModels,
    LanguageModel,
    Metric,
    MetricRow,
    OpenQuestion,
    Record,
)
from editkit.editing.open_questions import Outcome, outcomes
from editkit.editing.stops import Stop
from editkit.matching import normalised
from editkit_plugins.consequences.config import ConsequencesConfig

_Row = dict[str, float | list[float] | list[str]]
_Tests = Mapping[str, Sequence[Consequence]]
_EDIT = "edited"
_log = logging.getLogger(__name__)


class Consequences(Metric[ConsequencesConfig]):
    """Shares of passed tests by group, after and before the edit."""

    def __init__(self, config: ConsequencesConfig) -> None:
        super().__init__(config)
        self._stop = Stop(config.stop, config.tokens)
        self._groups = (*config.changing_groups, *config.kept_groups)
        self._unknown: set[str] = set()

    def check(self, model: LanguageModel) -> None:
        """Refuse a model without a chat template if questions are asked in one."""
        if self.config.frame == "chat":
            _ = model.chat_template

    def check_records(self, records: Sequence[Record]) -> None:
        """Warn of groups of one's own that no record has, most likely misspelled."""
        present = {name for record in records for name in record.consequences}
        own = (*self.config.changing, *self.config.kept)
        absent = [name for name in own if name not in present]
        if absent:
            _log.warning(
                "no record of this run has tests of the group%s %s; the groups of its tests: %s",
                *("s" * (len(absent) > 1), ", ".join(absent)),
                ", ".join(sorted(present)) or "none",
            )

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Scores of each record.

        As details, for each group: 1 for each test with all conditions met, and 0 for the others; 1
        for each executed test that is passed, before and after the edit; and the questions with the
        answers.
        """
        tests = [self._tests(record) for record in records]
        after = outcomes(models, tests, match=self.config.match, stop=self._stop)
        before = outcomes(models.unedited(), tests, match=self.config.match, stop=self._stop)
        return [
            self._row(*of_record) if of_record[0] else {}
            for of_record in zip(tests, before, after, strict=True)
        ]

    def _tests(self, record: Record) -> dict[str, tuple[Consequence, ...]]:
        """A record's tests by group, as they are asked, and one of the edit itself.

        Groups that are not scored are left out, and a record without tests has none at all.
        """
        unknown = {*record.consequences} - {*self._groups} - self._unknown
        if unknown:
            self._unknown |= unknown
            _log.warning(
                "tests of the groups %s are not scored; list them in the metric's 'changing' or "
                "'kept'",
                ", ".join(sorted(unknown)),
            )
        scored = {
            name: tuple(map(self._as_asked, tests))
            for name, tests in record.consequences.items()
            if tests and name in self._groups
        }
        return {**scored, _EDIT: (self._as_asked(_of_edit(record)),)} if scored else {}

    def _as_asked(self, test: Consequence) -> Consequence:
        if self.config.frame == "prompt":
            return test
        questions, conditions = (
            tuple(dataclasses.replace(each, chat=True) for each in asked)
            for asked in (test.questions, test.conditions)
        )
        return dataclasses.replace(test, questions=questions, conditions=conditions)

    def _row(
        self,
        tests: _Tests,
        before: Mapping[str, Sequence[Outcome]],
        after: Mapping[str, Sequence[Outcome]],
    ) -> _Row:
        """Scores and details of one record."""
        [edit] = after[_EDIT]
        scores: dict[str, float] = {}
        shares: dict[str, float] = {}
        details: dict[str, list[float] | list[str]] = {}
        every: list[bool] = []
        for name, group in tests.items():
            if name == _EDIT:
                continue
            is_executed = [each.passed is not None for each in after[name]]
            details[f"{name}_conditions_met"] = [float(each) for each in is_executed]
            shares[f"{name}_executed"] = fmean(is_executed)
            every += is_executed
            executed = list(
                compress(zip(group, before[name], after[name], strict=True), is_executed)
            )
            if not executed:
                continue
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
        if self.config.only_successful_edits and not edit.passed:
            scores = {}
        scores |= self._means(scores)
        shares["executed"], shares["edited"] = fmean(every), float(bool(edit.passed))
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


def _of_edit(record: Record) -> Consequence:
    """A test of the edits themselves: each must be answered with the new object."""
    questions = tuple(
        OpenQuestion(request.sentence, (record.spellings(request.target_new),), chat=request.chat)
        for request in record.requests
    )
    return Consequence(questions, "all")
