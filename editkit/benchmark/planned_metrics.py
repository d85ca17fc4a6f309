"""The metrics of a run, with their configurations, procedures and scores."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from editkit.benchmark.inputs import corpus_digest
from editkit.benchmark.resolving import ConfigResolver
from editkit.benchmark.spec import Benchmark
from editkit.data_types import Records, Score
from editkit.errors import ConfigError, EditkitError, PluginError, first_line
from editkit.interfaces import Config
from editkit.registry.config import Resolved
from editkit.registry.plugins import Offer, resolve
from editkit.registry.specs import MetricSpec, ModelMetricSpec

__all__ = ["PlannedMetric", "plan_metrics", "with_corpus"]

_RESERVED = "summary/score"


@dataclasses.dataclass(frozen=True)
class PlannedMetric:
    """A metric, of records or of models, with its configuration.

    Attributes:
        offer: The metric on offer.
        resolved: Its configuration.
        corpus: Digest of the dataset's texts that it depends on; empty if there are none.
        depends_on: Digests of files and corpora that its configuration names, by field.
    """

    offer: Offer
    resolved: Resolved
    corpus: str = ""
    depends_on: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def spec(self) -> MetricSpec | ModelMetricSpec:
        """The metric's spec."""
        if not isinstance(self.offer.spec, MetricSpec | ModelMetricSpec):
            raise PluginError(f"{self.offer.name!r} is not a metric.")
        return self.offer.spec

    @property
    def of_models(self) -> bool:
        """Whether it scores models rather than records."""
        return isinstance(self.spec, ModelMetricSpec)

    @functools.cached_property
    def scores(self) -> tuple[Score, ...]:
        """The scores that it produces with this configuration.

        Raises:
            PluginError: The metric's function of its scores failed, or returned something else.
        """
        if not self.spec.scores_of:
            return self.spec.scores
        what = f"metric {self.offer.name!r}"
        scores_of = resolve(self.spec.scores_of, what=what)
        try:
            scores = tuple(scores_of(self.resolved.config))
        except EditkitError:
            raise
        except Exception as error:
            raise PluginError(
                f"{what} could not name its scores: {first_line(error, named=True)}.",
                hint="Report this to the metric's author; --metrics chooses other metrics.",
            ) from error
        wrong = [score for score in scores if not isinstance(score, Score)]
        if wrong:
            raise PluginError(
                f"{what} names {wrong[0]!r:.60} among its scores, expected a Score.",
                hint="Report this to the metric's author; --metrics chooses other metrics.",
            )
        return (*self.spec.scores, *scores)

    @property
    def corpus_kind(self) -> str:
        """Kind of the dataset's texts that its scores depend on; empty if there is none."""
        return self.spec.corpus if isinstance(self.spec, MetricSpec) else ""

    @property
    def protocol(self) -> str:
        """The spec's protocol with the configuration's values, and the digest of the corpus.

        In place of the path of a file, it has the first digits of the digest of its content, or
        ``none``.

        Raises:
            PluginError: The protocol names a field that the configuration does not have.
        """
        try:
            values = _Values(self.resolved.config, self.depends_on)
            protocol = self.spec.protocol.format_map(values)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise PluginError(
                f"metric {self.offer.name!r} has the protocol {self.spec.protocol!r}, expected "
                "only fields of its configuration between braces.",
                hint="Report this to the metric's author; --metrics chooses other metrics.",
            ) from error
        if not self.corpus:
            return protocol
        return f"{protocol}/{self.corpus_kind}-{self.corpus[:12]}"

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


class _Values(dict[str, Any]):
    """The fields and properties of a configuration, as a protocol names them."""

    def __init__(self, config: Config, digests: Mapping[str, str]) -> None:
        fields = vars(config).items()
        super().__init__({name: "none" if each is None else each for name, each in fields})
        self.update({field: digest[:12] for field, digest in digests.items()})
        self._config = config

    def __missing__(self, name: str) -> Any:
        if not isinstance(getattr(type(self._config), name, None), property):
            raise KeyError(name)
        return getattr(self._config, name)


def plan_metrics(
    benchmark: Benchmark, resolver: ConfigResolver
) -> tuple[tuple[PlannedMetric, ...], tuple[PlannedMetric, ...]]:
    """The metrics under ``metrics``, and the metrics of models for facts that share one.

    A metric of models under ``metrics`` is in both: it measures the model of each record, or the
    model that facts share. The second tuple has those under ``model_metrics`` first.

    Raises:
        ConfigError: A configuration is invalid, two metrics have a score of the same name, or a
            metric is under both names with different values, and facts share models.
        PluginError: There is no such metric, or it is broken.
    """
    owners = {_RESERVED: "the core"}
    planned: dict[str, list[PlannedMetric]] = {"metric": [], "model_metric": []}
    shares_models = not all(regime.is_independent for regime in benchmark.regimes)
    for kind, choices in (("metric", benchmark.metrics), ("model_metric", benchmark.model_metrics)):
        for i, choice in enumerate(choices):
            where = f"{kind}s.{i}"
            metric = PlannedMetric(*resolver.resolve(kind, where, choice))
            also = [each for each in planned["metric"] if each.offer == metric.offer]
            if kind == "metric" or not also or metric.offer in [m.offer for m in planned[kind]]:
                _claim(metric, where, owners)
            elif shares_models and also[0].resolved.config != metric.resolved.config:
                raise ConfigError(
                    f"{where}: {choice.name!r} is also under metrics, with other values.",
                    hint="Set the values of both, or name it under metrics only: it measures "
                    "shared models, too.",
                )
            planned[kind].append(metric)
    shared = planned["model_metric"]
    names = [metric.offer.name for metric in shared]
    shared += [m for m in planned["metric"] if m.of_models and m.offer.name not in names]
    return tuple(planned["metric"]), tuple(shared)


def _claim(metric: PlannedMetric, where: str, owners: dict[str, str]) -> None:
    """Enter a metric as the owner of its scores; an error if a score has one already."""
    for score in metric.scores:
        if score.key in owners:
            raise ConfigError(
                f"{where}: {metric.offer.name!r} has the score {score.key!r}, which "
                f"{owners[score.key]} has already.",
                hint="Remove one of them.",
            )
        owners[score.key] = repr(metric.offer.name)


def with_corpus(metric: PlannedMetric, loaded: Records, dataset: Offer) -> PlannedMetric:
    """A metric with the digest of the dataset's texts that it depends on."""
    if not metric.corpus_kind:
        return metric
    corpus = corpus_digest(loaded, dataset, metric.offer, metric.corpus_kind)
    return dataclasses.replace(metric, corpus=corpus)
