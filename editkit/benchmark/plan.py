"""The plan of a run: its cells with their fingerprints, and its records cut into batches.

Batches are cut here, in the dataset's order, and never by what happens to be left: what a record
is computed together with cannot depend on interruptions or shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from editkit.benchmark.dependencies import dependencies
from editkit.benchmark.overrides import PluginValues
from editkit.benchmark.records import corpus_digest, load_records, slice_digest
from editkit.benchmark.spec import Benchmark, EditorChoice, ModelChoice, PluginChoice
from editkit.benchmark.store import Store
from editkit.data_types import Record, Records, RejectedRecord, Score
from editkit.errors import ConfigError, PluginError
from editkit.interfaces import Config
from editkit.redaction import redacted_values
from editkit.registry.config import GivenValues, Resolved, resolve_config
from editkit.registry.hparams import NO_MATCH, Match
from editkit.registry.model_identity import ModelIdentity
from editkit.registry.plugins import Offer, Registry
from editkit.registry.specs import MetricSpec
from editkit.results import Cell, Run
from editkit.storage.digests import canonical_json, digest

_RESERVED = "summary/score"


@dataclasses.dataclass(frozen=True)
class Batch:
    """Records that are edited and scored together; ``index`` counts over the whole run."""

    index: int
    records: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class PlannedMetric:
    """A metric with its configuration, and the digest of the corpus that it depends on, if any."""

    offer: Offer
    resolved: Resolved
    corpus: str = ""
    depends_on: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def spec(self) -> MetricSpec:
        """The metric's spec."""
        if not isinstance(self.offer.spec, MetricSpec):
            raise PluginError(f"{self.offer.name!r} is no metric.")
        return self.offer.spec

    @property
    def protocol(self) -> str:
        """The spec's protocol, with the corpus that the dataset gives."""
        if not self.corpus:
            return self.spec.protocol
        return f"{self.spec.protocol}/{self.spec.corpus}-{self.corpus[:12]}"

    def describe(self) -> dict[str, Any]:
        """Everything that its scores depend on."""
        described = {
            "name": self.offer.name,
            "protocol": self.protocol,
            "config": self.resolved.to_dict(),
            "distribution": self.offer.source.distribution,
            "version": self.offer.source.version,
        }
        if self.depends_on:
            described["depends_on"] = dict(self.depends_on)
        return described


@dataclasses.dataclass(frozen=True)
class PlannedCell:
    """A cell with the validated configuration that its editor is built from.

    Attributes:
        cell: The cell.
        config: The configuration.
        rule: What the fallback rule chose and why, where it was needed.
        matched: Which file of values is used for the model and why, or why one is not.
        remarks: What there is to say about where its values come from.
        overridden: Values of the model's file that the named preset replaced.
    """

    cell: Cell
    config: Config
    rule: str | None = None
    matched: Match = NO_MATCH
    remarks: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a run will do, before a model is loaded."""

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

    @property
    def n_records(self) -> int:
        """Records of this shard."""
        return sum(len(batch.records) for batch in self.batches)

    @property
    def rules(self) -> tuple[str, ...]:
        """What fallback rules chose, and what named presets replaced; each once."""
        remarks = [f"{p.cell.editor}: {remark}" for p in self.cells for remark in p.remarks]
        return tuple(dict.fromkeys(remarks))

    @property
    def matched(self) -> tuple[str, ...]:
        """Which files of values the editors use for the model, and why."""
        used: dict[str, dict[str, None]] = {}
        for planned in self.cells:
            if planned.matched.values is not None:
                file = f"{planned.cell.editor} from {planned.matched.values.file}"
                used.setdefault(planned.matched.why, {})[file] = None
        return tuple(f"values {why}: {', '.join(files)}" for why, files in used.items())

    @property
    def refused(self) -> tuple[str, ...]:
        """Which files of values have the model's name and are not used, and why."""
        reports = [f"{p.cell.editor}: {p.matched.refused}" for p in self.cells if p.matched.refused]
        return tuple(dict.fromkeys(reports))

    def remaining(self, cell: Cell, store: Store | None) -> list[Batch]:
        """The batches of which a row is missing."""
        stored = {row.case_id for row in store.rows(cell.fingerprint)} if store else set()
        return [
            batch
            for batch in self.batches
            if any(record.case_id not in stored for record in batch.records)
        ]

    def run(self, out: Path, model: Mapping[str, Any], *, tracking: bool) -> Run:
        """The run as observers see it."""
        return Run(
            out=out,
            benchmark=self.benchmark,
            model=model,
            dataset=self.dataset,
            metrics=tuple(metric.describe() for metric in self.metrics),
            scores=_scores(self.metrics),
            seeds=self.seeds,
            cells=tuple(planned.cell for planned in self.cells),
            batch=self.batch,
            shard=self.shard,
            tracking=tracking,
        )

    def model_description(self) -> dict[str, Any]:
        """What is known of the model before it is loaded."""
        return {**self.model.model_dump(), "fingerprint": self.model_fingerprint}


