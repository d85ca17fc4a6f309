"""Edits that records of one model have in common, and edits that contradict each other.

Records may hold several edits, and records of one dataset often share some. What a model has been
taught already is not written again. Two edits with the same prompt and subject and different new
objects contradict each other: no model can satisfy both, so scores of such records are low whatever
the editor does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from editkit.data_types import EditRequest
from editkit.reprs import counted

__all__ = ["Contradiction", "contradictions", "edits_to_write", "notes_of_record", "warning_of"]

_Place: TypeAlias = tuple[str, str, bool]
_MOST_OBJECTS = 3


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """Edits of one model with the same prompt and subject and different new objects.

    Attributes:
        sentence: The prompt with the subject filled in.
        objects: The new objects, in order.
        cases: Case ids of the records that have these edits, in order.
    """

    sentence: str
    objects: tuple[str, ...]
    cases: tuple[int, ...]


def _place_of(request: EditRequest) -> _Place:
    return request.prompt, request.subject, request.chat


def edits_to_write(
    records: Iterable[Sequence[EditRequest]], written: Sequence[EditRequest] = ()
) -> tuple[EditRequest, ...]:
    """The edits of some records, in order, without those that a model has been taught already.

    An edit is skipped if the last edit with its prompt and subject is the same one.

    Args:
        records: The edits of each record.
        written: Edits that were written into the model before, in order.
    """
    wanted = [request for requests in records for request in requests]
    places = set(map(_place_of, wanted))
    last = {place: each for each in written if (place := _place_of(each)) in places}
    new = []
    for request in wanted:
        if last.get(_place_of(request)) != request:
            last[_place_of(request)] = request
            new.append(request)
    return tuple(new)


def contradictions(
    records: Iterable[tuple[int, Sequence[EditRequest]]],
) -> list[Contradiction]:
    """The contradictions among the records of one model.

    Args:
        records: Case id and edits of each record.
    """
    edits: dict[_Place, list[tuple[int, EditRequest]]] = {}
    for case_id, requests in records:
        for request in requests:
            edits.setdefault(_place_of(request), []).append((case_id, request))
    return [
        Contradiction(
            own[0][1].sentence,
            objects,
            tuple(dict.fromkeys(case_id for case_id, _ in own)),
        )
        for own in edits.values()
        if len(objects := tuple(dict.fromkeys(each.target_new for _, each in own))) > 1
    ]


def warning_of(models: Iterable[Sequence[Contradiction]]) -> str | None:
    """One sentence about the contradictions of a run's models; None if there are none."""
    every = [each for own in models for each in own]
    if not every:
        return None
    first = every[0]
    objects = " and ".join(map(repr, first.objects[:_MOST_OBJECTS]))
    objects += ", ..." if len(first.objects) > _MOST_OBJECTS else ""
    cases = len({case for each in every for case in each.cases})
    return (
        f"contradicting edits of {counted(cases, 'record')} in one model, at "
        f"{counted(len(every), 'prompt')}, such as {first.sentence!r} -> {objects} "
        f"({'case' if len(first.cases) == 1 else 'cases'} "
        f"{', '.join(map(str, first.cases[:_MOST_OBJECTS]))}"
        f"{', ...' if len(first.cases) > _MOST_OBJECTS else ''}); no model can satisfy them"
    )


def notes_of_record(
    requests: Sequence[EditRequest], notes: Mapping[EditRequest, Mapping[str, Any]]
) -> dict[str, Any]:
    """The notes of a record: of its edit, or of each of its edits under ``facts``.

    Args:
        requests: The edits of the record.
        notes: The notes of each edit.
    """
    if len(requests) == 1:
        return dict(notes.get(requests[0], {}))
    return {"facts": [dict(notes.get(request, {})) for request in requests]}
