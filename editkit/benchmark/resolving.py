"""Resolving the configurations of a benchmark's plugins: of the file and the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from editkit.benchmark.spec import ModelChoice, PluginChoice, PluginValues
from editkit.registry.config import GivenValues, Resolved, resolve_config
from editkit.registry.model_identity import ModelIdentity
from editkit.registry.plugins import Offer, Registry

__all__ = ["ConfigResolver"]


@dataclasses.dataclass(frozen=True)
class ConfigResolver:
    """Resolves the configurations of a benchmark's plugins.

    Attributes:
        registry: Where plugins are looked up.
        model: The model.
        identity: The names by which hyperparameter files may know the model.
        place: Name of the benchmark file.
        values: Config values from the command line, which override those in the file.
        n_layers_of: Looks up the model's number of layers, if known.
    """

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
        preset: str | None = None,
        seed: int | None = None,
    ) -> tuple[Offer, Resolved]:
        """A plugin and its configuration.

        Args:
            kind: Kind of the plugin: ``editor``, ``metric``, ``dataset``. A ``metric`` may also be
                a metric of models, if no metric of records has its name.
            where: Its place in the file: ``editors.0``.
            choice: The choice in the file.
            preset: The preset, for editors.
            seed: The run's seed, for editors.

        Raises:
            ConfigError: A value is invalid.
            PluginError: There is no such plugin, or it is broken.
        """
        offer = self.registry.get(
            self._kind_of(kind, choice.name),
            choice.name,
            or_of=("model_metric",) if kind == "metric" else (),
        )
        flag = "--set dataset" if kind == "dataset" else f"--set {kind}s.{choice.name}"
        given = [
            GivenValues(choice.config, self.place, f"{where}.config"),
            GivenValues(self.values.get((kind, choice.name), {}), "--set", flag),
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

    def _kind_of(self, kind: Any, name: str) -> Any:
        """The kind of what has this name: ``metrics`` may have metrics of models."""
        only_of_models = kind == "metric" and not self.registry.has("metric", name)
        return (
            "model_metric" if only_of_models and self.registry.has("model_metric", name) else kind
        )