def make_plan(
    benchmark: Benchmark,
    registry: Registry,
    *,
    place: str = "benchmark",
    values: PluginValues | None = None,
    shard: tuple[int, int] = (1, 1),
    fingerprint_of: Callable[[ModelChoice], str],
    n_layers_of: Callable[[ModelChoice], int | None] = lambda _: None,
    identity_of: Callable[[ModelChoice], ModelIdentity] = lambda c: ModelIdentity(c.name),
) -> Plan:
    """Resolve every configuration, read the records and fix the fingerprints.

    Args:
        benchmark: What to run.
        registry: Where editors, metrics and the dataset are looked up.
        place: Name of the benchmark file, for provenance and messages.
        values: Config values from the command line.
        shard: Part I of N of the batches.
        fingerprint_of: Gives the fingerprint of the model without loading it.
        n_layers_of: Gives its number of layers without loading it, if it can be known.
        identity_of: Gives the names that files of values know it by.

    Raises:
        ConfigError: A configuration is wrong, or two editors of the benchmark are the same.
        DatasetError: The records cannot be read.
        PluginError: Something needed is missing or broken.
    """
    identity = identity_of(benchmark.model)
    resolver = _Resolver(registry, benchmark.model, identity, place, values or {}, n_layers_of)
    metrics = _plan_metrics(benchmark, resolver)
    editors = [  # before the records and the model: a wrong value is told at once
        [(seed, *resolver.editor(i, choice, seed)) for seed in benchmark.seeds]
        for i, choice in enumerate(benchmark.editors)
    ]
    offer, resolved = resolver.resolve("dataset", "dataset", benchmark.dataset)
    loaded = load_records(registry.build("dataset", offer.name, resolved.config), offer)
    metrics = tuple(_with_corpus(metric, loaded, offer) for metric in metrics)
    records = loaded.records[: benchmark.limit]
    dataset = {
        "name": offer.name,
        "digest": slice_digest(records),
        "n_records": len(records),
        "config": redacted_values(resolved.to_dict()),
        "rejected": len(loaded.rejected),
    }
    model_fingerprint = fingerprint_of(benchmark.model)
    metrics = tuple(
        dataclasses.replace(
            m, depends_on=dependencies(m.resolved.config, model_fingerprint, name=m.spec.name)
        )
        for m in metrics
    )
    common = {
        "model": model_fingerprint,
        "dtype": benchmark.model.dtype,
        "dataset": dataset["digest"],
        "metrics": [metric.describe() for metric in metrics],
        "batch": benchmark.batch,
    }
    if benchmark.model.attention is not None:  # its last digits differ: other results
        common["attention"] = benchmark.model.attention
    cells = [
        _cell(offer, resolved, seed, benchmark, dataset, common)
        for versions in editors
        for seed, offer, resolved in versions
    ]
    _check_distinct(cells, place)
    batches = cut(records, benchmark.batch)
    return Plan(
        benchmark=benchmark.name,
        model=benchmark.model,
        model_fingerprint=model_fingerprint,
        dataset=dataset,
        rejected=loaded.rejected,
        metrics=metrics,
        seeds=benchmark.seeds,
        cells=tuple(cells),
        batch=benchmark.batch,
        batches=tuple(b for b in batches if b.index % shard[1] == shard[0] - 1),
        shard=shard,
        texts=loaded.texts,
    )


