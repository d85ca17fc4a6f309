"""What MLflow is told about one thing: plain data, known before MLflow is imported."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from editkit.storage.digests import sha256_of

_LONGEST_PARAMETER = 500
_ODD_CHARACTERS = re.compile(r"[^\w./ :-]")


@dataclasses.dataclass(frozen=True)
class Page:
    """One MLflow run, as it shall be.

    Attributes:
        fingerprint: Identity of the cell or report; the same one is the same run for ever.
        name: The run's name in lists and legends.
        started: ``finished`` less the time that was spent on it, in milliseconds since 1970.
        finished: When the last of it was computed, in milliseconds; None while it goes on.
        params: What was chosen, one flat value each.
        metrics: What came out; finite numbers only.
        tags: What to group and search by.
        dataset: Name, digest and source of the records; empty where there are none.
        files: Text artifacts by file name.
        records: All rows, for the Parquet file.
        curves: What came out step by step: (step, value, milliseconds), by metric.
        attachments: Content of other artifacts by file name.
        panels: Pictures (PNG) by name; those of one name stand side by side for all runs.
    """

    fingerprint: str
    name: str
    started: int
    finished: int | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    dataset: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    curves: Mapping[str, Sequence[tuple[int, float, int]]] = dataclasses.field(default_factory=dict)
    attachments: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    panels: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the whole content: an MLflow run that carries it needs no update."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True, default=_digest_of)
        return sha256_of(content)


def _digest_of(value: Any) -> str:
    return sha256_of(value) if isinstance(value, bytes) else str(value)


def finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics that MLflow can keep, under names that it accepts.

    Its SQL store turns infinity into 1.8e308, which then spoils every chart.
    """
    return {
        entity_name(key): float(value)
        for key, value in metrics.items()
        if value is not None and math.isfinite(value)
    }


def parameters(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as flat parameters: nested settings joined by dots, nothing that is not set."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": text for inner, text in parameters(value).items()})
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[entity_name(key)] = text[:_LONGEST_PARAMETER]
    return flat


def entity_name(key: str) -> str:
    """``key`` with the characters replaced that MLflow refuses in names."""
    return _ODD_CHARACTERS.sub("-", key)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines as the JSON that MLflow's table viewer reads; columns as they first occur."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    data = [[_plain(line.get(column)) for column in columns] for line in lines]
    return json.dumps({"columns": columns, "data": data}, allow_nan=False)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
