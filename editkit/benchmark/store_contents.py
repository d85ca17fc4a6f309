"""The content of every entry of ``results.sqlite``, as JSON, and what is valid in it.

An entry is *damaged* if its checksum is wrong or if this version would never write its content.
Readers return whole entries or raise :class:`DamagedError`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from editkit.benchmark.store_format import checksum
from editkit.data_types import EditRequest, Failure, Score
from editkit.errors import EditkitError
from editkit.redaction import redacted, redacted_values
from editkit.regimes import Regime
from editkit.results import Answer, Cell, ModelRow, Rating, Row
from editkit.storage.digests import canonical_json
from editkit.storage.strict_json import parse_json

__all__ = ["LARGEST", "READERS", "DamagedError", "request_content", "row_content", "row_entries"]

LARGEST = 1e150
"""Largest absolute number in a row: means and variances of such numbers are finite."""

_ALSO = "also"  # key of the further edits of a record
_ROW_FIELDS = {field.name for field in dataclasses.fields(Row)}
_MODEL_ROW_FIELDS = {field.name for field in dataclasses.fields(ModelRow)}
_CELL_FIELDS = {field.name for field in dataclasses.fields(Cell)}
_SCORE_FIELDS = {field.name for field in dataclasses.fields(Score)}
_FAILURE_FIELDS = {field.name for field in dataclasses.fields(Failure)}
_RATING_FIELDS = {field.name for field in dataclasses.fields(Rating)}
_RUN_FIELDS = {"benchmark", "model", "dataset", "metrics", "scores", "seeds", "batch", "cell"}
_LATER_RUN_FIELDS = {"model_metrics", "model_scores"}  # since version 3
_LATER_CELL_FIELDS = {"edits"}
_LAST_TIME = 1e11  # seconds since 1970
_ANSWERS = get_args(Answer)


class DamagedError(ValueError):
    """A stored entry is damaged; the message says how."""


def row_content(row: Row | ModelRow) -> str:
    """A row as JSON.

    Raises:
        ValueError: A number is not finite.
    """
    content = canonical_json(vars(row))  # dataclasses.asdict would copy every list
    # An error message may quote a lone surrogate from a broken text; UTF-8 cannot encode it.
    return content.encode(errors="replace").decode()


def row_entries(
    table: str, fingerprint: str, rows: Iterable[Row | ModelRow]
) -> list[tuple[int | str, ...]]:
    """Entries of ``rows``, ``history`` or ``models``: key, content and checksum."""
    entries = []
    for row in rows:
        number = row.group if isinstance(row, ModelRow) else row.case_id
        key = (fingerprint, number) if table == "rows" else (fingerprint, row.checkpoint, number)
        content = row_content(row)
        entries.append((*key, content, checksum(table, *key, content)))
    return entries


def _read_row(fingerprint: object, case_id: object, payload: object, stored: object) -> Row:
    return _row("rows", (fingerprint, case_id), case_id, payload, stored)


def _read_history(
    fingerprint: object, checkpoint: object, case_id: object, payload: object, stored: object
) -> Row:
    row = _row("history", (fingerprint, checkpoint, case_id), case_id, payload, stored)
    _check_that(row.checkpoint == checkpoint, "its checkpoint differs from its key")
    return row


def _row(
    table: str, key: tuple[object, ...], case_id: object, payload: object, stored: object
) -> Row:
    _check_that(_is_int(case_id), "its case id is not an integer")
    content = _content(table, payload, stored, key)
    _check_keys(content, _ROW_FIELDS, required={"case_id", "status"})
    row = Row(**content)
    _check_that(_is_int(row.case_id) and row.case_id == case_id, "case_id differs from its key")
    _check_that(row.status in ("done", "failed"), "status is neither done nor failed")
    _check_that(_is_mapping(row.scores, _is_number), "scores are not numbers")
    _check_that(_is_mapping(row.details, _is_numbers), "details are not lists of numbers")
    _check_that(_is_mapping(row.texts, _is_strings), "texts are not lists of strings")
    _check_that(_is_mapping(row.times, _is_number), "times are not numbers")
    _check_that(isinstance(row.notes, dict), "notes are not a mapping")
    _check_that(_is_number(row.completed_at), "completed_at is not a number")
    _check_that(_is_number(row.peak_rss_mb), "peak_rss_mb is not a number")
    _check_that(0 <= row.completed_at < _LAST_TIME, "completed_at is out of range")
    _check_that(isinstance(row.environment, str), "environment is not a string")
    counts = (row.group, row.place, row.checkpoint)
    _check_that(all(map(_is_count, counts)), "group, place or checkpoint is not a count")
    if row.status == "failed":
        _check_that(isinstance(row.error, str), "it failed without an error message")
        _check_that(not row.scores, "it failed and has scores")
    else:
        _check_that(row.error is None, "it is done and has an error")
    return dataclasses.replace(row, error=None if row.error is None else redacted(row.error))


def _read_model(
    fingerprint: object, checkpoint: object, model: object, payload: object, stored: object
) -> ModelRow:
    content = _content("models", payload, stored, (fingerprint, checkpoint, model))
    _check_keys(content, _MODEL_ROW_FIELDS, required={"group", "checkpoint"})
    row = ModelRow(**content)
    same = (row.checkpoint, row.group) == (checkpoint, model)
    _check_that(same and _is_count(model), "its checkpoint or model differs from its key")
    _check_that(_is_mapping(row.scores, _is_number), "scores are not numbers")
    _check_that(_is_mapping(row.details, _is_numbers), "details are not lists of numbers")
    _check_that(_is_mapping(row.texts, _is_strings), "texts are not lists of strings")
    _check_that(_is_mapping(row.times, _is_number), "times are not numbers")
    _check_that(
        _is_mapping(row.errors, lambda value: isinstance(value, str)), "errors are not texts"
    )
    _check_that(_is_number(row.completed_at), "completed_at is not a number")
    _check_that(0 <= row.completed_at < _LAST_TIME, "completed_at is out of range")
    texts = isinstance(row.environment, str) and isinstance(row.delta, str)
    _check_that(texts, "environment or delta is not a string")
    return row


def _read_cell(fingerprint: object, description: object, stored: object) -> dict[str, Any]:
    """The description of a benchmark's cell, or any mapping of another study."""
    _check_that(isinstance(fingerprint, str), "its fingerprint is not a string")
    content = _content("cells", description, stored, (fingerprint,))
    if "benchmark" in content:
        _check_run(content)
        same = content["cell"]["fingerprint"] == fingerprint
        _check_that(same, "it describes another cell")
    shown: dict[str, Any] = redacted_values(content)
    return shown


