"""What the command line changes in a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from editkit.benchmark.spec import Benchmark, EditorChoice, PluginChoice, checked
from editkit.errors import ConfigError, did_you_mean
from editkit.validation import nested_values

ChoiceT = TypeVar("ChoiceT", bound=PluginChoice)
PluginValues = dict[tuple[str, str], dict[str, Any]]
"""Config values by kind and name: ``{("editor", "rome"): {"layer": 2}}``."""

_TOP = ("name", "limit", "batch", "seeds")


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of ``run-benchmark`` that change the benchmark; None and empty change nothing."""

    editors: Sequence[str] = ()
    model: str | None = None
    dataset: str | None = None
    limit: int | None = None
    metrics: Sequence[str] = ()
    seeds: Sequence[int] = ()
    dtype: str | None = None
    device: str | None = None
    sets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values by dotted name, as ``--set`` gives them: ``{"editors.rome.layer": 2}``."""


def apply_flags(benchmark: Benchmark, flags: Flags) -> tuple[Benchmark, PluginValues]:
    """The changed benchmark, and config values that win over those in the benchmark.

    Raises:
        ConfigError: A value does not fit, with the flag named.
    """
    changes: dict[str, Any] = {}
    if flags.editors:
        changes["editors"] = _chosen(flags.editors, benchmark.editors, EditorChoice)
    if flags.metrics:
        changes["metrics"] = _chosen(flags.metrics, benchmark.metrics, PluginChoice)
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
    return _apply_sets(benchmark.model_copy(update=changes), flags.sets)


def _chosen(
    names: Sequence[str], earlier: Sequence[ChoiceT], kind: type[ChoiceT]
) -> tuple[ChoiceT, ...]:
    """The named ones, in that order; one that the benchmark has already keeps its values."""
    chosen: list[ChoiceT] = []
    for name in dict.fromkeys(names):
        chosen += [choice for choice in earlier if choice.name == name] or [kind(name=name)]
    return tuple(chosen)


def _apply_sets(benchmark: Benchmark, sets: Mapping[str, Any]) -> tuple[Benchmark, PluginValues]:
    content = benchmark.model_dump(mode="json")
    by_plugin: dict[tuple[str, str], dict[str, Any]] = {}
    for name, value in sets.items():
        _assign(content, by_plugin, name, value)
    values = {plugin: nested_values(own) for plugin, own in by_plugin.items()}
    return checked(content, place="benchmark with the flags applied"), values


def _assign(content: dict[str, Any], by_plugin: PluginValues, name: str, value: Any) -> None:
    """Carry out one ``--set``: in the benchmark's content, or among the values of a plugin."""
    head, *rest = name.split(".")
    if head in _TOP and not rest:
        content[head] = [value] if head == "seeds" and not isinstance(value, list) else value
    elif head == "model" and len(rest) <= 1:
        content["model"][rest[0] if rest else "name"] = value
    elif head == "dataset" and rest:
        _put(by_plugin, ("dataset", content["dataset"]["name"]), rest, value)
    elif head in ("editors", "metrics") and len(rest) >= 2:
        known = [choice["name"] for choice in content[head]]
        if rest[0] not in known:
            raise ConfigError(
                f"--set {name}: no {head[:-1]} {rest[0]!r} in this benchmark; "
                f"it has {', '.join(known)}.",
                hint=did_you_mean(rest[0], known),
            )
        if head == "editors" and rest[1:] == ["preset"]:
            for choice in content["editors"]:
                choice["preset"] = value if choice["name"] == rest[0] else choice["preset"]
        else:
            _put(by_plugin, (head[:-1], rest[0]), rest[1:], value)
    else:
        known = [*_TOP, "model.FIELD", "dataset.FIELD", "editors.NAME.FIELD", "metrics.NAME.FIELD"]
        raise ConfigError(
            f"--set {name}: there is no such value; expected one of {', '.join(known)}.",
            hint=did_you_mean(head, [*_TOP, "model", "dataset", "editors", "metrics"]),
        )


def _put(by_plugin: PluginValues, plugin: tuple[str, str], path: list[str], value: Any) -> None:
    if path[0] == "config" and len(path) > 1:
        path = path[1:]
    by_plugin.setdefault(plugin, {})[".".join(path)] = value
