"""The benchmark file (model, dataset, metrics and editors), and changes from the command line.

Everything is validated; errors name the place in the file, or the flag.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_serializer,
    model_validator,
)

from editkit.errors import ConfigError, did_you_mean
from editkit.regimes import INDEPENDENT, Regime
from editkit.registry.config import config_class
from editkit.registry.plugins import Registry
from editkit.storage.resources import resource_text
from editkit.storage.strict_yaml import parse_yaml, read_yaml_text
from editkit.validation import nested_values, problems_of, strict_values

__all__ = [
    "Benchmark",
    "EditorChoice",
    "Edits",
    "Flags",
    "ModelChoice",
    "PluginChoice",
    "PluginValues",
    "Seeds",
    "apply_flags",
    "edits_as_data",
    "load_benchmark",
    "parse_benchmark",
    "validated",
    "with_corpus",
]

ChoiceT = TypeVar("ChoiceT", bound="PluginChoice")
RecordT = TypeVar("RecordT")
PluginValues = dict[tuple[str, str], dict[str, Any]]
"""Config values by kind and name of a plugin: ``{("editor", "rome"): {"layer": 2}}``."""

_TOP = ("name", "limit", "sample", "batch", "seeds", "edits")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _strict = model_validator(mode="wrap")(strict_values)


def _named(value: Any) -> Any:
    """``rome`` is short for ``{name: rome}``."""
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """One regime is short for a list of one."""
    if value in ([], ()):
        raise ValueError("is an empty list, expected at least one regime")
    return value if isinstance(value, list | tuple) else [value]


class ModelChoice(_Section):
    """The model, and how to load it."""

    name: str = Field(min_length=1)
    """A registered name, a folder, or a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights."""
    device: str = "cpu"
    """A torch device: cpu, cuda, cuda:1."""
    device_map: str | dict[str, int | str] | None = None
    """Spread the model over several devices: auto, or a mapping from module to device."""
    attention: Literal["sdpa", "eager"] | None = None
    """Implementation of attention; null: the default of transformers."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""


class PluginChoice(_Section):
    """A dataset or metric, with configuration values."""

    name: str = Field(min_length=1)
    config: dict[str, Any] = Field(default_factory=dict)


def edits_as_data(edits: tuple[Regime, ...] | None) -> list[Any] | None:
    """Regimes as benchmark files have them."""
    if edits is None:
        return None
    return [regime.kind if regime.is_independent else regime.to_dict() for regime in edits]


Edits = Annotated[
    tuple[Annotated[Regime, PlainValidator(Regime.parse)], ...],
    BeforeValidator(_listed),
]
"""Regimes: one, or a list."""
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


class EditorChoice(PluginChoice):
    """An editor, with a preset and configuration values, and its own regimes and seeds."""

    preset: str | None = None
    edits: Edits | None = None
    """How facts reach models, instead of the benchmark's ``edits``."""
    seeds: Seeds | None = None
    """Seeds instead of the benchmark's."""

    @field_serializer("edits")
    def _edits(self, edits: tuple[Regime, ...] | None) -> list[Any] | None:
        return edits_as_data(edits)


class Benchmark(_Section):
    """The content of a benchmark file."""

    name: str = Field(min_length=1)
    """The benchmark's name in results."""
    model: Annotated[ModelChoice, BeforeValidator(_named)]
    """The model: its name, or name, dtype, device, device_map, attention and revision."""
    dataset: Annotated[PluginChoice, BeforeValidator(_named)]
    """The dataset: its name, or name and config."""
    limit: int | None = Field(default=None, ge=1)
    """Use only this many records; null: all of them."""
    sample: int | None = Field(default=None, ge=0, lt=2**32)
    """Seed of a random choice of the ``limit`` records; null: the first ones."""
    batch: int = Field(default=20, ge=1)
    """Number of records that are edited and scored together."""
    metrics: tuple[Annotated[PluginChoice, BeforeValidator(_named)], ...] = Field(min_length=1)
    """The metrics: names, or name and config. Metrics of whole models score each record's model."""
    model_metrics: tuple[Annotated[PluginChoice, BeforeValidator(_named)], ...] = ()
    """Metrics of whole models, only for facts that share a model: names, or name and config."""
    edits: Edits = (INDEPENDENT,)
    """How facts reach models: independent, {joint: N}, {sequential: N, step: K, checkpoints: [n,
    ...]}, or a list of these. Every editor runs once in each."""

    @field_serializer("edits")
    def _edits(self, edits: tuple[Regime, ...]) -> list[Any] | None:
        return edits_as_data(edits)

    seeds: Seeds = (0,)
    """Every editor runs once per seed. For facts that share a model, a seed is an order of the
    facts: 0 is that of the dataset."""
    editors: tuple[Annotated[EditorChoice, BeforeValidator(_named)], ...] = Field(min_length=1)
    """The editors: names, or name, preset, config, edits and seeds."""

    def chosen(self, records: Sequence[RecordT]) -> tuple[RecordT, ...]:
        """The records that ``limit`` and ``sample`` choose, in the order of the dataset."""
        n = len(records) if self.limit is None else min(self.limit, len(records))
        if self.sample is None:
            return tuple(records[:n])
        places = random.Random(f"sample-{self.sample}").sample(range(len(records)), n)
        return tuple(records[place] for place in sorted(places))

    @property
    def regimes(self) -> tuple[Regime, ...]:
        """All regimes that an editor has, those of the benchmark first."""
        of_editors = [each for editor in self.editors for each in editor.edits or self.edits]
        return tuple(r for r in dict.fromkeys([*self.edits, *of_editors]) if r in of_editors)