def request_content(requests: Sequence[EditRequest]) -> str:
    """The edits of a record as JSON: the edit alone, or the first one with the others in it."""
    first, *others = (request.to_dict() for request in requests)
    return canonical_json({**first, _ALSO: others} if others else first)


def _read_request(
    dataset: object, case_id: object, request: object, stored: object
) -> tuple[EditRequest, ...]:
    _check_that(isinstance(dataset, str) and _is_int(case_id), "its key is damaged")
    content = _content("requests", request, stored, (dataset, case_id))
    try:
        others = content.pop(_ALSO, [])
        _check_that(isinstance(others, list), "its further edits are not a list")
        return tuple(map(EditRequest.from_dict, (content, *others)))
    except (EditkitError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"it is not an edit request: {error}") from None


def _read_rating(name: object, payload: object, stored: object) -> Rating:
    _check_that(isinstance(name, str), "its name is not a string")
    content = _content("ratings", payload, stored, (name,))
    _check_keys(content, _RATING_FIELDS, required=_RATING_FIELDS)
    case, place, cells = content["case_id"], content["place"], content["cells"]
    _check_that(_is_int(case) and _is_int(place), "case_id or place is not an integer")
    _check_that(_is_strings(cells) and len(cells) == 2, "cells are not two strings")
    _check_that(isinstance(content["rater"], str), "rater is not a string")
    _check_that(_is_mapping(content["answers"], _ANSWERS.__contains__), "it has unknown answers")
    _check_that(_is_number(content["rated_at"]), "rated_at is not a number")
    return Rating(**{**content, "cells": tuple(cells)})


def _read_environment(digest: object, payload: object, stored: object) -> dict[str, Any]:
    _check_that(isinstance(digest, str), "its digest is not a string")
    return _content("environments", payload, stored, (digest,))


READERS: Mapping[str, Callable[..., Any]] = {
    "cells": _read_cell,
    "rows": _read_row,
    "requests": _read_request,
    "ratings": _read_rating,
    "environments": _read_environment,
    "history": _read_history,
    "models": _read_model,
}
"""By table: from the columns of an entry to its content.

A checksum of None is not checked: files of version 1 lack some.
"""


