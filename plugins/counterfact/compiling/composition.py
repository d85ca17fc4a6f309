"""What a file of records is made of, counted as in the paper's table of CounterFact."""

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
"""CounterFact's own (Meng et al. 2022): in all, per relation, per record."""


@dataclasses.dataclass(frozen=True)
class Count:
    """How many different ones there are.

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
    """What records are made of.

    Attributes:
        items: Kind of thing -> how many.
        records_of: Records of each relation.
    """

    items: Mapping[str, Count]
    records_of: Mapping[str, int]


def composition(records: Sequence[Record]) -> Composition:
    """Count records, subjects, objects and prompts; what is said twice counts once."""
    relations: dict[str, list[Record]] = {}
    for record in records:
        relations.setdefault(record.request.relation_id or "-", []).append(record)
    items = {name: _count(records, relations, things) for name, things in _ITEMS.items()}
    return Composition(items, {name: len(of) for name, of in sorted(relations.items())})


def table(found: Composition) -> list[list[str]]:
    """The composition beside the paper's, as cells of a table."""
    head = ["", "total", "per relation", "per record", "paper: total", "per relation", "per record"]
    rows = [head]
    for name, count in found.items.items():
        paper = [f"{number:,}" for number in PAPER[name]] if name in PAPER else ["-"] * 3
        rows.append(
            [
                name,
                f"{count.total:,}",
                f"{count.per_relation:,.1f}",
                f"{count.per_record:.1f}",
                *paper,
            ]
        )
    return rows


def _count(
    records: Sequence[Record],
    relations: Mapping[str, Sequence[Record]],
    things: Callable[[Record], Iterable[object]],
) -> Count:
    if not records:
        return Count(0, 0.0, 0.0)
    return Count(
        total=len({thing for record in records for thing in things(record)}),
        per_relation=fmean(
            len({thing for record in of for thing in things(record)}) for of in relations.values()
        ),
        per_record=fmean(len(set(things(record))) for record in records),
    )


def _prompts(record: Record, kind: str) -> list[str]:
    return [probe.prompt for probe in record.probes.get(kind, ())]