def load_benchmark(name: str, registry: Registry) -> tuple[Benchmark, str]:
    """Load a benchmark; returns it with its place, for error messages.

    Args:
        name: Name of a registered benchmark, or path of a YAML file.
        registry: Where registered benchmarks are looked up.

    Raises:
        ConfigError: The file is missing or invalid.
        PluginError: No benchmark has this name.
    """
    if Path(name).suffix in (".yaml", ".yml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise ConfigError(
                f"there is no benchmark file {name!r}.",
                hint="Give the path of a YAML file, or a name that 'editkit plugins' lists.",
            )
        return parse_benchmark(read_yaml_text(path), place=name), name
    spec: Any = registry.get("benchmark", name).spec
    place = Path(spec.file.partition(":")[2]).name
    text = resource_text(spec.file, owner=f"benchmark {name!r}")
    return parse_benchmark(text, place=place), place


def parse_benchmark(text: str, *, place: str) -> Benchmark:
    """Parse a benchmark from YAML.

    Raises:
        ConfigError: It is invalid; the message names every problem with its place.
    """
    return validated(parse_yaml(text, place=place), place=place)


def validated(content: Any, *, place: str) -> Benchmark:
    """A benchmark from plain data.

    Raises:
        ConfigError: It is invalid; the message names every problem with its place.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{place}: got {content!r:.60}, expected a mapping with name, model, dataset, ..."
        )
    try:
        return Benchmark.model_validate(dict(content))
    except ValidationError as error:
        unknown = [e["loc"][-1] for e in error.errors() if e["type"] == "extra_forbidden"]
        hint = did_you_mean(str(unknown[0]), Benchmark.model_fields) if unknown else None
        raise ConfigError(
            f"{place}: {problems_of(error)}.",
            hint=hint or "'editkit explain config' shows the format.",
        ) from None


# ---------------------------------------------------------------- flags


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags that change a benchmark; None and empty values change nothing."""

    editors: Sequence[str] = ()
    model: str | None = None
    dataset: str | None = None
    limit: int | None = None
    metrics: Sequence[str] = ()
    model_metrics: Sequence[str] = ()
    edits: Sequence[Regime] = ()
    seeds: Sequence[int] = ()
    dtype: str | None = None
    device: str | None = None
    sets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values by dotted name, as ``--set`` gives them: ``{"editors.rome.layer": 2}``."""


def apply_flags(benchmark: Benchmark, flags: Flags) -> tuple[Benchmark, PluginValues]:
    """The changed benchmark, and config values that override those in the file.

    Raises:
        ConfigError: A value is invalid; the message names the flag.
    """
    changes: dict[str, Any] = {}
    if flags.editors:
        changes["editors"] = _chosen(flags.editors, benchmark.editors, EditorChoice)
    if flags.metrics:
        changes["metrics"] = _chosen(flags.metrics, benchmark.metrics, PluginChoice)
    if flags.model_metrics:
        changes["model_metrics"] = _chosen(
            flags.model_metrics, benchmark.model_metrics, PluginChoice
        )
    if flags.edits:
        changes["edits"] = tuple(dict.fromkeys(flags.edits))
        changes["editors"] = _without_own("edits", changes.get("editors", benchmark.editors))
    if flags.dataset is not None:
        changes["dataset"] = _chosen([flags.dataset], (benchmark.dataset,), PluginChoice)[0]
    model: dict[str, Any] = {"dtype": flags.dtype, "device": flags.device}
    model = {field: value for field, value in model.items() if value is not None}
    if flags.model is not None and flags.model != benchmark.model.name:
        model |= {"name": flags.model, "revision": None}
    if model:
        changes["model"] = benchmark.model.model_copy(update=model)
    if flags.limit is not None:
        changes["limit"] = flags.limit
    if flags.seeds:
        changes["seeds"] = tuple(flags.seeds)
        changes["editors"] = _without_own("seeds", changes.get("editors", benchmark.editors))
    return _apply_sets(benchmark.model_copy(update=changes), flags.sets)


def with_corpus(
    benchmark: Benchmark, values: PluginValues, corpus: str | None, registry: Registry
) -> PluginValues:
    """The config values, with a corpus for every editor that takes one and gets none by --set.

    Args:
        benchmark: Has the editors.
        values: Config values from the command line.
        corpus: The corpus; None changes nothing.
        registry: Where editors are looked up.

    Raises:
        ConfigError: No editor takes a corpus.
    """
    if corpus is None:
        return values
    names = {choice.name for choice in benchmark.editors}
    takers = {
        name
        for name in names
        if "corpus" in config_class(registry.get("editor", name)).model_fields
    }
    if not takers:
        raise ConfigError(
            f"--corpus is {corpus!r}, but none of the editors {', '.join(sorted(names))} takes a "
            "corpus.",
            hint="Leave it out, or add an editor that does, such as rome.",
        )
    own = {("editor", name): {"corpus": corpus} for name in takers}
    return {**values, **{key: {**value, **values.get(key, {})} for key, value in own.items()}}


def _chosen(
    names: Sequence[str], earlier: Sequence[ChoiceT], kind: type[ChoiceT]
) -> tuple[ChoiceT, ...]:
    """The named choices in order; those that the benchmark has keep their values."""
    chosen: list[ChoiceT] = []
    for name in dict.fromkeys(names):
        chosen += [choice for choice in earlier if choice.name == name] or [kind(name=name)]
    return tuple(chosen)


def _without_own(field: str, editors: Sequence[EditorChoice]) -> tuple[EditorChoice, ...]:
    """The editors without their own values of a field: a flag replaces them."""
    return tuple(editor.model_copy(update={field: None}) for editor in editors)


def _apply_sets(benchmark: Benchmark, sets: Mapping[str, Any]) -> tuple[Benchmark, PluginValues]:
    content = benchmark.model_dump(mode="json")
    by_plugin: dict[tuple[str, str], dict[str, Any]] = {}
    for name, value in sets.items():
        _assign(content, by_plugin, name, value)
    values = {plugin: nested_values(own) for plugin, own in by_plugin.items()}
    return validated(content, place="benchmark with the flags applied"), values


def _assign(content: dict[str, Any], by_plugin: PluginValues, name: str, value: Any) -> None:
    """Apply one ``--set``, to the benchmark's content or to the values of a plugin."""
    head, *rest = name.split(".")
    if head in _TOP and not rest:
        content[head] = [value] if head == "seeds" and not isinstance(value, list) else value
        for choice in content["editors"] if head in ("edits", "seeds") else ():
            choice[head] = None
    elif head == "model" and len(rest) <= 1:
        content["model"][rest[0] if rest else "name"] = value
    elif head == "dataset" and rest:
        _put(by_plugin, ("dataset", content["dataset"]["name"]), rest, value)
    elif head in ("editors", "metrics", "model_metrics") and len(rest) >= 2:
        known = [choice["name"] for choice in content[head]]
        if rest[0] not in known:
            raise ConfigError(
                f"--set {name}: no {head[:-1].replace('_', ' ')} {rest[0]!r} in this benchmark; "
                f"it has {', '.join(known) or 'none'}.",
                hint=_other_list(head, rest, content) or did_you_mean(rest[0], known),
            )
        if head == "editors" and rest[1:] == ["preset"]:
            for choice in content["editors"]:
                choice["preset"] = value if choice["name"] == rest[0] else choice["preset"]
        else:
            _put(by_plugin, (head[:-1], rest[0]), rest[1:], value)
    else:
        known = [*_TOP, "model.FIELD", "dataset.FIELD"]
        known += [f"{kind}.NAME.FIELD" for kind in ("editors", "metrics", "model_metrics")]
        raise ConfigError(
            f"--set {name}: unknown name, expected one of {', '.join(known)}.",
            hint=did_you_mean(
                head, [*_TOP, "model", "dataset", "editors", "metrics", "model_metrics"]
            ),
        )


def _other_list(head: str, rest: Sequence[str], content: Mapping[str, Any]) -> str | None:
    """The right name of a value, for a metric that is in the other list of metrics."""
    other = {"metrics": "model_metrics", "model_metrics": "metrics"}.get(head, head)
    if rest[0] not in [choice["name"] for choice in content[other]]:
        return None
    return f"Write --set {'.'.join([other, *rest])}: that is where this benchmark names it."


def _put(by_plugin: PluginValues, plugin: tuple[str, str], path: list[str], value: Any) -> None:
    if path[0] == "config" and len(path) > 1:
        path = path[1:]
    by_plugin.setdefault(plugin, {})[".".join(path)] = value
