"""The content of one MLflow run as plain data, built before MLflow is imported."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from editkit.storage.digests import sha256_of

_LONGEST_PARAMETER = 500
_REFUSED_CHARACTERS = re.compile(r"[^\w./ :-]")


@dataclasses.dataclass(frozen=True)
class RunContent:
    """Everything that an MLflow run shows.

    Attributes:
        fingerprint: Identity of the cell or report; it finds the MLflow run again.
        name: The run's name in lists and legends.
        started: ``finished`` minus the time spent, in milliseconds since 1970.
        finished: When the last part was computed, in milliseconds; None if it is still running.
        params: Settings, as flat texts.
        metrics: Results, finite numbers only.
        step: Their step: the number of facts in each model, or 0.
        tags: Tags to group and search by.
        dataset: Name, digest and source of the records; empty if there are none.
        files: Text artifacts by file name.
        records: All rows, for the Parquet file.
        curves: Points (step, value, milliseconds) of each curve, by metric.
        attachments: Content of other artifacts by file name.
        panels: Images (PNG) by name; MLflow shows those of one name of all runs in one panel.
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
    step: int = 0

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything; an MLflow run with this digest needs no update."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return sha256_of(json.dumps(fields, sort_keys=True, default=_digest_of))

    @property
    def logged_at(self) -> int:
        """Timestamp of the metrics, in milliseconds."""
        return self.started if self.finished is None else self.finished


def _digest_of(value: Any) -> str:
    return sha256_of(value) if isinstance(value, bytes) else str(value)


def finite_metrics(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The finite metrics, under names that MLflow accepts.

    MLflow's SQL store turns infinity into 1.8e308, which breaks the scale of every chart.
    """
    return {
        mlflow_name(key): float(value)
        for key, value in metrics.items()
        if value is not None and math.isfinite(value)
    }


def flat_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as flat parameters: nested names joined by dots, None omitted."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": text for inner, text in flat_params(value).items()})
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[mlflow_name(key)] = text[:_LONGEST_PARAMETER]
    return flat


def mlflow_name(key: str) -> str:
    """``key`` with a dash for each character that MLflow refuses in names."""
    return _REFUSED_CHARACTERS.sub("-", key)


def milliseconds(seconds: float) -> int:
    """MLflow's unit of time."""
    return round(seconds * 1000)


def table_json(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines as the JSON of MLflow's table viewer; columns in the order of first occurrence."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    data = [[_finite(line.get(column)) for column in columns] for line in lines]
    return json.dumps({"columns": columns, "data": data}, allow_nan=False)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
