"""What the store's tables hold, checked when it is read: nothing of a wrong shape gets through.

Every value carries a checksum over its key and its content. A value that fails it, or whose content
is not what this version writes, is *damaged*: readers see all of a value or nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from editkit.data_types import EditRequest, Failure, Score
from editkit.errors import EditkitError
from editkit.redaction import redacted, redacted_values
from editkit.results import Cell, Row
from editkit.storage.digests import canonical_json
from editkit.storage.strict_json import parse_json

__all__ = [
    "LARGEST",
    "DamagedError",
    "checksum_of",
    "read_cell",
    "read_environment",
    "read_rating",
    "read_request",
    "read_row",
    "write_row",
]

_ROW_FIELDS = {field.name for field in dataclasses.fields(Row)}
_CELL_FIELDS = {field.name for field in dataclasses.fields(Cell)}
_SCORE_FIELDS = {field.name for field in dataclasses.fields(Score)}
_FAILURE_FIELDS = {field.name for field in dataclasses.fields(Failure)}
_RUN_FIELDS = {"benchmark", "model", "dataset", "metrics", "scores", "seeds", "batch", "cell"}
_RATING_FIELDS = {"case_id", "place", "cells", "rater", "answers", "rated_at"}
LARGEST = 1e150
"""Largest number of a row: means and variances of such numbers are finite."""

_LAST_TIME = 1e11  # seconds since 1970
_ANSWERS = ("left", "same", "right")


class DamagedError(ValueError):
    """A stored value is not what was written; the message says why."""


def checksum_of(*parts: int | str) -> str:
    """SHA-256 of a value's key and content."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


def write_row(fingerprint: str, row: Row) -> tuple[str, int, str, str]:
    """A row as the store's table has it: cell, case, payload and checksum.

    Raises:
        ValueError: A number is not finite.
    """
    payload = canonical_json(dataclasses.asdict(row))
    # A lone surrogate, which a reason may repeat from a broken text, is in no file.
    payload = payload.encode(errors="replace").decode()
    return fingerprint, row.case_id, payload, checksum_of(fingerprint, row.case_id, payload)


def read_row(fingerprint: str, case_id: object, payload: object, checksum: object) -> Row:
    """A row.

    Raises:
        DamagedError: It is not what was written.
    """
    _check(_is_int(case_id), "its case id is no integer")
    content = _content(payload, checksum, (fingerprint, case_id))
    _check_keys(content, _ROW_FIELDS, required={"case_id", "status"})
    row = Row(**content)
    _check(_is_int(row.case_id) and row.case_id == case_id, "case_id is not that of the row")
    _check(row.status in ("done", "failed"), "status is neither done nor failed")
    _check(_is_mapping(row.scores, _is_number), "scores are no numbers")
    _check(_is_mapping(row.details, _is_numbers), "details are no lists of numbers")
    _check(_is_mapping(row.texts, _is_texts), "texts are no lists of texts")
    _check(_is_mapping(row.times, _is_number), "times are no numbers")
    _check(isinstance(row.notes, dict), "notes are no mapping")
    _check(_is_number(row.completed_at) and _is_number(row.peak_rss_mb), "its time is no number")
    _check(0 <= row.completed_at < _LAST_TIME, "its time is beyond all dates")
    _check(isinstance(row.environment, str), "environment is no text")
    if row.status == "failed":
        _check(isinstance(row.error, str) and not row.scores, "it failed without a reason")
    else:
        _check(row.error is None, "it is done and has an error")
    return dataclasses.replace(row, error=None if row.error is None else redacted(row.error))


def read_cell(fingerprint: object, text: object, checksum: object) -> dict[str, Any]:
    """The description of a cell: of a benchmark's, or whatever identity another study has.

    Args:
        fingerprint: The cell's.
        text: The description as JSON.
        checksum: Its checksum; None where the store has no column for it.

    Raises:
        DamagedError: It is not what was written.
    """
    _check(isinstance(fingerprint, str), "its fingerprint is no text")
    content = _content(text, checksum, ("cell", fingerprint))
    if "benchmark" in content:
        _check_run(content)
        _check(content["cell"]["fingerprint"] == fingerprint, "it describes another cell")
    shown: dict[str, Any] = redacted_values(content)
    return shown


def read_request(dataset: object, case_id: object, text: object, checksum: object) -> EditRequest:
    """An edit request; arguments and errors as for :func:`read_cell`."""
    _check(isinstance(dataset, str) and _is_int(case_id), "its key is damaged")
    content = _content(text, checksum, ("request", dataset, case_id))
    try:
        return EditRequest.from_dict(content)
    except (EditkitError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"it is no request: {error}") from None


