"""The plan of a run: its cells with their fingerprints, and its records in batches and groups.

Batches (records that are computed together) and groups (records that share a model) are cut here,
whatever is stored already: neither depends on interruptions or shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.benchmark.dependencies import dependencies
from editkit.benchmark.inputs import (
    fingerprint_of,
    identity_of,
    load_records,
    n_layers_of,
)
from editkit.benchmark.planned_metrics import PlannedMetric, plan_metrics, with_corpus
from editkit.benchmark.repeated_edits import contradictions, warning_of
from editkit.benchmark.resolving import ConfigResolver
from editkit.benchmark.spec import Benchmark, ModelChoice, PluginValues
from editkit.benchmark.store import Store
from editkit.data_types import Record, RejectedRecord
from editkit.editing.outcomes import BASELINE
from editkit.errors import ConfigError, EditkitError
from editkit.interfaces import Config
from editkit.records.digests import slice_digest
from editkit.redaction import redacted_values
from editkit.regimes import Regime
from editkit.registry.config import Resolved
from editkit.registry.model_identity import ModelIdentity
from editkit.registry.plugins import Offer, Registry
from editkit.registry.specs import EditorSpec
from editkit.results import Cell, Run
from editkit.storage.digests import canonical_json, digest

__all__ = [
    "Batch",
    "ConfigResolver",
    "Plan",
    "PlannedCell",
    "PlannedMetric",
    "cut",
    "make_plan",
    "ordered",
]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Records that are edited and scored together, or written into one model.

    ``index`` counts over all shards.
    """

    index: int
    records: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class PlannedCell:
    """A cell, and the configuration that its editor is built from.

    Attributes:
        cell: The cell.
        resolved: The configuration.
        writes_together: Whether the editor writes all facts of a step, or of a record, at once;
            otherwise it takes them one after the other.
    """

    cell: Cell
    resolved: Resolved
    writes_together: bool = False

    @property
    def config(self) -> Config:
        """The validated configuration."""
        return self.resolved.config


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a run will do, fixed before a model is loaded.

    ``metrics`` are those that score records. In the regime ``independent`` they include metrics of
    models: each record has a model of its own. ``model_metrics`` score models that facts share.
    """

    benchmark: str
    model: ModelChoice
    model_fingerprint: str
    dataset: Mapping[str, Any]
    rejected: tuple[RejectedRecord, ...]
    metrics: tuple[PlannedMetric, ...]
    seeds: tuple[int, ...]
    cells: tuple[PlannedCell, ...]
    batch: int
    batches: tuple[Batch, ...]
    shard: tuple[int, int]
    texts: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, EditkitError] = dataclasses.field(default_factory=dict)
    model_metrics: tuple[PlannedMetric, ...] = ()
    records: tuple[Record, ...] = ()

    def units(self, cell: Cell) -> tuple[Batch, ...]:
        """The units of work of a cell in this shard: batches, or groups that share a model."""
        if cell.regime.is_independent:
            return self.batches
        groups = cell.regime.groups_of(ordered(self.records, cell.seed))
        own = (Batch(i, group) for i, group in enumerate(groups))
        return tuple(each for each in own if each.index % self.shard[1] == self.shard[0] - 1)

    def n_records(self, cell: Cell) -> int:
        """Number of records of a cell in this shard."""
        return sum(len(unit.records) for unit in self.units(cell))

    @property
    def notes(self) -> tuple[str, ...]:
        """For the log: the hyperparameter files in use, and values that named presets chose."""
        files: dict[str, dict[str, None]] = {}
        chosen: dict[str, None] = {}
        for planned in self.cells:
            match = planned.resolved.matched
            if match.values is not None:
                file = f"{planned.cell.editor} from {match.values.file}"
                files.setdefault(match.why, {})[file] = None
            for remark in planned.resolved.remarks:
                if remark != planned.resolved.rule:
                    chosen[f"{planned.cell.editor}: {remark}"] = None
        used = (f"values {why}: {', '.join(names)}" for why, names in files.items())
        return (*used, *chosen, *self._one_by_one())

    def _one_by_one(self) -> list[str]:
        """Editors that write the facts of a joint edit, or of a step, one after the other."""
        names = dict.fromkeys(
            planned.cell.editor
            for planned in self.cells
            if not planned.writes_together
            and (planned.cell.regime.together > 1 or self.edits_per_record > 1)
            and planned.cell.editor != BASELINE
        )
        if not names:
            return []
        return [f"{', '.join(names)}: one fact after the other, also in a joint edit or a step"]

    @property
    def edits_per_record(self) -> int:
        """Number of edits of the record that has most."""
        return max((len(record.requests) for record in self.records), default=1)

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the log: editors left out, files of values not used, guesses, contradictions."""
        warnings = [f"{name} is left out: {error}" for name, error in self.left_out.items()]
        for planned in self.cells:
            name, resolved = planned.cell.editor, planned.resolved
            if resolved.matched.refused:
                warnings.append(f"{name}: {resolved.matched.refused}")
            warnings += [f"{name}: {guess}" for guess in resolved.guesses]
            warnings += self._uneven(planned.cell)
            warnings += self._contradictions(planned.cell)
        return tuple(dict.fromkeys(warnings))

    def _uneven(self, cell: Cell) -> list[str]:
        groups = cell.regime.groups_of(self.records)
        if len(groups[-1]) == len(groups[0]):
            return []
        return [
            f"edits {cell.regime.label}: the last of {len(groups)} models gets only "
            f"{len(groups[-1])} facts, because {len(self.records)} records are not a multiple of "
            f"{cell.regime.facts}"
        ]

    def _contradictions(self, cell: Cell) -> list[str]:
        regime, records = cell.regime, ordered(self.records, cell.seed)
        models = (
            [(each,) for each in records] if regime.is_independent else regime.groups_of(records)
        )
        warning = warning_of(
            contradictions((record.case_id, record.requests) for record in model)
            for model in models
        )
        return [f"edits {regime.label}: {warning}"] if warning else []

    def remaining(self, cell: Cell, store: Store | None) -> list[Batch]:
        """The units of work that lack a row of this cell, at any checkpoint."""
        if store is None:
            return list(self.units(cell))
        stored, models = self.stored(cell, store)
        return [
            unit
            for unit in self.units(cell)
            if any(
                not self.has_checkpoint(cell, unit, mark, stored, models)
                for mark in cell.regime.checkpoints_of(len(unit.records))
            )
        ]

    def stored(
        self, cell: Cell, store: Store
    ) -> tuple[Collection[tuple[int, ...]], Collection[tuple[int, ...]]]:
        """What a store has of a cell, for :meth:`has_checkpoint`: keys of records, and of models.

        Damaged entries do not count.
        """
        if cell.regime.is_independent:
            return {(0, *key) for key in store.keys("rows", cell.fingerprint)}, ()
        rows = {(row.checkpoint, row.case_id) for row in store.rows(cell.fingerprint)}
        models = store.keys("models", cell.fingerprint)
        return rows | store.keys("history", cell.fingerprint), models

    def has_checkpoint(
        self,
        cell: Cell,
        unit: Batch,
        checkpoint: int,
        rows: Collection[tuple[int, ...]],
        models: Collection[tuple[int, ...]],
    ) -> bool:
        """Whether all rows of a unit at a checkpoint are stored.

        Args:
            cell: The cell.
            unit: The batch or group.
            checkpoint: Number of facts; 0 outside sequences.
            rows: (checkpoint, case id) of the stored rows.
            models: (checkpoint, group) of the stored scores of models.
        """
        records = unit.records[: checkpoint or None]
        whole = all((checkpoint, record.case_id) in rows for record in records)
        if cell.regime.is_independent or not self.model_metrics:
            return whole
        return whole and (checkpoint, unit.index) in models

    def run(self, out: Path, model: Mapping[str, Any], *, tracking: bool) -> Run:
        """The run, as the store keeps it and observers receive it.

        Args:
            out: The output folder.
            model: The model's description.
            tracking: Whether to send results to tracking services.
        """
        return Run(
            out=out,
            benchmark=self.benchmark,
            model=model,
            dataset=self.dataset,
            metrics=tuple(metric.describe() for metric in self.metrics),
            scores=tuple(score for metric in self.metrics for score in metric.scores),
            seeds=self.seeds,
            cells=tuple(planned.cell for planned in self.cells),
            batch=self.batch,
            shard=self.shard,
            tracking=tracking,
            model_metrics=tuple(metric.describe() for metric in self.model_metrics),
            model_scores=tuple(s for metric in self.model_metrics for s in metric.scores),
        )

    def model_description(self) -> dict[str, Any]:
        """The model's description, as far as it is known before loading."""
        return {**self.model.model_dump(), "fingerprint": self.model_fingerprint}


