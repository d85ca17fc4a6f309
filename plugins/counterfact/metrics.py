"""CounterFact's metrics: which of two answers does the edited model prefer, and by how much.

The probability of an answer is ``exp(-NLL)`` with the negative log likelihood averaged over the
answer's tokens (a geometric mean), as in the code behind the published tables of ROME (Meng et al.
2022). Ties are no success.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar, Literal, NamedTuple

from editkit import EditedModels, Metric, MetricRow, Probe, Record
from editkit.editing.edited import CandidateQuery
from editkit_plugins.counterfact.config import ChoiceConfig

ScoreRow = dict[str, float | list[float]]


class Choice(NamedTuple):
    """Mean negative log likelihood per token (nats) of the two answers to one prompt."""

    true: float
    new: float


def _query(edit: int, probe: Probe) -> CandidateQuery:
    """Asks an edited model how likely the true and the new answer are."""
    answers = (probe.target_true, probe.target_new)
    return CandidateQuery(edit, probe.prompt, answers, probe.separator, probe.chat)


class ChoiceMetric(Metric[ChoiceConfig]):
    """At how many prompts of one kind does the wanted answer win, and by what probability?"""

    kind: ClassVar[str]
    """The kind of probes that ask."""
    wanted: ClassVar[Literal["true", "new"]]
    """The answer that a good edit makes, or leaves, the more likely one."""
    prefix: ClassVar[str]
    """First part of the scores' keys; the registry sets ``name``, which may differ."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record, and the answers' NLL prompt by prompt as details."""
        return [self.row(choices) if choices else {} for choices in self.choices(models, records)]

    def row(self, choices: Sequence[Choice]) -> ScoreRow:
        """The scores and details of one record, from the choices at its prompts."""
        if self.wanted == "new":
            pairs = [(choice.new, choice.true) for choice in choices]
        else:
            pairs = [(choice.true, choice.new) for choice in choices]
        return {
            f"{self.prefix}/score": fmean(wanted < rival for wanted, rival in pairs),
            f"{self.prefix}/magnitude": fmean(
                math.exp(-wanted) - math.exp(-rival) for wanted, rival in pairs
            ),
            f"{self.prefix}/nll_true": [choice.true for choice in choices],
            f"{self.prefix}/nll_new": [choice.new for choice in choices],
        }

    def choices(self, models: EditedModels, records: Sequence[Record]) -> list[list[Choice]]:
        """For each record, the choices of its own edited model."""
        queries = [
            _query(edit, probe)
            for edit, record in enumerate(records)
            for probe in record.probes.get(self.kind, ())
        ]
        choices: list[list[Choice]] = [[] for _ in records]
        for query, (true, new) in zip(queries, models.candidate_nll(queries), strict=True):
            choices[query.edit].append(Choice(true, new))
        return choices


class Efficacy(ChoiceMetric):
    """ES and EM: the new object at the rewritten prompt."""

    prefix, kind, wanted = "efficacy", "rewrite", "new"


class Paraphrase(ChoiceMetric):
    """PS and PM: the new object under other wordings of the same fact."""

    prefix, kind, wanted = "paraphrase", "paraphrase", "new"


class Neighborhood(ChoiceMetric):
    """NS and NM: the true object for other subjects that share it."""

    prefix, kind, wanted = "neighborhood", "neighborhood", "true"


class Attribute(ChoiceMetric):
    """AS and AM: the new object for other subjects that really have it."""

    prefix, kind, wanted = "attribute", "attribute", "new"


class Correctness(Metric[ChoiceConfig]):
    """Share of prompts whose wanted answer the model would write by itself, greedily.

    Stricter than being preferred to one rival: every token of the answer must be the most likely
    one of the whole vocabulary, after the prompt and the answer's tokens before it.
    """

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The share for each kind of prompts that a record has."""
        asked = [
            (metric, _query(edit, probe))
            for edit, record in enumerate(records)
            for metric in (Efficacy, Paraphrase, Neighborhood, Attribute)
            for probe in record.probes.get(metric.kind, ())
        ]
        answers = models.candidate_scores([query for _, query in asked])
        hits: list[dict[str, list[bool]]] = [{} for _ in records]
        for (metric, query), (true, new) in zip(asked, answers, strict=True):
            wanted = new if metric.wanted == "new" else true
            hits[query.edit].setdefault(f"correctness/{metric.kind}", []).append(wanted.argmax == 1)
        return [{key: fmean(values) for key, values in row.items()} for row in hits]


class SameSubject(ChoiceMetric):
    """SS and SD: the subject's other facts, against a peer, and against before the edit.

    Drift is the change of the answers' probability that the edit brought; below zero, the model
    lost facts that nobody asked it to forget.
    """

    prefix, kind, wanted = "same_subject", "same_subject", "true"

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Score and drift of each record, and the NLL prompt by prompt as details."""
        before = self.choices(models.unedited(), records)
        after = self.choices(models, records)
        return [
            self.row_of_change(*pair) if pair[0] else {} for pair in zip(before, after, strict=True)
        ]

    def row_of_change(self, before: Sequence[Choice], after: Sequence[Choice]) -> ScoreRow:
        """The scores and details of one record, from the choices before and after its edit."""
        row = self.row(after)
        del row["same_subject/magnitude"]  # a margin over a peer; the drift says more
        changes = zip(before, after, strict=True)
        row["same_subject/drift"] = fmean(
            math.exp(-now.true) - math.exp(-then.true) for then, now in changes
        )
        row["same_subject/nll_true_before"] = [choice.true for choice in before]
        return row
