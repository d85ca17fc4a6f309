"""Whether a plugin keeps the rules of the hooks, and what of it will not last.

Every check either passes or raises :class:`Unsound`, whose message is the one line that users see.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pluggy
from pluggy._hooks import varnames

from editkit.data_types import Score
from editkit.errors import did_you_mean
from editkit.registry import hookspecs
from editkit.registry.hookspecs import HOOKS_VERSION, Deprecation, HookInfo, hook_info
from editkit.registry.plugin_guard import Unsound
from editkit.registry.specs import (
    BenchmarkSpec,
    CommandSpec,
    DatasetSpec,
    EditorSpec,
    Kind,
    LayerRule,
    LocatorSpec,
    MetricSpec,
    ModelSpec,
    PublishedTableSpec,
    Spec,
)

VERSION_ATTRIBUTE = "editkit_hooks"
"""Attribute of a plugin that says which version of the hooks it was written for."""

SPEC_TYPES: Mapping[Kind, type] = {
    "editor": EditorSpec,
    "locator": LocatorSpec,
    "metric": MetricSpec,
    "dataset": DatasetSpec,
    "model": ModelSpec,
    "benchmark": BenchmarkSpec,
    "published_table": PublishedTableSpec,
    "command": CommandSpec,
}
DEPRECATED_FIELDS: dict[tuple[type, str], Deprecation] = {}
"""Fields of specs that will go away, by the spec's type and the field's name."""

NAME = re.compile(r"[a-z0-9][a-z0-9+_-]*")
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MOST_SPECS = 1000
_MAPPINGS = ("presets", "model_presets", "training")
_TEXTS = ("summary", "protocol", "corpus", "module", "folder", "file", "configs")
_VERSION = re.compile(r"(\d+)\.(\d+)")


def check_hooks_version(plugin: object) -> None:
    """Refuse a plugin that was written for hooks that this editkit does not have.

    Raises:
        Unsound: It names another major version, a newer one, or no version at all.
    """
    stated = getattr(plugin, VERSION_ATTRIBUTE, None)
    if stated is None:
        return
    match = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    if match is None:
        raise Unsound(f"{VERSION_ATTRIBUTE} is {stated!r}, expected a version such as '1.0'")
    wanted = int(match[1]), int(match[2])
    if wanted[0] == HOOKS_VERSION[0] and wanted[1] <= HOOKS_VERSION[1]:
        return
    ours = ".".join(map(str, HOOKS_VERSION))
    older = "this editkit" if wanted > HOOKS_VERSION else "the plugin"
    raise Unsound(
        f"was written for version {stated} of the hooks, and this editkit has {ours}; "
        f"update {older}"
    )


def check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse hooks that we do not know, unknown arguments, and hooks without the marker.

    Raises:
        Unsound: There is one.
    """
    known = {name for name in vars(hookspecs) if hook_info(name) is not None}
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in known:
                raise Unsound(f"{name} is not marked as a hook; put @editkit.hookimpl above it")
            continue
        hook = options.get("specname") or name
        if hook not in known:
            hint = did_you_mean(hook, known) or f"Known: {', '.join(sorted(known))}."
            raise Unsound(f"unknown hook {hook!r}. {hint}")
        offered = varnames(getattr(hookspecs, hook))[0]
        for argument in varnames(getattr(plugin, name))[0]:
            if argument not in offered:
                takes = ", ".join(offered) or "no arguments"
                raise Unsound(f"{hook} takes {takes}; it was given an argument {argument!r}")


def specs_of(manager: pluggy.PluginManager) -> Iterator[tuple[Kind, Spec]]:
    """What the one plugin of a manager offers, each checked.

    Raises:
        Unsound: A hook gave something else, or a name twice.
    """
    seen: set[tuple[Kind, str]] = set()
    for kind, spec_type in SPEC_TYPES.items():
        hook = f"editkit_{kind}s"
        for answer in getattr(manager.hook, hook)():
            if not isinstance(answer, Iterable) or isinstance(answer, str):
                raise Unsound(f"{hook} returned {answer!r:.80}, expected a list of specs")
            for count, spec in enumerate(answer):
                if count >= _MOST_SPECS:
                    raise Unsound(f"{hook} returned more than {_MOST_SPECS} specs")
                _check_spec(hook, spec, spec_type)
                if (kind, spec.name) in seen:
                    raise Unsound(f"{hook} offers {spec.name!r} twice")
                seen.add((kind, spec.name))
                yield kind, spec


def deprecations_of(
    manager: pluggy.PluginManager, plugin: object, specs: Iterable[Spec]
) -> tuple[str, ...]:
    """One line for each hook, argument or spec field that a plugin uses and that will go away."""
    found: list[str] = []
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            continue
        hook = options.get("specname") or name
        info = hook_info(hook) or HookInfo((1, 0))
        if info.deprecated is not None:
            found.append(f"hook {hook} is deprecated: {info.deprecated}")
        taken = varnames(getattr(plugin, name))[0]
        found += [
            f"argument {argument} of {hook} is deprecated: {told}"
            for argument, told in info.deprecated_arguments.items()
            if argument in taken
        ]
    for spec in specs:
        found += [
            f"field {field} of {kind.__name__} ({spec.name!r}) is deprecated: {told}"
            for (kind, field), told in DEPRECATED_FIELDS.items()
            if isinstance(spec, kind) and getattr(spec, field) != _default(kind, field)
        ]
    return tuple(found)


def _default(kind: Any, field: str) -> Any:
    found = kind.__dataclass_fields__[field]
    if found.default_factory is not dataclasses.MISSING:
        return found.default_factory()
    return found.default


def _check_spec(hook: str, spec: Any, expected: type) -> None:
    if not isinstance(spec, expected):
        kind = type(spec).__name__
        raise Unsound(f"{hook} returned {spec!r:.80} ({kind}), expected {expected.__name__}")
    name = getattr(spec, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Unsound(
            f"{hook} offers the name {name!r}, expected lower-case letters, digits, '+', '-', '_'"
        )
    for field in ("factory", "config"):
        reference = getattr(spec, field, "package:Name")
        if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):
            raise Unsound(
                f"{hook} names {reference!r} as {field} of {name!r}, expected 'package.module:Name'"
            )
    for field in _TEXTS:
        text = getattr(spec, field, "")
        if not isinstance(text, str) and not (field == "configs" and text is None):
            raise Unsound(f"{hook} names {text!r:.80} as {field} of {name!r}, expected a text")
    for field in _MAPPINGS:
        mapping = getattr(spec, field, None)
        nested = field != "training"
        if mapping is not None and not _is_mapping(mapping, nested=nested):
            kind = "a mapping of mappings" if nested else "a mapping"
            raise Unsound(f"{hook} names {mapping!r:.80} as {field} of {name!r}, expected {kind}")
    scores = getattr(spec, "scores", ())
    if not isinstance(scores, tuple) or not all(isinstance(each, Score) for each in scores):
        raise Unsound(f"{hook} names {scores!r:.80} as scores of {name!r}, expected Scores")
    rule = getattr(spec, "layer_rule", None)
    if rule is not None and not isinstance(rule, LayerRule):
        raise Unsound(f"{hook} names {rule!r:.80} as layer_rule of {name!r}, expected LayerRule")


def _is_mapping(value: Any, *, nested: bool) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and (not nested or isinstance(inner, Mapping))
        for key, inner in value.items()
    )
