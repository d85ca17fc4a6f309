"""What an editor tells that it will need, before any weights are loaded."""

from __future__ import annotations

import dataclasses

__all__ = ["Needs", "StatisticNeeds"]


@dataclasses.dataclass(frozen=True)
class StatisticNeeds:
    """A second moment that an editor reads before it edits.

    Attributes:
        path: Dotted path of the module whose inputs it is of.
        width: Length D of those inputs; the statistic is D x D.
        corpus: Source of its texts; None where it is read from ``file``.
        tokens: Most tokens of the corpus that are used; None for all.
        file: A published file that is read instead.
    """

    path: str
    width: int
    corpus: str | None = None
    tokens: int | None = None
    file: str | None = None


@dataclasses.dataclass(frozen=True)
class Needs:
    """What an editor will need besides the model's weights, in bytes.

    Attributes:
        prepare: Most memory at once while it prepares, with statistics read and not computed.
        edit: Most memory at once while it edits all requests together, with what preparing leaves
            behind and the deltas that it gives.
        deltas: Memory of what is left after an edit: the deltas, and what preparing leaves.
        statistics: The statistics that it reads.
        notes: What else there is to say, in plain sentences.
    """

    prepare: int = 0
    edit: int = 0
    deltas: int = 0
    statistics: tuple[StatisticNeeds, ...] = ()
    notes: tuple[str, ...] = ()