def make_plan(
    benchmark: Benchmark,
    registry: Registry,
    *,
    place: str = "benchmark",
    values: PluginValues | None = None,
    shard: tuple[int, int] = (1, 1),
    leave_out: bool = False,
    fingerprint_of: Callable[[ModelChoice], str] = fingerprint_of,
    n_layers_of: Callable[[ModelChoice], int | None] = n_layers_of,
    identity_of: Callable[[ModelChoice], ModelIdentity] = identity_of,
) -> Plan:
    """Resolve all configurations, read the records and compute the fingerprints.

    Args:
        benchmark: The benchmark.
        registry: Where editors, metrics and the dataset are looked up.
        place: Name of the benchmark file, for provenance and error messages.
        values: Config values from the command line.
        shard: (I, N): only part I of N of the batches.
        leave_out: Leave out editors that cannot edit this model, instead of raising an error.
        fingerprint_of: Looks up the model's fingerprint, without loading the model.
        n_layers_of: Looks up its number of layers, if known.
        identity_of: Looks up the names by which hyperparameter files may know it.

    Raises:
        ConfigError: A configuration is invalid, an editor cannot edit this model, or the benchmark
            repeats an editor. Problems of several editors are one error.
        DatasetError: The records cannot be read.
        PluginError: A plugin is missing or broken.
    """
    identity = identity_of(benchmark.model)
    resolver = ConfigResolver(registry, benchmark.model, identity, place, values or {}, n_layers_of)
    metrics, model_metrics = plan_metrics(benchmark, resolver)
    _check_records_have_scores(benchmark, metrics)
    problems: dict[str, EditkitError] = {}
    editors = []  # before the records are read: invalid values are reported at once
    for i, choice in enumerate(benchmark.editors):
        for seed in choice.seeds or benchmark.seeds:
            with _collecting(problems, choice.name):
                both = resolver.resolve("editor", f"editors.{i}", choice, choice.preset, seed)
                editors.append((choice.edits or benchmark.edits, seed, *both))
    _raise(problems)
    offer, resolved = resolver.resolve("dataset", "dataset", benchmark.dataset)
    loaded = load_records(registry.build("dataset", offer.name, resolved.config), offer)
    metrics = tuple(with_corpus(metric, loaded, offer) for metric in metrics)
    records = benchmark.chosen(loaded.records)
    _check_enough(benchmark, len(records), len(loaded.records))
    dataset = {
        "name": offer.name,
        "digest": slice_digest(records),
        "n_records": len(records),
        "config": redacted_values(resolved.to_dict()),
        "rejected": len(loaded.rejected),
    }
    if benchmark.sample is not None and len(records) < len(loaded.records):
        dataset["sample"] = benchmark.sample
    if (n_edits := sum(len(record.requests) for record in records)) > len(records):
        dataset["n_edits"] = n_edits
    model_fingerprint = fingerprint_of(benchmark.model)
    metrics, model_metrics = (
        tuple(
            dataclasses.replace(
                m, depends_on=dependencies(m.resolved.config, model_fingerprint, name=m.spec.name)
            )
            for m in some
        )
        for some in (metrics, model_metrics)
    )
    common = {
        "model": model_fingerprint,
        "dtype": benchmark.model.dtype,
        "dataset": dataset["digest"],
        "metrics": [metric.describe() for metric in metrics],
        "batch": benchmark.batch,
    }
    if benchmark.model.attention is not None:  # affects the last digits
        common["attention"] = benchmark.model.attention
    cells, unable = [], dict[str, EditkitError]()
    for regime in benchmark.regimes:
        shared = dict(common)
        if not regime.is_independent:
            shared["metrics"] = [each.describe() for each in metrics if not each.of_models]
            shared["edits"] = regime.to_dict()
            shared["model_metrics"] = [metric.describe() for metric in model_metrics]
        for own, seed, editor, chosen in editors:
            if regime not in own:
                continue
            with _collecting(unable if leave_out else problems, editor.name):
                chosen.config.check_for(benchmark.model.name, model_fingerprint, editor.name)
                cells.append(_cell(editor, chosen, seed, benchmark, dataset, shared, regime))
    _raise(problems or (unable if not cells else {}))
    _check_distinct(cells, place)
    batches = cut(records, benchmark.batch)
    return Plan(
        benchmark=benchmark.name,
        model=benchmark.model,
        model_fingerprint=model_fingerprint,
        dataset=dataset,
        rejected=loaded.rejected,
        metrics=metrics,
        seeds=tuple(dict.fromkeys(planned.cell.seed for planned in cells)),
        cells=tuple(cells),
        batch=benchmark.batch,
        batches=tuple(b for b in batches if b.index % shard[1] == shard[0] - 1),
        shard=shard,
        texts=loaded.texts,
        left_out=unable,
        model_metrics=model_metrics,
        records=records,
    )


