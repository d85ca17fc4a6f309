"""Scores by the number of facts in a model: what figures and tables of experiments are drawn from.

A curve is an editor with a configuration: in all joint regimes, each of which is a point, or in one
sequential regime, with a point per checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from editkit.benchmark.aggregate import Estimates, metrics_of, model_metrics_of
from editkit.benchmark.intervals import Estimate, clustered_mean
from editkit.benchmark.samples import COLLAPSED, Sample
from editkit.editing.outcomes import BASELINE
from editkit.regimes import Regime
from editkit.report.lines import Result
from editkit.report.sections import Section
from editkit.results import Cell, ModelRow, Row, Run
from editkit.storage.digests import canonical_json
from editkit_benchmarks.experiments.spec import Names, value_name

__all__ = ["Curve", "curves_of", "falls_below", "geometric_mean", "way_of"]

Points = Sequence[tuple[int, float]]
"""Number of facts and score, ascending by number of facts."""

_SMALLEST = 1e-12


@dataclasses.dataclass(frozen=True)
class Curve:
    """An editor's scores by the number of facts in a model.

    Attributes:
        label: The editor, and what differs from its other cells.
        way: ``at once``, ``one at a time`` or ``100 at a time``.
        run: The run.
        results: Its points, by number of facts.
    """

    label: str
    way: str
    run: Run
    results: tuple[Result, ...]

    @property
    def is_sequence(self) -> bool:
        """Whether its points are checkpoints of the same models."""
        return self.results[0].series.regime.kind == "sequential"

    @property
    def end(self) -> int:
        """Most facts in a model."""
        return self.results[-1].state.at

    def estimates(self, key: str, *, geometric: bool = False) -> list[tuple[int, Estimate]]:
        """Number of facts and score at each point that has it.

        Args:
            key: Key of a score of records or of models.
            geometric: Whether means over models are geometric; points at 0 are left out.
        """
        points = []
        for result in self.results:
            values = [row.scores[key] for row in _models(result) if key in row.scores]
            if values and geometric:
                if max(values) <= 0:
                    continue  # not on a logarithmic axis
                points.append((result.state.at, geometric_mean(values)))
            elif estimate := self._of(result).get(key):
                points.append((result.state.at, estimate))
        return points

    def _of(self, result: Result) -> Estimates:
        models = model_metrics_of(result.state.models, self.run.model_scores)
        return {**result.estimates, **models}

    def by_model(self, key: str) -> list[list[tuple[int, float]]]:
        """The points of every model of a sequence, for a score of records."""
        curves: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for result in self.results:
            for seed, rows in result.state.facts.by_seed.items():
                for group in sorted({row.group for row in rows}):
                    own = Sample({seed: [row for row in rows if row.group == group]}, shared=True)
                    if estimate := metrics_of(own, self.run.scores).get(key):
                        points = curves.setdefault((seed, group), [])
                        points.append((result.state.at, estimate.mean))
        return list(curves.values())

    def notes(self, name: str) -> list[tuple[Row, float]]:
        """The rows of the first model at the end, in the order of the edits, with a noted number.

        Args:
            name: Name of the note.
        """
        rows = next(iter(self.results[-1].series.last.by_seed.values()))
        first = [row for row in rows if row.group == 0]
        noted = [
            (row, float(row.notes[name]))
            for row in sorted(first, key=lambda row: row.place)
            if isinstance(row.notes.get(name), int | float)
        ]
        return [(row, number) for row, number in noted if math.isfinite(number)]

    def first_collapse(self) -> tuple[int, int, int] | None:
        """The first point with a collapsed model: facts, collapsed models, models; None for none.

        A model counts as collapsed if a metric of models has a score ``.../collapsed`` above 0.5.
        """
        for result in self.results:
            states = [
                any(score > 0.5 for key, score in row.scores.items() if key.endswith(COLLAPSED))
                for row in _models(result)
            ]
            if any(states):
                return result.state.at, sum(states), len(states)
        return None


def _models(result: Result) -> list[ModelRow]:
    return [row for rows in result.state.models.values() for row in rows]


def curves_of(section: Section, names: Names) -> list[Curve]:
    """The curves of a run, without the unedited model and the regime ``independent``.

    Args:
        section: The run.
        names: Names of values.
    """
    pools: dict[tuple[str, Any], list[Result]] = {}
    labels: dict[str, str] = {}
    for result in section.results:
        regime = result.series.regime
        if result.editor != BASELINE and not regime.is_independent:
            editor, label = _editor_of(result.series.cells[0]), _label_of(result, names)
            labels[editor] = max(label, labels.get(editor, ""), key=len)
            models = regime if regime.kind == "sequential" else "at once"
            pools.setdefault((editor, models), []).append(result)
    curves = []
    for (editor, _), results in pools.items():
        way = way_of(results[0].series.regime)
        largest: dict[int, Result] = {}  # of two joint regimes with the same number of facts
        for result in sorted(results, key=lambda result: result.state.facts.n_models):
            largest[result.state.at] = result
        points = tuple(largest[at] for at in sorted(largest))
        curves.append(Curve(labels[editor], way, section.run, points))
    return curves


def way_of(regime: Regime) -> str:
    """``at once``, ``one at a time``, ``100 at a time``."""
    if regime.kind == "joint":
        return "at once"
    return f"{'one' if regime.step == 1 else regime.step} at a time"


def _editor_of(cell: Cell) -> str:
    config = {field: value for field, value in cell.config.items() if field != "seed"}
    return canonical_json([cell.editor, cell.preset, config])


def _label_of(result: Result, names: Names) -> str:
    """The editor and the names of its named values; without any, its label in tables."""
    cell = result.series.cells[0]
    values = (
        value_name(field, cell.config[field], names) for field in names if field in cell.config
    )
    named = [name for name in values if name is not None]
    return f"{cell.editor}, {', '.join(named)}" if named else result.label


# ---------------------------------------------------------------- numbers


def geometric_mean(values: Sequence[float]) -> Estimate:
    """Geometric mean of positive numbers of different models, with Student's t on their logarithms.

    Numbers that are not positive count as 1e-12.
    """
    logs = [math.log(max(value, _SMALLEST)) for value in values]
    mean = clustered_mean(logs, range(len(logs)))
    low, high = mean.interval
    if math.isnan(low):
        return Estimate(_exp(mean.mean), None, None, len(logs))
    return Estimate(_exp(mean.mean), _exp(low), _exp(high), len(logs))


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def falls_below(points: Points, level: float) -> float | None:
    """The number of facts from which on a score is below a level; None if it is not at the end.

    It is interpolated between points, in the logarithm of the number of facts. If all points are
    below the level, it is the number of facts at the first.
    """
    above = [i for i, (_, score) in enumerate(points) if score >= level]
    if not above:
        return float(points[0][0])
    if above[-1] == len(points) - 1:
        return None
    (before, high), (after, low) = points[above[-1]], points[above[-1] + 1]
    share = (high - level) / (high - low)
    return before * math.pow(after / before, share)