def read_rating(name: object, payload: object, checksum: object) -> dict[str, Any]:
    """A rating as plain data; errors as for :func:`read_cell`."""
    _check(isinstance(name, str), "its name is no text")
    content = _content(payload, checksum, ("rating", name))
    _check_keys(content, _RATING_FIELDS, required=_RATING_FIELDS)
    _check(_is_int(content["case_id"]) and _is_int(content["place"]), "its case is no integer")
    _check(_is_texts(content["cells"]) and len(content["cells"]) == 2, "cells are not two texts")
    _check(isinstance(content["rater"], str), "rater is no text")
    _check(_is_mapping(content["answers"], _ANSWERS.__contains__), "answers are none of ours")
    _check(_is_number(content["rated_at"]), "rated_at is no number")
    return content


def read_environment(digest: object, payload: object, checksum: object) -> dict[str, Any]:
    """What rows were computed with; errors as for :func:`read_cell`."""
    _check(isinstance(digest, str), "its digest is no text")
    return _content(payload, checksum, ("environment", digest))


# ---------------------------------------------------------------- checks


def _content(text: object, checksum: object, key: tuple[Any, ...]) -> dict[str, Any]:
    if not isinstance(text, str):
        raise DamagedError("its content is no text")
    if checksum is not None and checksum_of(*key, text) != checksum:
        raise DamagedError("it fails its checksum")
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DamagedError(f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError("it is no mapping")
    return content


def _check(sound: bool, problem: str) -> None:
    if not sound:
        raise DamagedError(problem)


def _check_keys(content: Mapping[str, Any], known: set[str], *, required: set[str]) -> None:
    if unknown := sorted(content.keys() - known):
        raise DamagedError(f"it has the unknown key {unknown[0][:40]!r}")
    if missing := sorted(required - content.keys()):
        raise DamagedError(f"it lacks {missing[0]!r}")


def _check_run(content: Mapping[str, Any]) -> None:
    """The description that ``Run.describe`` makes."""
    _check_keys(content, _RUN_FIELDS, required=_RUN_FIELDS)
    _check(isinstance(content["benchmark"], str), "benchmark is no text")
    model, dataset = content["model"], content["dataset"]
    _check(_has(model, str, "name", "fingerprint", "dtype"), "model is no description of a model")
    _check(_has(dataset, str, "name", "digest"), "dataset is no description of a dataset")
    _check(_is_count(dataset.get("n_records")), "n_records is no whole number")
    _check(_is_count(dataset.get("rejected", 0)), "rejected is no whole number")
    _check(isinstance(dataset.get("config", {}), dict), "the dataset's config is no mapping")
    metrics, scores, seeds = content["metrics"], content["scores"], content["seeds"]
    _check(isinstance(metrics, list), "metrics are no list")
    for metric in metrics:
        _check(_has(metric, str, "name", "protocol"), "a metric has no name or protocol")
        _check(isinstance(metric.get("config", {}), dict), "a metric's config is no mapping")
    _check(isinstance(scores, list), "scores are no list")
    for score in scores:
        _check_score(score)
    _check(
        isinstance(seeds, list) and all(_is_int(seed) for seed in seeds), "seeds are no integers"
    )
    _check(_is_count(content["batch"]), "batch is no whole number")
    _check_cell(content["cell"])


def _check_score(score: object) -> None:
    if not isinstance(score, dict):
        raise DamagedError("a score is no mapping")
    _check_keys(score, _SCORE_FIELDS, required={"key"})
    _check(_has(score, str, "key"), "a score has no key")
    _check(isinstance(score.get("label", ""), str), "a score's label is no text")
    _check(_is_number(score.get("scale", 1.0)), "a score's scale is no number")
    flags = [score.get(name, False) for name in ("summary", "signed", "at_edit")]
    direction = score.get("higher_is_better")
    sound = all(isinstance(flag, bool) for flag in flags)
    _check(sound and (direction is None or isinstance(direction, bool)), "a score's flag is none")
    failure = score.get("failure")
    if failure is not None:
        _check(_has(failure, str, "name"), "a score's failure has no name")
        _check_keys(failure, _FAILURE_FIELDS, required={"name", "share"})
        _check(_is_number(failure["share"]), "a failure's share is no number")
        _check(isinstance(failure.get("of", ""), str), "a failure's score is no text")
        _check(_is_number(failure.get("floor") or 0.0), "a failure's floor is no number")


def _check_cell(cell: object) -> None:
    if not isinstance(cell, dict):
        raise DamagedError("cell is no mapping")
    _check_keys(cell, _CELL_FIELDS, required=_CELL_FIELDS)
    sound = _has(cell, str, "editor", "distribution", "version", "fingerprint")
    _check(sound, "the cell's editor is no text")
    _check(cell["preset"] is None or isinstance(cell["preset"], str), "its preset is no text")
    _check(_is_int(cell["seed"]), "its seed is no integer")
    _check(isinstance(cell["config"], dict), "its config is no mapping")
    _check(_is_mapping(cell["sources"], lambda value: isinstance(value, str)), "its sources")
    plain = (str, int, float, bool, type(None))
    _check(_is_mapping(cell["params"], lambda value: isinstance(value, plain)), "its params")


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


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_mapping(value: object, sound: Any) -> bool:
    return isinstance(value, dict) and all(sound(item) for item in value.values())
