"""What the command line changes in a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from editkit.benchmark.spec import Benchmark, EditorChoice, PluginChoice, checked
from editkit.errors import ConfigError, UsageError, did_you_mean
from editkit.storage.strict_yaml import parse_yaml

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
    sets: Sequence[str] = ()


def apply_flags(benchmark: Benchmark, flags: Flags) -> tuple[Benchmark, PluginValues]:
    """The changed benchmark, and config values that win over those in the benchmark.

    Raises:
        ConfigError: A value does not fit, with the flag named.
        UsageError: A ``--set`` cannot be understood.
    """
    changes: dict[str, Any] = {}
    if flags.editors:
        changes["editors"] = _chosen(flags.editors, benchmark.editors, EditorChoice)
    if flags.metrics:
        changes["metrics"] = _chosen(flags.metrics, benchmark.metrics, PluginChoice)
    if flags.dataset is not None:
        changes["dataset"] = _chosen([flags.dataset], (benchmark.dataset,), PluginChoice)[0]
    if flags.model is not None and flags.model != benchmark.model.name:
        update = {"name": flags.model, "revision": None}
        changes["model"] = benchmark.model.model_copy(update=update)
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


def _apply_sets(benchmark: Benchmark, sets: Sequence[str]) -> tuple[Benchmark, PluginValues]:
    content = benchmark.model_dump(mode="json")
    values: PluginValues = {}
    for assignment in sets:
        key, equals, text = assignment.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise UsageError(
                f"--set {assignment!r} is no assignment, expected a.b=value.",
                hint="For example --set editors.rome.layer=2.",
            )
        value = parse_yaml(text, place=f"--set {key}")
        _assign(content, values, path, value)
    return checked(content, place="benchmark with the flags applied"), values


def _assign(content: dict[str, Any], values: PluginValues, path: list[str], value: Any) -> None:
    """Carry out one ``--set``."""
    head, rest = path[0], path[1:]
    dotted = ".".join(path)
    if head in _TOP and not rest:
        content[head] = [value] if head == "seeds" and not isinstance(value, list) else value
    elif head == "model" and len(rest) <= 1:
        content["model"][rest[0] if rest else "name"] = value
    elif head == "dataset" and rest:
        _put(values, ("dataset", content["dataset"]["name"]), rest, value)
    elif head in ("editors", "metrics") and len(rest) >= 2:
        known = [choice["name"] for choice in content[head]]
        if rest[0] not in known:
            raise ConfigError(
                f"--set {dotted}: no {head[:-1]} {rest[0]!r} in this benchmark; "
                f"it has {', '.join(known)}.",
                hint=did_you_mean(rest[0], known),
            )
        if head == "editors" and rest[1:] == ["preset"]:
            for choice in content["editors"]:
                choice["preset"] = value if choice["name"] == rest[0] else choice["preset"]
        else:
            _put(values, (head[:-1], rest[0]), rest[1:], value)
    else:
        known = [*_TOP, "model.FIELD", "dataset.FIELD", "editors.NAME.FIELD", "metrics.NAME.FIELD"]
        raise ConfigError(
            f"--set {dotted}: there is no such value; expected one of {', '.join(known)}.",
            hint=did_you_mean(head, [*_TOP, "model", "dataset", "editors", "metrics"]),
        )


def _put(values: PluginValues, key: tuple[str, str], path: list[str], value: Any) -> None:
    if path[0] == "config" and len(path) > 1:
        path = path[1:]
    target = values.setdefault(key, {})
    for part in path[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {'.'.join(path)}: {part!r} was set to {inner!r} before.")
        target = inner
    target[path[-1]] = value