def _with_corpus(metric: PlannedMetric, loaded: Records, dataset: Offer) -> PlannedMetric:
    if not metric.spec.corpus:
        return metric
    corpus = corpus_digest(loaded, dataset, metric.offer, metric.spec.corpus)
    return dataclasses.replace(metric, corpus=corpus)


def cut(records: tuple[Record, ...], size: int) -> list[Batch]:
    """Batches of ``size`` records in order; the last may be shorter."""
    starts = range(0, len(records), size)
    return [Batch(i, records[start : start + size]) for i, start in enumerate(starts)]


@dataclasses.dataclass(frozen=True)
class _Resolver:
    """Puts configurations together from the benchmark file and the command line."""

    registry: Registry
    model: ModelChoice
    identity: ModelIdentity
    place: str
    values: PluginValues
    n_layers_of: Callable[[ModelChoice], int | None]

    def resolve(
        self,
        kind: Any,
        where: str,
        choice: PluginChoice,
        *,
        preset: str | None = None,
        seed: int | None = None,
    ) -> tuple[Offer, Resolved]:
        offer = self.registry.get(kind, choice.name)
        flag_values = self.values.get((kind, choice.name), {})
        given = [
            GivenValues(choice.config, self.place, f"{where}.config"),
            GivenValues(flag_values, "--set", _flag(kind, choice.name)),
        ]
        return offer, resolve_config(
            offer,
            model=self.identity,
            preset=preset,
            given=[each for each in given if each.values],
            seed=seed,
            place=f"{where}.preset",
            n_layers=lambda: self.n_layers_of(self.model),
        )

    def editor(self, i: int, choice: EditorChoice, seed: int) -> tuple[Offer, Resolved]:
        return self.resolve("editor", f"editors.{i}", choice, preset=choice.preset, seed=seed)


def _flag(kind: str, name: str) -> str:
    return "--set dataset" if kind == "dataset" else f"--set {kind}s.{name}"


def _plan_metrics(benchmark: Benchmark, resolver: _Resolver) -> tuple[PlannedMetric, ...]:
    planned: list[PlannedMetric] = []
    owners = {_RESERVED: "the core"}
    for i, choice in enumerate(benchmark.metrics):
        metric = PlannedMetric(*resolver.resolve("metric", f"metrics.{i}", choice))
        for score in metric.spec.scores:
            if score.key in owners:
                raise ConfigError(
                    f"metrics.{i}: {choice.name!r} gives the score {score.key!r}, which "
                    f"{owners[score.key]} gives already.",
                    hint="Leave one of them out.",
                )
            owners[score.key] = repr(choice.name)
        planned.append(metric)
    return tuple(planned)


def _scores(metrics: tuple[PlannedMetric, ...]) -> tuple[Score, ...]:
    return tuple(score for metric in metrics for score in metric.spec.scores)


def _cell(
    offer: Offer,
    resolved: Resolved,
    seed: int,
    benchmark: Benchmark,
    dataset: Mapping[str, Any],
    common: Mapping[str, Any],
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
        "n_records": dataset["n_records"],
        "seed": seed,
        "dtype": benchmark.model.dtype,
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
    )
    return PlannedCell(
        cell,
        resolved.config,
        resolved.rule,
        resolved.matched,
        resolved.remarks,
        resolved.overridden,
    )


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
                hint="Leave one out, or give it another preset or config.",
            )
        seen.add(cell.fingerprint)