def _content(table: str, text: object, stored: object, key: tuple[Any, ...]) -> dict[str, Any]:
    if not isinstance(text, str):
        raise DamagedError("its content is not a string")
    if stored is not None and checksum(table, *key, text) != stored:
        raise DamagedError("its checksum is wrong")
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DamagedError(f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError("it is not a mapping")
    return content


def _check_that(sound: bool, problem: str) -> None:
    if not sound:
        raise DamagedError(problem)


def _check_keys(content: Mapping[str, Any], known: set[str], *, required: set[str]) -> None:
    if unknown := sorted(content.keys() - known):
        raise DamagedError(f"it has the unknown key {unknown[0][:40]!r}")
    if missing := sorted(required - content.keys()):
        raise DamagedError(f"it lacks {missing[0]!r}")


def _check_run(content: Mapping[str, Any]) -> None:
    """A description as :meth:`editkit.results.Run.describe` writes it."""
    _check_keys(content, _RUN_FIELDS | _LATER_RUN_FIELDS, required=_RUN_FIELDS)
    _check_that(isinstance(content["benchmark"], str), "benchmark is not a string")
    model, dataset = content["model"], content["dataset"]
    described = _has(model, str, "name", "fingerprint", "dtype")
    _check_that(described, "model lacks a name, fingerprint or dtype")
    _check_that(_has(dataset, str, "name", "digest"), "dataset lacks a name or digest")
    _check_that(_is_count(dataset.get("n_records")), "n_records is not a count")
    _check_that(_is_count(dataset.get("n_edits", 0)), "n_edits is not a count")
    _check_that(_is_count(dataset.get("rejected", 0)), "rejected is not a count")
    _check_that(
        isinstance(dataset.get("config", {}), dict), "the dataset's config is not a mapping"
    )
    metrics, scores, seeds = content["metrics"], content["scores"], content["seeds"]
    _check_that(isinstance(metrics, list), "metrics are not a list")
    model_metrics, model_scores = content.get("model_metrics", []), content.get("model_scores", [])
    lists = isinstance(model_metrics, list) and isinstance(model_scores, list)
    _check_that(lists, "metrics or scores of models are not a list")
    for metric in (*metrics, *model_metrics):
        _check_that(_has(metric, str, "name", "protocol"), "a metric lacks a name or protocol")
        _check_that(
            isinstance(metric.get("config", {}), dict), "a metric's config is not a mapping"
        )
    _check_that(isinstance(scores, list), "scores are not a list")
    for score in (*scores, *model_scores):
        _check_score(score)
    integers = isinstance(seeds, list) and all(_is_int(seed) for seed in seeds)
    _check_that(integers, "seeds are not a list of integers")
    _check_that(_is_count(content["batch"]), "batch is not a count")
    _check_cell(content["cell"])


def _check_score(score: object) -> None:
    if not isinstance(score, dict):
        raise DamagedError("a score is not a mapping")
    _check_keys(score, _SCORE_FIELDS, required={"key"})
    _check_that(_has(score, str, "key"), "a score's key is not a string")
    texts = [score.get(name, "") for name in ("label", "name", "description")]
    _check_that(all(isinstance(text, str) for text in texts), "a score's label is not a string")
    _check_that(_is_number(score.get("scale", 1.0)), "a score's scale is not a number")
    flags = [score.get(name, False) for name in ("summary", "signed", "at_edit")]
    if (direction := score.get("higher_is_better")) is not None:
        flags.append(direction)
    booleans = all(isinstance(flag, bool) for flag in flags)
    _check_that(booleans, "a score's flag is not a boolean")
    digits = score.get("digits")
    _check_that(digits is None or _is_count(digits), "a score's digits are not a count")
    bounds = score.get("bounds")
    if bounds is not None:
        two = isinstance(bounds, list | tuple) and len(bounds) == 2
        numbers = two and all(each is None or _is_number(each) for each in bounds)
        _check_that(numbers, "a score's bounds are not two numbers")
    failure = score.get("failure")
    if failure is not None:
        _check_that(_has(failure, str, "name"), "a score's failure has no name")
        _check_keys(failure, _FAILURE_FIELDS, required={"name", "share"})
        _check_that(_is_number(failure["share"]), "a failure's share is not a number")
        _check_that(isinstance(failure.get("of", ""), str), "a failure's score is not a string")
        _check_that(_is_number(failure.get("floor") or 0.0), "a failure's floor is not a number")


def _check_cell(cell: object) -> None:
    if not isinstance(cell, dict):
        raise DamagedError("cell is not a mapping")
    _check_keys(cell, _CELL_FIELDS, required=_CELL_FIELDS - _LATER_CELL_FIELDS)
    named = _has(cell, str, "editor", "distribution", "version", "fingerprint")
    _check_that(named, "the cell's editor, distribution, version or fingerprint is not a string")
    preset, sources = cell["preset"], cell["sources"]
    _check_that(preset is None or isinstance(preset, str), "the cell's preset is not a string")
    _check_that(_is_int(cell["seed"]), "the cell's seed is not an integer")
    _check_that(isinstance(cell["config"], dict), "the cell's config is not a mapping")
    strings = _is_mapping(sources, lambda value: isinstance(value, str))
    _check_that(strings, "the cell's sources are not strings")
    plain = (str, int, float, bool, type(None))
    try:
        Regime.from_dict(cell.get("edits", {}))
    except (ValueError, TypeError) as error:
        raise DamagedError(f"the cell's edits are damaged: {error}") from None
    flat = _is_mapping(cell["params"], lambda value: isinstance(value, plain))
    _check_that(flat, "the cell's params are not flat")


def _has(value: object, kind: type, *names: str) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name in names)


def _is_int(value: object) -> bool:
    return type(value) is int


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= LARGEST


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(_is_number(item) for item in value)


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_mapping(value: object, sound: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(sound(item) for item in value.values())
