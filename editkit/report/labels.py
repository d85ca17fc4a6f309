"""Names of runs and cells in tables and pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from editkit.benchmark.samples import Series
from editkit.regimes import Regime
from editkit.registry.values_label import values_from
from editkit.reprs import counted
from editkit.results import Cell, Run
from editkit.storage.digests import canonical_json, digest

__all__ = [
    "distinct_titles",
    "edits_labels",
    "format_records",
    "format_seconds",
    "labels_of",
    "regimes_of",
    "run_key",
    "run_title",
    "series_labels",
    "series_names",
]

_MOST_FIELDS = 3


def run_title(run: Run) -> str:
    """One line that describes a run: benchmark, records, model."""
    edits = f" ({run.dataset['n_edits']} edits)" if "n_edits" in run.dataset else ""
    random = "random " if run.dataset.get("sample") is not None else ""
    records = f"{run.dataset['n_records']} {random}records{edits} of {run.dataset['name']}"
    shard = f", part {run.shard[0]} of {run.shard[1]}" if run.shard[1] > 1 else ""
    config = run.dataset.get("config") or {}
    prompts = ", asked in a chat" if config.get("chat") is True else ""
    if isinstance(separator := config.get("separator"), str):
        prompts += f", with the separator {separator!r}"
    return (
        f"{run.benchmark}: {records}{shard}{prompts}, on {run.model['name']} "
        f"({run.model['dtype']}); shares x 100, 95% intervals"
    )


def distinct_titles(runs: Sequence[Run]) -> list[str]:
    """The titles of runs; equal ones get :func:`run_key`, and the procedures that not all have."""
    titles = [run_title(run) for run in runs]
    protocols = [
        {str(each["protocol"]) for each in run.metrics if each["protocol"]} for run in runs
    ]
    distinct = []
    for title, run, own in zip(titles, runs, protocols, strict=True):
        twins = [other for other, its in zip(protocols, titles, strict=True) if its == title]
        if len(twins) > 1:
            differing = sorted(own - own.intersection(*twins))
            title = f"{title} [{run_key(run)}]" + "".join(f"; {each}" for each in differing)
        distinct.append(title)
    return distinct


def run_key(run: Run) -> str:
    """Six hex digits that identify the model, the records and the metrics' protocols of a run."""
    metrics = [dict(metric) for metric in run.metrics]
    return digest([run.model["fingerprint"], run.dataset["digest"], metrics])[:6]


def labels_of(run: Run) -> tuple[str, ...]:
    """A distinct label for each cell: its editor, what differs from cells of that editor, and its
    regime if facts share models: ``rome (layer 3, joint 100)``."""
    return tuple(_label(cell, run.cells) for cell in run.cells)


def series_names(series: Sequence[Series]) -> tuple[str, ...]:
    """A distinct name for each series, as :func:`labels_of`; pooled seeds are not named."""
    heads = _heads(series)
    return tuple(_label(head, heads) for head in heads)


def series_labels(series: Sequence[Series]) -> tuple[str, ...]:
    """Labels for tables with a column that names the regime; distinct within a regime."""
    heads = _heads(series)
    return tuple(
        _label(head, [other for other in heads if other.regime == head.regime], with_edits=False)
        for head in heads
    )


def regimes_of(run: Run, series: Sequence[Series]) -> list[Regime]:
    """The regime of each series, with no more models than the run's records allow.

    As written, if two regimes of an editor would be equal.
    """
    written = [each.regime for each in series]
    n_records = int(run.dataset["n_records"])
    possible = [
        dataclasses.replace(regime, groups=min(regime.groups, -(-n_records // regime.facts)))
        if regime.groups
        else regime
        for regime in written
    ]
    editors = [each.editor for each in series]
    are_distinct = len({*zip(editors, possible, strict=True)}) == len(
        {*zip(editors, written, strict=True)}
    )
    return possible if are_distinct else written


def edits_labels(regimes: Sequence[Regime]) -> tuple[str, ...]:
    """The entries of the column ``edits``: equal only for equal regimes."""
    short: dict[str, set[Regime]] = {}
    for regime in regimes:
        short.setdefault(regime.label, set()).add(regime)
    return tuple(_long(each) if len(short[each.label]) > 1 else each.label for each in regimes)


def _long(regime: Regime) -> str:
    at = f", scored at {', '.join(map(str, regime.checkpoints))}" if regime.checkpoints else ""
    return f"{regime.label}{at}" + (f", {counted(regime.groups, 'model')}" if regime.groups else "")


def _heads(series: Sequence[Series]) -> list[Cell]:
    """A cell of each series; series with pooled seeds do not differ in the seed."""
    return [
        each.cells[0] if each.regime.is_independent else dataclasses.replace(each.cells[0], seed=0)
        for each in series
    ]


def _label(cell: Cell, cells: Sequence[Cell], *, with_edits: bool = True) -> str:
    same = [other for other in cells if other.editor == cell.editor]
    parts = []
    peers = [other for other in same if other.regime == cell.regime]
    if len({other.preset for other in peers}) > 1:
        parts.append(str(values_from(cell)))
    if len({other.seed for other in peers}) > 1:
        parts.append(f"seed {cell.seed}")
    edits = edits_labels([other.regime for other in same])
    twins = [other for other in peers if (other.preset, other.seed) == (cell.preset, cell.seed)]
    if len(twins) > 1:
        parts += _differing(cell, twins)
    if with_edits and not cell.regime.is_independent:
        parts.append(dict(zip((other.regime for other in same), edits, strict=True))[cell.regime])
    return f"{cell.editor} ({', '.join(parts)})" if parts else cell.editor


def _differing(cell: Cell, twins: Sequence[Cell]) -> list[str]:
    """The settings in which cells differ; if there are none or too many, where the values come
    from, or else the fingerprint."""
    fields = [
        field
        for field in cell.config
        if field != "seed" and len({canonical_json(twin.config.get(field)) for twin in twins}) > 1
    ]
    settings = {tuple(canonical_json(twin.config.get(field)) for field in fields) for twin in twins}
    if len(fields) > _MOST_FIELDS or len(settings) < len(twins):
        labels = [values_from(twin) for twin in twins]
        label = values_from(cell)
        return [label if label and labels.count(label) == 1 else cell.fingerprint[:6]]
    return [f"{field} {_short(cell.config[field])}" for field in fields]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else canonical_json(value)


def format_seconds(value: float | None) -> str:
    """Seconds with three decimals; ``<0.001`` below that, a dash for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def format_records(counts: Mapping[str, int]) -> str:
    """Counts of records: ``98 (2 failed)``, or ``5 of 12`` while a cell is incomplete.

    Args:
        counts: Records ``done`` and ``failed``; ``wanted`` if some may be missing.
    """
    done, failed = counts["done"], counts["failed"]
    wanted = counts.get("wanted", 0)
    of = f" of {wanted}" if done + failed < wanted else ""
    return f"{done}{of} ({failed} failed)" if failed else f"{done}{of}"