def _check_enough(benchmark: Benchmark, n: int, available: int) -> None:
    """Refuse a regime with more facts per model than there are records.

    Raises:
        ConfigError: There are too few.
    """
    for regime in benchmark.regimes:
        if not regime.is_independent and n < regime.facts:
            hint = (
                f"Use more records (--limit {regime.facts}), or fewer facts."
                if available >= regime.facts
                else f"Use at most {available} facts (with --limit {available}): the dataset has "
                "no more records."
            )
            raise ConfigError(
                f"edits is {regime.label}, but the run has only {n} records.", hint=hint
            )


def _check_records_have_scores(benchmark: Benchmark, metrics: Sequence[PlannedMetric]) -> None:
    """Refuse regimes in which no metric scores the facts.

    Raises:
        ConfigError: Facts share a model, and every metric scores the model.
    """
    if not all(metric.of_models for metric in metrics):
        return
    for regime in benchmark.regimes:
        if not regime.is_independent:
            names = ", ".join(metric.offer.name for metric in metrics)
            raise ConfigError(
                f"edits is {regime.label}, but metrics has only metrics of whole models: {names}.",
                hint="Add a metric that scores facts, such as efficacy.",
            )


@contextlib.contextmanager
def _collecting(problems: dict[str, EditkitError], editor: str) -> Iterator[None]:
    """Inside, an error is the editor's problem; the first one counts."""
    try:
        yield
    except EditkitError as error:
        problems.setdefault(editor, error)


