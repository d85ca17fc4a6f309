"""One pass through the edited models for the queries of all metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from editkit.data_types import Record
from editkit.interfaces import Metric

if TYPE_CHECKING:
    from editkit.editing.edited_models import EditedModels

__all__ = ["ask_together"]


def ask_together(
    models: EditedModels, records: Sequence[Record], metrics: Iterable[Metric[Any]]
) -> None:
    """Let edited models answer what metrics will ask (:meth:`Metric.queries`).

    The answers are kept in ``models``, so every metric's ``score`` finds its own there.

    Args:
        models: One edited model per record.
        records: The records.
        metrics: The metrics that will score them.
    """
    queries = [
        query
        for metric in metrics
        for edit, record in enumerate(records)
        for query in metric.queries(edit, record)
    ]
    if queries:
        models.candidate_scores(queries)
