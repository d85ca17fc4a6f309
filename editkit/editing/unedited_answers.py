"""Answers of the unedited model, which all editors of a run have in common.

Metrics that compare with the unedited model ask it for the same batch of records once per editor.
An answer depends on the other queries of its batch, by rounding. So answers are remembered for
whole batches only: whether one is computed or remembered, its bits are the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from editkit.editing.queries import CandidateQuery, CandidateScore

__all__ = ["UneditedAnswers"]

_Key = tuple[Hashable, tuple[CandidateQuery, ...]]
_QUERIES = 200_000  # about 100 MB


class UneditedAnswers:
    """A bounded memory of answered batches.

    Args:
        most: Number of queries to remember; the batches asked least recently are dropped first.
    """

    def __init__(self, most: int = _QUERIES) -> None:
        self._most, self._n = most, 0
        self._batches: OrderedDict[_Key, list[list[CandidateScore]]] = OrderedDict()

    def of(
        self,
        model: Hashable,
        queries: Sequence[CandidateQuery],
        ask: Callable[[Sequence[CandidateQuery]], list[list[CandidateScore]]],
    ) -> list[list[CandidateScore]]:
        """The answers to a batch of queries, remembered or computed.

        Args:
            model: Everything but the queries that answers depend on.
            queries: The batch.
            ask: Computes the answers.
        """
        key = model, tuple(queries)
        if key not in self._batches:
            self._batches[key] = ask(queries)
            self._n += len(queries)
        self._batches.move_to_end(key)
        while self._n > self._most and len(self._batches) > 1:
            (_, dropped), _ = self._batches.popitem(last=False)
            self._n -= len(dropped)
        return self._batches[key]
