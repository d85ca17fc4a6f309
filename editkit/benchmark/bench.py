"""The bench of a run: what one worker needs to compute rows, and how it is built.

A bench never touches the output folder. It answers to the driver, which does
(:mod:`editkit.benchmark.driver`).
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from editkit.benchmark.cell_bench import (
    BatchBench,
    CellBench,
    Instruments,
    WeightGuard,
    is_broken_device,
    reason_of,
)
from editkit.benchmark.environment import environment_of
from editkit.benchmark.group_bench import GroupBench
from editkit.benchmark.inputs import load_model_of
from editkit.benchmark.jobs import Answer, Begun, Job, WeightsChanged
from editkit.benchmark.plan import Plan, PlannedMetric
from editkit.benchmark.spec import ModelChoice
from editkit.errors import EditkitError, ModelError, PluginError
from editkit.interfaces import Config, Editor
from editkit.registry.plugins import Registry, default_registry
from editkit.results import Cell

if TYPE_CHECKING:
    from editkit.models import LanguageModel

__all__ = ["Bench", "BenchRecipe"]

_SECONDS_BETWEEN_STATES = 60.0


@dataclasses.dataclass(frozen=True)
class CellRecipe:
    """A cell, and how its editor is built."""

    cell: Cell
    config: Config
    writes_together: bool


@dataclasses.dataclass(frozen=True)
class MetricRecipe:
    """How a metric, of records or of models, is built."""

    kind: Any
    name: str
    config: Config

    @classmethod
    def of(cls, planned: PlannedMetric) -> MetricRecipe:
        """The recipe of a planned metric."""
        return cls(planned.offer.kind, planned.offer.name, planned.resolved.config)


@dataclasses.dataclass(frozen=True)
class BenchRecipe:
    """How a worker builds its bench.

    Attributes:
        model: The model.
        fingerprint: The fingerprint that it must have.
        chat: Whether records need a chat template.
        texts: Texts of the dataset that metrics are fitted to.
        metrics: Metrics of records.
        model_metrics: Metrics of models.
        own_model_metrics: Names of those that score the model of each record.
        cells: The cells with work left.
        batch: Records that are scored together.
        registry: Provides editors and metrics. A worker in another process has its own.
        seconds_between_states: How long a worker keeps the state of a group before it answers it.
    """

    model: ModelChoice
    fingerprint: str
    chat: bool
    texts: Mapping[str, tuple[str, ...]]
    metrics: tuple[MetricRecipe, ...]
    model_metrics: tuple[MetricRecipe, ...]
    own_model_metrics: frozenset[str]
    cells: tuple[CellRecipe, ...]
    batch: int
    registry: Registry | None
    seconds_between_states: float = 0.0

    @classmethod
    def of(
        cls, plan: Plan, cells: Collection[str], registry: Registry, *, is_local: bool
    ) -> BenchRecipe:
        """The recipe for some cells of a plan.

        Args:
            plan: The plan.
            cells: Fingerprints of the cells with work left.
            registry: Provides editors and metrics.
            is_local: Whether the bench is built in this process.
        """
        shares_models = any(not planned.cell.regime.is_independent for planned in plan.cells)
        own = [metric for metric in plan.metrics if metric.of_models]
        return cls(
            model=plan.model,
            fingerprint=plan.model_fingerprint,
            chat=any(request.chat for record in plan.records for request in record.requests),
            texts=plan.texts,
            metrics=tuple(MetricRecipe.of(each) for each in plan.metrics if not each.of_models),
            model_metrics=tuple(map(MetricRecipe.of, plan.model_metrics if shares_models else own)),
            own_model_metrics=frozenset(metric.offer.name for metric in own),
            cells=tuple(
                CellRecipe(planned.cell, planned.config, planned.writes_together)
                for planned in plan.cells
                if planned.cell.fingerprint in cells
            ),
            batch=plan.batch,
            registry=registry if is_local else None,
            seconds_between_states=0.0 if is_local else _SECONDS_BETWEEN_STATES,
        )

    def build(self) -> Bench:
        """Load the model, prepare the metrics and check the editors.

        Raises:
            ModelError: The model cannot be loaded, has another fingerprint, or lacks a chat
                template.
            PluginError: An editor or metric is missing or cannot be prepared.
        """
        return Bench(self)


class Bench:
    """The model, prepared metrics, and one prepared editor at a time."""

    def __init__(self, recipe: BenchRecipe) -> None:
        registry = recipe.registry or default_registry()
        self._recipe, self._registry = recipe, registry
        self._cells = {own.cell.fingerprint: own for own in recipe.cells}
        model = _loaded(recipe)
        metrics = _prepared(recipe.metrics, registry, lambda metric: metric.prepare(recipe.texts))
        for _, metric in metrics:
            metric.check(model)
        of_models = _prepared(recipe.model_metrics, registry, lambda metric: metric.prepare(model))
        self._instruments = Instruments(
            model=model,
            guard=WeightGuard(model),
            metrics=metrics,
            own_model_metrics=[each for each in of_models if each[0] in recipe.own_model_metrics],
            model_metrics=of_models,
            batch=recipe.batch,
        )
        # Build all editors first: broken ones show up before any work is done.
        self._checked = {fingerprint: self._editor(fingerprint) for fingerprint in self._cells}
        self._current: CellBench | None = None

    def about(self) -> Mapping[str, Any]:
        """``model``, its description, and ``environment``, in which rows are computed here."""
        description = self._instruments.model.describe()
        return {"model": description, "environment": environment_of(description)}

    def do(self, job: Job) -> Iterator[Answer]:
        """Compute the rows of a unit of work."""
        yield Begun()
        current = self._current
        if current is None or current.cell.fingerprint != job.cell:
            current = self._current = None  # frees the editor of the last cell
            current = self._bench_of(job.cell)
            current.prepare()
            self._current = current
        try:
            yield from current.do(job)
        except Exception as error:
            if is_broken_device(error):
                self._give_up(error)
            if self._instruments.guard.is_unchanged():
                raise
            yield WeightsChanged()  # which explains the error

    def _give_up(self, error: Exception) -> NoReturn:
        """End a worker with a device that fails: another one does its job again.

        Raises:
            ModelError: This is the driver's own process.
        """
        if self._recipe.registry is None:
            os._exit(1)  # an exception would end the whole run
        raise ModelError(
            f"the model's device {self._recipe.model.device} failed: {reason_of(error)}.",
            hint="Run the same command again: it resumes. If it fails at the same record, "
            "CUDA_LAUNCH_BLOCKING=1 and --debug show where.",
        ) from error

    def _bench_of(self, fingerprint: str) -> CellBench:
        own = self._cells[fingerprint]
        editor = self._checked.pop(fingerprint, None)
        if editor is None:  # this worker had another cell in between
            editor = self._editor(fingerprint)
        if own.cell.regime.is_independent:
            return BatchBench(self._instruments, own.cell, editor)
        return GroupBench(
            self._instruments,
            own.cell,
            editor,
            together=own.writes_together,
            seconds_between_states=self._recipe.seconds_between_states,
        )

    def _editor(self, fingerprint: str) -> Editor[Any]:
        own = self._cells[fingerprint]
        editor: Editor[Any] = self._registry.build("editor", own.cell.editor, own.config)
        editor.check(self._instruments.model)
        return editor


def _loaded(recipe: BenchRecipe) -> LanguageModel:
    model = load_model_of(recipe.model)
    if model.fingerprint != recipe.fingerprint:
        raise ModelError(
            f"model {recipe.model.name!r} has fingerprint {model.fingerprint} on "
            f"{platform.node()}, expected {recipe.fingerprint}: its files changed after the run "
            "was planned, or are others on this machine.",
            hint="Run the command again, with the same files of the model on all machines.",
        )
    if recipe.chat:
        _ = model.chat_template  # raises here, once, instead of in every record
    return model


def _prepared(
    recipes: Sequence[MetricRecipe], registry: Registry, prepare: Callable[[Any], None]
) -> list[tuple[str, Any]]:
    """Metrics by name, of records or of models. All cells are scored by the same objects."""
    prepared = []
    for recipe in recipes:
        metric = registry.build(recipe.kind, recipe.name, recipe.config)
        try:
            prepare(metric)
        except (EditkitError, MemoryError):
            raise
        except Exception as error:
            flag = f"--{recipe.kind.replace('_', '-')}s"
            raise PluginError(
                f"metric {recipe.name!r} could not be prepared: {reason_of(error)}.",
                hint=f"--debug shows the traceback; {flag} chooses other metrics.",
            ) from error
        prepared.append((recipe.name, metric))
    return prepared
