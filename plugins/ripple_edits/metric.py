"""RippleEdits' scores: how many tests of a criterion the edited model passes.

For the tests T of one criterion of one example (Cohen et al. 2024, section 3)::

    executed = tests whose conditions the unedited model f0 meets
    score    = |executed tests that the edited model f passes| / |executed|

A query is answered right if, for every answer wanted, one of its spellings is in the model's greedy
text; a test passes if any (OR) or all (AND) of its queries are answered right. Examples in which f
does not give the new object at the edit's own prompt, and criteria with nothing executed, have no
score. A criterion's score is the mean over the remaining examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from editkit import Consequence, EditedModels, Metric, MetricRow, OpenQuestion, Record
from editkit.editing.generation import text_after
from editkit.editing.greedy import greedy_continuations
from editkit.editing.open_questions import Outcome, outcomes_with
from editkit.editing.queries import GenerationQuery
from editkit.editing.stops import Stop
from editkit.matching import MATCHES
from editkit_plugins.ripple_edits import CRITERIA
from editkit_plugins.ripple_edits.config import RippleEditsMetricConfig

_EDIT = "the edit itself"
_BUCKET = 32  # tokens; texts of similar lengths are written together


class RippleEdits(Metric[RippleEditsMetricConfig]):
    """Six criteria, the share of executed tests, and whether the edit itself succeeded."""

    def __init__(self, config: RippleEditsMetricConfig) -> None:
        super().__init__(config)
        self._known: dict[tuple[object, ...], str] = {}  # what unedited models write

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record that has tests.

        As details: a 1 for each executed test that passed and a 0 for each other (``..._passed``),
        and the texts (``..._texts``).
        """
        tests = [_tests(record) for record in records]
        edited = outcomes_with(models, tests, ask=self._ask, right=self._right)
        edits = [{_EDIT: groups[_EDIT]} if groups else {} for groups in tests]
        before = outcomes_with(models.unedited(), edits, ask=self._ask, right=self._right)
        return [self._row(*each) for each in zip(edited, before, strict=True)]

    def _row(
        self, edited: Mapping[str, list[Outcome]], before: Mapping[str, list[Outcome]]
    ) -> MetricRow:
        if not edited:
            return {}
        success = all(each.passed for each in edited[_EDIT])
        row: dict[str, float | list[float] | list[str]] = {
            "ripple_edits/edit": float(success),
            "ripple_edits/edit_before": float(all(each.passed for each in before[_EDIT])),
            "ripple_edits/edit_texts": [text for each in edited[_EDIT] for text in each.texts],
        }
        shares = []
        for group in CRITERIA:
            done = edited.get(group, [])
            if not done:
                continue
            passed = [float(each.passed) for each in done if each.passed is not None]
            shares += [float(each.passed is not None) for each in done]
            key = f"ripple_edits/{group}"
            row[f"{key}_executed"] = len(passed) / len(done)
            if not passed:
                continue
            row[f"{key}_passed"] = passed
            row[f"{key}_texts"] = [text for each in done for text in each.texts]
            if success or self.config.failed_edits == "counted":
                row[key] = fmean(passed)
        row["ripple_edits/executed"] = fmean(shares)
        return row

    def _ask(
        self, models: EditedModels, questions: Sequence[tuple[int, OpenQuestion]]
    ) -> list[str]:
        """What the models write, with the prompt or without it.

        Every editor of a run is compared with the same unedited model, which answers each question
        once.
        """
        if any(delta.changes or delta.context for delta in models.deltas):
            return self._written(models, questions)
        model = models.model
        identity = (model.fingerprint, model.dtype, model.device)
        new = {each: (0, each) for _, each in questions if (*identity, each) not in self._known}
        for each, text in zip(new, self._written(models, list(new.values())), strict=True):
            self._known[(*identity, each)] = text
        return [self._known[(*identity, each)] for _, each in questions]

    def _written(
        self, models: EditedModels, questions: Sequence[tuple[int, OpenQuestion]]
    ) -> list[str]:
        limits = [self._limit(models, *each) for each in questions]
        texts = [""] * len(questions)
        for longest in sorted({_rounded(limit) for limit in limits}):
            chosen = [i for i, limit in enumerate(limits) if _rounded(limit) == longest]
            queries = [
                GenerationQuery(edit, question.prompt, chat=question.chat)
                for edit, question in map(questions.__getitem__, chosen)
            ]
            stop = None if self.config.stop == "end" else Stop(self.config.stop, longest)
            written = greedy_continuations(models, queries, new_tokens=longest, stop=stop)
            for i, query, continuation in zip(chosen, queries, written, strict=True):
                text = continuation.text
                if len(continuation.ids) > limits[i]:
                    before = () if query.chat else models.prompt(query).ids
                    ids = continuation.ids[: limits[i]]
                    text = text_after(models.model.tokenizer, before, ids)
                    text = text if stop is None else stop.cut(text)
                texts[i] = text if self.config.text == "continuation" else _whole(query, text)
        return texts

    def _limit(self, models: EditedModels, edit: int, question: OpenQuestion) -> int:
        """Most new tokens of an answer."""
        if self.config.length == "fixed":
            return self.config.extra
        query = GenerationQuery(edit, question.prompt, chat=question.chat)
        asked = models.in_context(edit, question.prompt)
        n_characters = len(models.model.rendered(asked, chat=question.chat).text)
        return max(1, n_characters + self.config.extra - len(models.prompt(query).ids))

    def _right(self, text: str, question: OpenQuestion) -> bool:
        return all(self._gives(text, spellings) for spellings in question.answers)

    def _gives(self, text: str, spellings: Sequence[str]) -> bool:
        if self.config.letters == "dropped":
            spellings = [each for each in spellings if len(each) > 1 or each.isdigit()]
        if self.config.match == "substring":
            return any(spelling in text for spelling in spellings)
        return MATCHES[self.config.match](text, spellings)


def _tests(record: Record) -> dict[str, tuple[Consequence, ...]]:
    """The record's tests by criterion, and its edits as tests; empty if there are none."""
    groups = {group: record.consequences.get(group, ()) for group in CRITERIA}
    if not any(groups.values()):
        return {}
    edits = tuple(
        Consequence((OpenQuestion(each.sentence, (record.spellings(each.target_new),), each.chat),))
        for each in record.requests
    )
    return {_EDIT: edits, **groups}


def _rounded(limit: int) -> int:
    return -(-limit // _BUCKET) * _BUCKET


def _whole(query: GenerationQuery, text: str) -> str:
    """Prompt and continuation as one text; in a chat, they are two turns."""
    return f"{query.prompt}\n{text}" if query.chat else query.prompt + text
