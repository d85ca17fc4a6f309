"""The composition of a file of records, counted as in the paper's table 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from editkit import Record

_ITEMS: Mapping[str, Callable[[Record], Iterable[object]]] = {
    "records": lambda record: [record.case_id],
    "subjects": lambda record: [record.request.subject],
    "objects": lambda record: [record.request.target_true],
    "counterfactual statements": lambda record: [
        (record.request.sentence, record.request.target_new)
    ],
    "paraphrase prompts": lambda record: _prompts(record, "paraphrase"),
    "neighborhood prompts": lambda record: _prompts(record, "neighborhood"),
    "attribute prompts": lambda record: _prompts(record, "attribute"),
    "same-subject prompts": lambda record: _prompts(record, "same_subject"),
    "generation prompts": lambda record: record.texts.get("generation", ()),
}

PAPER: Mapping[str, tuple[int, int, int]] = {
    "records": (21919, 645, 1),
    "subjects": (20391, 624, 1),
    "objects": (749, 60, 1),
    "counterfactual statements": (21595, 635, 1),
    "paraphrase prompts": (42876, 1262, 2),
    "neighborhood prompts": (82650, 2441, 10),
    "generation prompts": (62346, 1841, 3),
}
"""The counts of CounterFact (Meng et al. 2022, table 2): in all, per relation, per record."""


@dataclasses.dataclass(frozen=True)
class Count:
    """The number of distinct items.

    Attributes:
        total: In all records together.
        per_relation: Mean over relations.
        per_record: Mean over records.
    """

    total: int
    per_relation: float
    per_record: float


@dataclasses.dataclass(frozen=True)
class Composition:
    """The composition of records.

    Attributes:
        items: Kind of item -> counts.
        records_per_relation: Relation -> number of records.
    """

    items: Mapping[str, Count]
    records_per_relation: Mapping[str, int]


def composition(records: Sequence[Record]) -> Composition:
    """Count distinct records, subjects, objects and prompts."""
    relations: dict[str, list[Record]] = {}
    for record in records:
        relations.setdefault(record.request.relation_id or "-", []).append(record)
    items = {name: _count(records, relations, items_of) for name, items_of in _ITEMS.items()}
    return Composition(items, {name: len(group) for name, group in sorted(relations.items())})


def table(counts: Composition) -> list[list[str]]:
    """The composition next to the paper's, as rows of cells. Numbers are right-aligned."""
    head = ["", "total", "per relation", "per record", "paper: total", "per relation", "per record"]
    rows = [head]
    for name, count in counts.items.items():
        paper = [f"{number:,}" for number in PAPER[name]] if name in PAPER else ["-"] * 3
        ours = [f"{count.total:,}", f"{count.per_relation:,.1f}", f"{count.per_record:.1f}"]
        rows.append([name, *ours, *paper])
    widths = [0, *(max(map(len, column)) for column in list(zip(*rows, strict=True))[1:])]
    return [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]


def _count(
    records: Sequence[Record],
    relations: Mapping[str, Sequence[Record]],
    items: Callable[[Record], Iterable[object]],
) -> Count:
    if not records:
        return Count(0, 0.0, 0.0)
    return Count(
        total=len({item for record in records for item in items(record)}),
        per_relation=fmean(
            len({item for record in group for item in items(record)})
            for group in relations.values()
        ),
        per_record=fmean(len(set(items(record))) for record in records),
    )


def _prompts(record: Record, kind: str) -> list[str]:
    return [probe.prompt for probe in record.probes.get(kind, ())]
