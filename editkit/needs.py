"""What an editor tells that it will need, before any weights are loaded."""

from __future__ import annotations

import dataclasses
from typing import Literal

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
        order: Order of the texts; None: that of such a source.
        seed: Seed of a random order.
        row_tokens: Most tokens of a text that are run; None: the usual number.
    """

    path: str
    width: int
    corpus: str | None = None
    tokens: int | None = None
    file: str | None = None
    order: Literal["stored", "random"] | None = None
    seed: int = 0
    row_tokens: int | None = None


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
