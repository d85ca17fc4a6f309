"""CounterFact's metrics (Meng et al. 2022, section 3.3; first version, section 5.2).

For an edit of (s, r, o^c) to o*, and P the edited model::

    P[o | p] = exp(-mean over o's tokens of -log p(token))      Choice; a geometric mean
    ES, PS   = mean over prompts of [P[o*] > P[o^c]]            ChoiceMetric.row, wanted = "new"
    EM, PM   = mean over prompts of P[o*] - P[o^c]
    NS       = mean over prompts of [P[o^c] > P[o*]]            ChoiceMetric.row, wanted = "true"
    NM       = mean over prompts of P[o^c] - P[o*]

at the rewritten prompt (E), its paraphrases (P) and prompts about neighbours of s (N). The papers
do not define P for objects of several tokens; the geometric mean is what the code behind the
published tables computes. A tie is not a success.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar, Literal, NamedTuple

from editkit import EditedModels, Metric, MetricRow, Probe, Record
from editkit.editing.edited_models import CandidateQuery
from editkit_plugins.counterfact.config import ChoiceConfig

ScoreRow = dict[str, float | list[float]]


class Choice(NamedTuple):
    """Mean negative log likelihood per token (nats) of the two answers to one prompt."""

    true: float
    new: float


def _query(edit: int, probe: Probe) -> CandidateQuery:
    answers = (probe.target_true, probe.target_new)
    return CandidateQuery(edit, probe.prompt, answers, probe.separator, probe.chat)


class ChoiceMetric(Metric[ChoiceConfig]):
    """Base of the metrics that compare the probabilities of two answers at prompts of one kind."""

    kind: ClassVar[str]
    """The kind of probes."""
    wanted: ClassVar[Literal["true", "new"]]
    """The answer that is more probable after a good edit."""
    prefix: ClassVar[str]
    """First part of the scores' keys. The metric's name may differ: ``same-subject``."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Score and magnitude of each record; as details, the answers' NLL at each prompt."""
        return [self.row(choices) if choices else {} for choices in self.choices(models, records)]

    def row(self, choices: Sequence[Choice]) -> ScoreRow:
        """Scores and details of one record."""
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

    def queries(self, edit: int, record: Record) -> list[CandidateQuery]:
        """Both answers at each prompt of the kind."""
        return [_query(edit, probe) for probe in record.probes.get(self.kind, ())]

    def choices(self, models: EditedModels, records: Sequence[Record]) -> list[list[Choice]]:
        """For each record, the two NLLs at its prompts under its own edit."""
        queries = [q for edit, record in enumerate(records) for q in self.queries(edit, record)]
        choices: list[list[Choice]] = [[] for _ in records]
        for query, (true, new) in zip(queries, models.candidate_nll(queries), strict=True):
            choices[query.edit].append(Choice(true, new))
        return choices


class Efficacy(ChoiceMetric):
    """ES and EM: the new object wins at the rewritten prompt."""

    prefix, kind, wanted = "efficacy", "rewrite", "new"


class Paraphrase(ChoiceMetric):
    """PS and PM: the new object wins at paraphrases."""

    prefix, kind, wanted = "paraphrase", "paraphrase", "new"


class Neighborhood(ChoiceMetric):
    """NS and NM: the true object wins for other subjects that share it."""

    prefix, kind, wanted = "neighborhood", "neighborhood", "true"


class Attribute(ChoiceMetric):
    """AS and AM: the new object wins for other subjects for which it is true."""

    prefix, kind, wanted = "attribute", "attribute", "new"


class Correctness(Metric[ChoiceConfig]):
    """Share of prompts at which greedy decoding writes the wanted answer.

    This is stricter than beating one other answer: every token of the answer must be the argmax
    over the vocabulary, given the prompt and the answer's earlier tokens.
    """

    def queries(self, edit: int, record: Record) -> list[CandidateQuery]:
        """Both answers at each prompt of all kinds."""
        return [query for _, query in self._asked(edit, record)]

    def _asked(self, edit: int, record: Record) -> list[tuple[type[ChoiceMetric], CandidateQuery]]:
        return [
            (metric, _query(edit, probe))
            for metric in (Efficacy, Paraphrase, Neighborhood, Attribute)
            for probe in record.probes.get(metric.kind, ())
        ]

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """One score for each kind of prompts that a record has."""
        queries = [
            each for edit, record in enumerate(records) for each in self._asked(edit, record)
        ]
        answers = models.candidate_scores([query for _, query in queries])
        hits: list[dict[str, list[bool]]] = [{} for _ in records]
        for (metric, query), (true, new) in zip(queries, answers, strict=True):
            wanted = new if metric.wanted == "new" else true
            hits[query.edit].setdefault(f"correctness/{metric.kind}", []).append(wanted.argmax == 1)
        return [{key: fmean(values) for key, values in row.items()} for row in hits]


class SameSubject(ChoiceMetric):
    """SS and SD: the subject's other facts, compared with a peer's answer and with before the edit.

    The drift SD is the mean change of P[answer]. Below zero, the edit made the model forget facts
    that the request did not mention.
    """

    prefix, kind, wanted = "same_subject", "same_subject", "true"

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Score and drift of each record; as details, the answers' NLL at each prompt."""
        before = self.choices(models.unedited(), records)
        after = self.choices(models, records)
        return [
            self.row_of_change(*pair) if pair[0] else {} for pair in zip(before, after, strict=True)
        ]

    def row_of_change(self, before: Sequence[Choice], after: Sequence[Choice]) -> ScoreRow:
        """Scores and details of one record, from its choices before and after the edit."""
        row = self.row(after)
        del row["same_subject/magnitude"]  # the margin over a peer; the drift replaces it
        changes = zip(before, after, strict=True)
        row["same_subject/drift"] = fmean(
            math.exp(-now.true) - math.exp(-then.true) for then, now in changes
        )
        row["same_subject/nll_true_before"] = [choice.true for choice in before]
        return row
