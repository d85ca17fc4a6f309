"""``layer: auto:LOCATOR``, or ``auto`` for the editor's usual locator: choose a layer by locating.

The layer is the one with the largest effect at the subject's last token, averaged over facts that
the model knows and that are not scored. It is chosen before the plan is made, so that it enters
the cell's fingerprint like a layer that the user gave.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from editkit.benchmark.dependencies import dependencies
from editkit.benchmark.inputs import fingerprint_of, load_model_of, load_records
from editkit.benchmark.spec import Benchmark, ModelChoice, PluginValues
from editkit.data_types import Fact, Localization, fact_of
from editkit.errors import ConfigError
from editkit.interfaces import Config, Locator
from editkit.registry.config import GivenValues, config_class, resolve_config
from editkit.registry.plugins import Registry, default_registry
from editkit.storage.cache import cached_texts
from editkit.workers.pool import InProcess, Pool, answer_of

__all__ = ["choose_layers"]

_AUTO = "auto:"
_FACTS = 50
_FIELD = "layer"


def choose_layers(
    benchmark: Benchmark, values: PluginValues, registry: Registry, pool: Pool | None = None
) -> tuple[Benchmark, PluginValues, list[str]]:
    """Replace every ``layer: auto`` and ``layer: auto:LOCATOR``.

    Args:
        benchmark: The benchmark.
        values: Config values from the command line.
        registry: Where locators and the dataset are looked up.
        pool: Who locates; this process by default.

    Returns:
        The benchmark and the values with layers in place of locators, and one note per editor on
        the layer and the reason for it.

    Raises:
        ConfigError: There are no facts to choose by, or the locator cannot be configured.
        PluginError: There is no such locator.
        ModelError: The model cannot be loaded.
    """
    chosen: dict[str, tuple[int, str]] = {}
    notes: dict[str, None] = {}

    def layer_for(editor: str, config: dict[str, Any]) -> dict[str, Any]:
        value = config.get(_FIELD)
        if value == _AUTO.rstrip(":"):
            locator = getattr(registry.get("editor", editor).spec, "layer_locator", None)
            if locator is None:
                raise ConfigError(
                    f"editors.{editor}.layer is 'auto', but {editor} names no locator for it.",
                    hint="Name one, such as auto:causal-tracing, or give a layer.",
                )
        elif isinstance(value, str) and value.startswith(_AUTO):
            locator = value.removeprefix(_AUTO)
        else:
            return config
        if locator not in chosen:
            chosen[locator] = _choose(locator, benchmark, values, registry, pool)
        layer, why = chosen[locator]
        notes[f"{editor}: layer {layer}, {why}"] = None
        return {**config, _FIELD: layer}

    editors = tuple(
        choice.model_copy(update={"config": layer_for(choice.name, choice.config)})
        for choice in benchmark.editors
    )
    given = {
        key: layer_for(key[1], config) if key[0] == "editor" else config
        for key, config in values.items()
    }
    return benchmark.model_copy(update={"editors": editors}), given, list(notes)


def _choose(
    name: str, benchmark: Benchmark, values: PluginValues, registry: Registry, pool: Pool | None
) -> tuple[int, str]:
    """A layer, and the reason for it."""
    offer = registry.get("locator", name)
    resolved = resolve_config(offer)
    facts, source = _training_facts(benchmark, values, registry)
    fingerprint = fingerprint_of(benchmark.model)
    description = {
        "model": fingerprint,
        "locator": name,
        "config": resolved.to_dict(),
        "version": offer.source.version,
        "facts": [list(fact.to_dict().values()) for fact in facts],
        "depends_on": dependencies(resolved.config, fingerprint, name=name),
    }

    def effects() -> list[str]:
        workers = pool or InProcess()
        own = registry if workers.is_local else None
        recipe = LocatingRecipe(benchmark.model, name, resolved.config, own)
        with workers.opened(recipe, distributions=[offer.source.distribution], jobs=1) as crew:
            return answer_of(crew, tuple(facts))

    rows = [json.loads(text) for text in cached_texts("auto-layer", description, effects)]
    if not rows:
        raise ConfigError(
            f"{name} cannot choose a layer: {benchmark.model.name} knows none of {len(facts)} "
            f"facts of {source}.",
            hint="Give a layer: --set editors.NAME.layer=N.",
        )
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    layer = max(range(len(means)), key=lambda i: means[i])
    why = (
        f"with the largest effect of {name} at the subject's last token ({means[layer]:.3f} on "
        f"average over {len(rows)} known facts of {source})"
    )
    return layer, why


@dataclasses.dataclass(frozen=True)
class LocatingRecipe:
    """How a worker builds a bench that locates.

    Attributes:
        model: The model.
        locator: Name of the locator.
        config: Its configuration.
        registry: Provides it. A worker in another process has its own.
    """

    model: ModelChoice
    locator: str
    config: Config
    registry: Registry | None

    def build(self) -> LocatingBench:
        """Load the model."""
        return LocatingBench(self)


class LocatingBench:
    """A model and a locator."""

    def __init__(self, recipe: LocatingRecipe) -> None:
        registry = recipe.registry or default_registry()
        self._model = load_model_of(recipe.model)
        self._locator: Locator[Any] = registry.build("locator", recipe.locator, recipe.config)

    def about(self) -> Mapping[str, Any]:
        """Nothing: the driver knows everything."""
        return {}

    def do(self, job: tuple[Fact, ...]) -> Iterator[list[str]]:
        """The effects at the subject's last token by layer, as JSON, of facts that are known."""
        localizations = self._locator.for_facts(self._model, job).locate(self._model, job)
        yield [json.dumps(_at_subject(each)) for each in localizations if _known(each)]


def _known(localization: Localization) -> bool:
    return bool(localization.baselines.get("predicted", 1.0))


def _at_subject(localization: Localization) -> Sequence[float]:
    """Effects by layer at the subject's last token; summed over all tokens without a subject."""
    if localization.subject is not None:
        return localization.scores[localization.subject[1] - 1]
    return [sum(column) for column in zip(*localization.scores, strict=True)]


def _training_facts(
    benchmark: Benchmark, values: PluginValues, registry: Registry
) -> tuple[list[Fact], str]:
    """Facts that are not scored, and their source.

    They come from the training split, or from records beyond the limit if there is no such split.
    """
    choice = benchmark.dataset
    offer = registry.get("dataset", choice.name)
    chosen = {**choice.config, **values.get(("dataset", choice.name), {})}
    split = config_class(offer).model_fields.get("split")
    trained = split is not None and "train" in typing.get_args(split.annotation)
    if trained:
        chosen["split"] = "train"
    given = [GivenValues(chosen, choice.name, "dataset.config")] if chosen else []
    config = resolve_config(offer, given=given).config
    records = load_records(registry.build("dataset", offer.name, config), offer).records
    if not trained:
        scored = {record.case_id for record in benchmark.chosen(records)}
        records = tuple(record for record in records if record.case_id not in scored)
    facts = [
        fact_of(request)
        for record in records
        for request in record.requests
        if request.sentence.count(request.subject) == 1
    ][:_FACTS]
    if not facts:
        raise ConfigError(
            f"no facts to choose a layer by: dataset {choice.name!r} has no training split, and "
            "all of its records are scored.",
            hint="Score fewer records with --limit, or give a layer.",
        )
    return facts, f"the training split of {choice.name}" if trained else f"unscored {choice.name}"