def _raise(problems: Mapping[str, EditkitError]) -> None:
    """Raise the only problem, or one error with all of them."""
    errors = {str(error): error for error in problems.values()}
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        kind = type(next(iter(errors.values())))
        listed = "".join(f"\n  - {name}: {error}" for name, error in problems.items())
        raise kind(
            f"{len(errors)} editors cannot run:{listed}",
            hint="Fix these, or choose other editors with --editor.",
        )


def cut(records: tuple[Record, ...], size: int) -> list[Batch]:
    """Cut records into batches in order. The last batch may be shorter."""
    starts = range(0, len(records), size)
    return [Batch(i, records[start : start + size]) for i, start in enumerate(starts)]


def ordered(records: tuple[Record, ...], seed: int) -> tuple[Record, ...]:
    """The records in the order of a seed: 0 is the dataset's, every other one is random."""
    if seed == 0:
        return records
    return tuple(random.Random(seed).sample(records, len(records)))


def _cell(
    offer: Offer,
    resolved: Resolved,
    seed: int,
    benchmark: Benchmark,
    dataset: Mapping[str, Any],
    common: Mapping[str, Any],
    regime: Regime,
) -> PlannedCell:
    config = resolved.to_dict()
    identity = {
        **common,
        "editor": offer.name,
        "distribution": offer.source.distribution,
        "version": offer.source.version,
        "config": config,
        "seed": seed,
    }
    if depends_on := dependencies(resolved.config, common["model"], name=offer.name):
        identity["depends_on"] = dict(depends_on)
    params = {
        "editor": offer.name,
        "preset": resolved.preset,
        "model": benchmark.model.name,
        "dataset": dataset["name"],
        **{name: dataset[name] for name in ("n_records", "n_edits") if name in dataset},
        "seed": seed,
        "dtype": benchmark.model.dtype,
        "edits": regime.label,
        "batch": benchmark.batch,
        **{f"editor.{field}": _parameter(value) for field, value in config.items()},
    }
    cell = Cell(
        editor=offer.name,
        preset=resolved.preset,
        config=redacted_values(config),
        sources=dict(resolved.sources),
        distribution=offer.source.distribution,
        version=offer.source.version,
        seed=seed,
        fingerprint=digest(identity),
        params=redacted_values(params),
        edits=regime.to_dict(),
    )
    step = Regime.joint(2) if regime.is_independent else regime  # of a record with several edits
    together = isinstance(offer.spec, EditorSpec) and offer.spec.writes_together(step)
    return PlannedCell(cell, resolved, writes_together=together)


def _parameter(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | int | float):
        return value
    return canonical_json(value)


def _check_distinct(cells: list[PlannedCell], place: str) -> None:
    seen: set[str] = set()
    for planned in cells:
        cell = planned.cell
        if cell.fingerprint in seen:
            raise ConfigError(
                f"{place}: editor {cell.editor!r} with seed {cell.seed} occurs twice with the "
                "same configuration.",
                hint="Remove one, or give it another preset or config.",
            )
        seen.add(cell.fingerprint)
