"""Drawdown: how many unrelated facts does an edit make the model forget?

An unrelated fact is right if greedy decoding predicts every token of its answer (teacher forcing,
as in :mod:`editkit_plugins.zsre.metric`). With the unedited model f_0 and the edited one f, over
the records of a run::

    lost  = share of the facts right under f_0 that are wrong under f      Meng et al. 2022, table 6
    drop  = accuracy(f_0) - accuracy(f)                                    Mitchell et al. 2022

``lost`` has no gains: a fact that only the edited model gets right does not enter. ``drop`` counts
such gains, so it can be negative. Its accuracy is zsRE's specificity.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from editkit import EditedModels, Metric, MetricRow, Record
from editkit_plugins.zsre.config import DrawdownConfig
from editkit_plugins.zsre.metric import KINDS, hits_of

_SCORE = "specificity"


class Drawdown(Metric[DrawdownConfig]):
    """Unrelated facts that the unedited model gets right and the edited one does not."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record; ``drawdown/lost`` only where the unedited model is right."""
        kinds = {_SCORE: KINDS[_SCORE]}
        before, after = (
            hits_of(each, records, kinds, self.config) for each in (models.unedited(), models)
        )
        return [
            self._row(old.get(_SCORE, []), new.get(_SCORE, []))
            for old, new in zip(before, after, strict=True)
        ]

    def _row(self, before: list[float], after: list[float]) -> MetricRow:
        """The scores of a record, from 1 for each right token and 0 otherwise."""
        if not before:
            return {}
        row = {"drawdown/drop": fmean(before) - fmean(after)}
        if self.config.unit == "answer":
            before, after = [float(all(before))], [float(all(after))]
        kept = [new for old, new in zip(before, after, strict=True) if old]
        row["drawdown/known"] = fmean(before)
        if kept:
            row["drawdown/lost"] = 1.0 - fmean(kept)
        return row
