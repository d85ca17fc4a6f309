"""What a benchmark run is made of: data that the store reads and writes, and observers receive.

Its rows are read with :func:`editkit.benchmark.store.rows_of`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from editkit.data_types import Score

__all__ = ["STORE_FILE", "Cell", "Row", "Run"]

STORE_FILE = "results.sqlite"


@dataclasses.dataclass(frozen=True)
class Row:
    """What one editor did on one record.

    Attributes:
        case_id: The record.
        status: ``failed`` rows carry a reason in ``error`` and no scores.
        scores: One number per score key (``efficacy/score``), as fractions.
        details: One number per prompt, by key of the metric's choice.
        times: Seconds by what they were spent on: ``edit_s``, ``score_s``, ``prepare_s``.
        notes: What the editor says about the edit.
        error: Why it failed.
        completed_at: Seconds since the epoch.
        peak_rss_mb: Peak memory of the process until then.
        texts: What the edited model wrote, by key of the metric's choice: ``generation``.
        environment: Digest of what it was computed with (``Store.environments``); empty where
            that was not recorded.
    """

    case_id: int
    status: Literal["done", "failed"]
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    details: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    completed_at: float = 0.0
    peak_rss_mb: float = 0.0
    texts: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    environment: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One line of the table: an editor with its configuration and a seed.

    Attributes:
        editor: Name of the editor.
        preset: Its preset, if it has any.
        config: Its whole configuration as plain data.
        sources: Where each value of ``config`` came from.
        distribution: Distribution that the editor comes from.
        version: Version of that distribution.
        seed: The run's seed.
        fingerprint: Digest of everything that the results depend on.
        params: Flat parameters for tracking: ``editor``, ``model``, ``editor.<field>``, ...
    """

    editor: str
    preset: str | None
    config: Mapping[str, Any]
    sources: Mapping[str, str]
    distribution: str
    version: str
    seed: int
    fingerprint: str
    params: Mapping[str, str | int | float | bool | None]


@dataclasses.dataclass(frozen=True)
class Run:
    """One benchmark on one model and slice of a dataset.

    Attributes:
        out: Output folder.
        benchmark: Name of the benchmark.
        model: The model's description: ``name``, ``fingerprint``, ``dtype``, ...
        dataset: ``name``, ``digest`` and ``n_records`` of the slice, ``config``, ``rejected``.
        metrics: Metrics with ``name``, ``protocol``, ``config``, ``distribution``, ``version``.
        scores: All scores that the metrics declare, in order.
        seeds: The run's seeds.
        cells: The lines of the table.
        batch: Records edited and scored together.
        shard: Which part of the records this process does, as (I, N) with I from 1.
        tracking: Whether tracking services should be told.
    """

    out: Path
    benchmark: str
    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    scores: tuple[Score, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    batch: int
    shard: tuple[int, int] = (1, 1)
    tracking: bool = True

    @property
    def store(self) -> Path:
        """The file with all rows."""
        return self.out / STORE_FILE

    def describe(self, cell: Cell) -> dict[str, Any]:
        """Everything about a cell except its rows, as plain data; a store keeps it."""
        return {
            "benchmark": self.benchmark,
            "model": dict(self.model),
            "dataset": dict(self.dataset),
            "metrics": [dict(metric) for metric in self.metrics],
            "scores": [dataclasses.asdict(score) for score in self.scores],
            "seeds": list(self.seeds),
            "batch": self.batch,
            "cell": dataclasses.asdict(cell),
        }
