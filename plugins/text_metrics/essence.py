"""Essence: how surprising are texts about the subject to the edited model?

An edit that keeps what the subject is leaves the perplexity where it was (Meng et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from editkit import EditedModels, Metric, MetricRow, Record
from editkit.editing.edited import TextQuery
from editkit_plugins.text_metrics.config import EssenceConfig

_LARGEST_EXPONENT = 700.0  # exp of more is infinite in double precision


class Essence(Metric[EssenceConfig]):
    """Perplexity of a record's essence texts, joined to one."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The perplexity for each record that has essence texts."""
        queries = [
            TextQuery(edit, " ".join(record.texts["essence"]))
            for edit, record in enumerate(records)
            if record.texts.get("essence")
        ]
        limit = min(self.config.max_tokens, models.model.context_length)
        rows: list[MetricRow] = [{} for _ in records]
        for query, nll in zip(queries, models.text_nll(queries, max_tokens=limit), strict=True):
            if nll:
                rows[query.edit] = {"essence/perplexity": self._perplexity(nll)}
        return rows

    def _perplexity(self, nll: Sequence[float]) -> float:
        n = len(nll) + (self.config.divisor == "all_tokens")
        return math.exp(min(math.fsum(nll) / n, _LARGEST_EXPONENT))
