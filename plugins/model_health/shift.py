"""The metric ``shift``: how far did the predictions move at the record's own prompts?

For a prompt x, p_0(t | x) is the unedited model's distribution of the next token t, p the edited
one's. Over all tokens t of the vocabulary::

    KL(x)  = sum over t of p_0(t | x) (log p_0(t | x) - log p(t | x))        nats
    TV(x)  = 1/2 sum over t of |p_0(t | x) - p(t | x)|                       from 0 to 1
    top(x) = 1 if the most likely token is another one, else 0
    dP(x)  = P[o | x] - P_0[o | x]       o: the true object; P as in CounterFact's metrics

A score is the mean over a record's prompts of one kind. The distribution is the one from which the
first token of an answer is drawn: after the prompt and, if there is one, its separator.

A record's prompts are always run together in the unedited model, and their distributions are kept
for the next editor, up to a limit. Those beyond it are computed again, in the same batches: to the
same bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from torch import Tensor, cat, stack

from editkit import EditedModels, LanguageModel, Metric, MetricRow, Probe, Record, WeightDelta
from editkit.editing.edited_models import CandidateQuery
from editkit.editing.next_tokens import bounded, kl_divergences, next_log_p, total_variations
from editkit_plugins.model_health.config import ShiftConfig

_KEPT_NUMBERS = 2**26  # of unedited distributions: 256 MB
_NUMBERS_AT_ONCE = 2**26  # of unedited distributions that edited ones are compared with
_TRUE_IS_NEW = "attribute"  # at these prompts the edit's new object is the true one

_Asked = tuple[str, Probe]
"""A kind and a prompt."""


@dataclasses.dataclass(frozen=True)
class _Query:
    """A prompt for one edited model.

    Attributes:
        edit: Number of the edited model that answers.
        place: Index of the prompt among those that are asked together.
        ids: Its tokens.
    """

    edit: int
    place: int
    ids: tuple[int, ...]


class _Before(NamedTuple):
    """What the unedited model answers to the prompts of a record.

    Attributes:
        log_p: (prompts, vocabulary), on the CPU.
        p_true: Probability of the true object after each prompt.
    """

    log_p: Tensor
    p_true: list[float]


class _Moved(NamedTuple):
    """How far the predictions moved at a prompt."""

    kl: float
    tv: float
    top_changed: float
    p_true: float


_NOT_MOVED = _Moved(0.0, 0.0, 0.0, 0.0)


class Shift(Metric[ShiftConfig]):
    """Divergence of next-token distributions from the unedited model's, at a record's prompts."""

    def __init__(self, config: ShiftConfig) -> None:
        super().__init__(config)
        self._known: dict[tuple[_Asked, ...], _Before] = {}
        self._n_known = 0  # numbers
        self._fingerprint = ""  # of the model that they are from

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """KL, TV, changed top tokens and change of P[true object] by kind; and by prompt."""
        asked = [
            tuple((k, probe) for k in self.config.kinds for probe in record.probes.get(k, ()))
            for record in records
        ]
        rows = [_row(prompts, [_NOT_MOVED] * len(prompts)) for prompts in asked]
        edited = {i for i, d in enumerate(models.deltas) if d.changes or d.context is not None}
        for some in self._slices(models.model, {i: asked[i] for i in sorted(edited) if asked[i]}):
            pairs = [(edit, asked[edit]) for edit in some]
            moved = iter(self._moved(models, pairs, some))
            for edit, prompts in pairs:
                rows[edit] = _row(prompts, [next(moved) for _ in prompts])
        return rows

    def _slices(
        self, model: LanguageModel, asked: Mapping[int, tuple[_Asked, ...]]
    ) -> Iterator[dict[int, _Before]]:
        """What the unedited model answers, by edit, as much as is compared at once."""
        some: dict[int, _Before] = {}
        for edit, prompts in asked.items():
            some[edit] = self._before(model, prompts)
            if sum(before.log_p.numel() for before in some.values()) >= _NUMBERS_AT_ONCE:
                yield some
                some = {}
        if some:
            yield some

    def _before(self, model: LanguageModel, prompts: tuple[_Asked, ...]) -> _Before:
        if self._fingerprint != model.fingerprint:
            self._known, self._n_known, self._fingerprint = {}, 0, model.fingerprint
        if prompts in self._known:
            return self._known[prompts]
        models = EditedModels(model, [WeightDelta({}, None, "none", {}, model.fingerprint)])
        queries = _queries(models, [(0, prompts)])
        log_p: list[Tensor] = [Tensor()] * len(queries)
        for batch, values in next_log_p(models, queries):
            for query, row in zip(batch, values.float().cpu(), strict=True):
                log_p[query.place] = row
        before = _Before(stack(log_p), _p_true(models, [(0, prompts)])[0])
        # Every editor asks in the same order: to drop the oldest would drop what is asked next.
        if self._n_known + before.log_p.numel() <= _KEPT_NUMBERS:
            self._known[prompts] = before
            self._n_known += before.log_p.numel()
        return before

    def _moved(
        self,
        models: EditedModels,
        asked: Sequence[tuple[int, tuple[_Asked, ...]]],
        unedited: Mapping[int, _Before],
    ) -> list[_Moved]:
        """How far the predictions moved at each prompt, in order."""
        old = cat([unedited[edit].log_p for edit, _ in asked])  # (N, V)

        def ask(some: EditedModels, queries: Sequence[_Query]) -> list[list[float]]:
            answers: dict[_Query, list[float]] = {}
            for batch, values in next_log_p(some, queries):
                new = values.float()  # (n, V)
                before = old[[query.place for query in batch]].to(new)  # (n, V)
                changed = before.argmax(dim=-1) != new.argmax(dim=-1)  # (n,)
                kl, tv = kl_divergences(before, new), total_variations(before, new)
                answers.update(
                    zip(batch, stack((kl, tv, changed.float()), -1).tolist(), strict=True)
                )
            return [answers[query] for query in queries]

        distances = models.answers(ask, _queries(models, asked))
        after = [p for row in _p_true(models, asked) for p in row]
        before = [p for edit, _ in asked for p in unedited[edit].p_true]
        return [
            _Moved(max(0.0, bounded(kl)), 1.0 if math.isnan(tv) else min(tv, 1.0), changed, p - p_0)
            for (kl, tv, changed), p, p_0 in zip(distances, after, before, strict=True)
        ]


def _queries(models: EditedModels, asked: Sequence[tuple[int, tuple[_Asked, ...]]]) -> list[_Query]:
    """The prompts as each edited model reads them, up to the first token of the true object."""
    flat = [(edit, kind, probe) for edit, prompts in asked for kind, probe in prompts]
    return [
        _Query(edit, place, models.completions(_answers(edit, probe))[_true(kind)].prompt)
        for place, (edit, kind, probe) in enumerate(flat)
    ]


def _p_true(
    models: EditedModels, asked: Sequence[tuple[int, tuple[_Asked, ...]]]
) -> list[list[float]]:
    """Probability of the true object after each prompt."""
    queries = [_answers(edit, probe) for edit, prompts in asked for _, probe in prompts]
    nll = iter(models.candidate_nll(queries))
    return [[_p(next(nll)[_true(kind)]) for kind, _ in prompts] for _, prompts in asked]


def _answers(edit: int, probe: Probe) -> CandidateQuery:
    """The query of CounterFact's metrics, so that they share the answer."""
    candidates = (probe.target_true, probe.target_new)
    return CandidateQuery(edit, probe.prompt, candidates, probe.separator, probe.chat)


def _true(kind: str) -> int:
    """Index of the true object among the two answers."""
    return 1 if kind == _TRUE_IS_NEW else 0


def _p(nll: float) -> float:
    """A probability; that of a model which computes NaN is 0."""
    return 0.0 if math.isnan(nll) else math.exp(-nll)


def _row(prompts: Sequence[_Asked], moved: Sequence[_Moved]) -> MetricRow:
    """Means by kind, and the numbers by prompt."""
    row: dict[str, float | list[float] | list[str]] = {}
    for kind in dict.fromkeys(kind for kind, _ in prompts):
        own = [each for (other, _), each in zip(prompts, moved, strict=True) if other == kind]
        for name in _Moved._fields:
            values = [float(getattr(each, name)) for each in own]
            row[f"shift/{kind}_{name}"] = fmean(values)
            row[f"shift/{kind}_{name}_by_prompt"] = values
    return row
