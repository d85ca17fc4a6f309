"""KnowEdit's scores: agreement of predicted tokens, with answers or with the unedited model.

For a prompt x and an answer y_1 ... y_n, with teacher forcing (Zhang et al. 2024, section 4)::

    g_f(x, y)_i  = argmax p_f(. | x, y_1 ... y_(i-1))
    a(f; x, y)   = mean over i of [g_f(x, y)_i = y_i]
    u(f; x, y)   = mean over i of [g_f(x, y)_i = g_f0(x, y)_i]

Edit success, rephrase and portability are means of a under the edited model f; locality is a mean
of u, for which the answer y only sets the length and the earlier tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean

from editkit import EditedModels, Metric, MetricRow, Record
from editkit.editing.edited_models import CandidateQuery
from editkit.editing.next_tokens import NextTokenQuery, forced_steps, most_likely_tokens
from editkit_plugins.knowedit import LOCALITY, PORTABILITY
from editkit_plugins.knowedit.config import KnowEditMetricConfig

_EDIT = {"edit": "rewrite", "rephrase": "paraphrase"}
"""Score -> kind of probes."""


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A prompt with the answers that are forced after it.

    Attributes:
        score: The score that it belongs to.
        query: The prompt; its candidates are spellings of one answer.
    """

    score: str
    query: CandidateQuery


class KnowEdit(Metric[KnowEditMetricConfig]):
    """Edit success, rephrase, portability and locality."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record; as details, one number per prompt (``..._prompts``)."""
        asked = [each for edit, record in enumerate(records) for each in self._asked(edit, record)]
        steps = [forced_steps(models, each.query) for each in asked]
        predicted = _predicted(models, steps)
        kept = [i for i, each in enumerate(asked) if each.score in LOCALITY]
        unedited = models.unedited()
        before = dict(
            zip(
                kept,
                _predicted(unedited, [forced_steps(unedited, asked[i].query) for i in kept]),
                strict=True,
            )
        )
        by_record: list[dict[str, list[float]]] = [{} for _ in records]
        for i, each in enumerate(asked):
            wanted = before.get(i) or [[token for _, token in answer] for answer in steps[i]]
            agreement = max(
                self._agreement(*pair) for pair in zip(predicted[i], wanted, strict=True)
            )
            by_record[each.query.edit].setdefault(each.score, []).append(agreement)
        return [_row(scores) for scores in by_record]

    def _asked(self, edit: int, record: Record) -> list[_Asked]:
        probes = [
            _Asked(score, CandidateQuery(edit, p.prompt, (p.target_new,), p.separator, p.chat))
            for score, kind in _EDIT.items()
            for p in record.probes.get(kind, ())
        ]
        questions = [
            (group, question)
            for group in (*PORTABILITY, *LOCALITY)
            for test in record.consequences.get(group, ())
            for question in test.questions
        ]
        for group, question in questions:
            [spellings, *_] = question.answers
            if self.config.spellings == "first" or group in LOCALITY:
                spellings = spellings[:1]
            separator = record.request.separator
            query = CandidateQuery(edit, question.prompt, spellings, separator, question.chat)
            probes.append(_Asked(group, query))
        return probes

    def _agreement(self, predicted: Sequence[int], wanted: Sequence[int]) -> float:
        same = [float(a == b) for a, b in zip(predicted, wanted, strict=True)]
        return fmean(same) if self.config.credit == "tokens" else min(same)


def _predicted(
    models: EditedModels, steps: Sequence[Sequence[Sequence[tuple[NextTokenQuery, int]]]]
) -> list[list[list[int]]]:
    """The predicted tokens of each answer of each prompt."""
    queries = [query for answers in steps for answer in answers for query, _ in answer]
    tokens = iter(most_likely_tokens(models, queries))
    return [[[next(tokens) for _ in answer] for answer in answers] for answers in steps]


def _row(scores: dict[str, list[float]]) -> MetricRow:
    means = {score: fmean(each) for score, each in scores.items()}
    for name, groups in (("portability", PORTABILITY), ("locality", LOCALITY)):
        available = [means[group] for group in groups if group in means]
        if available:
            means[name] = fmean(available)
    return {f"knowedit/{score}": mean for score, mean in means.items()} | {
        f"knowedit/{score}_prompts": each for score, each in scores.items()
    }
