"""Plugins: found one guarded load at a time, looked up by name, kept from harming each other.

A plugin is a module named by an entry point of the group ``editkit``. Whatever goes wrong with it
is kept as one line in :attr:`Registry.broken`; the others never notice.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, get_args

import pluggy
from pluggy._hooks import varnames

from editkit import hookspecs
from editkit.errors import PluginError, did_you_mean
from editkit.interfaces import (
    BenchmarkSpec,
    CommandSpec,
    DatasetSpec,
    EditorSpec,
    Kind,
    LocatorSpec,
    MetricSpec,
    ModelSpec,
    Spec,
)

GROUP = "editkit"
ALLOW = "EDITKIT_PLUGINS"
DENY = "EDITKIT_DISABLE_PLUGINS"
STRICT = "EDITKIT_STRICT_PLUGINS"

KINDS: tuple[Kind, ...] = get_args(Kind)

_SPEC_TYPES: Mapping[Kind, type] = {
    "editor": EditorSpec,
    "locator": LocatorSpec,
    "metric": MetricSpec,
    "dataset": DatasetSpec,
    "model": ModelSpec,
    "benchmark": BenchmarkSpec,
    "command": CommandSpec,
}
_NAME = re.compile(r"[a-z0-9][a-z0-9+_-]*")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_GUARDED = (Exception, SystemExit)
"""What a guest may throw at us. KeyboardInterrupt is the user's and passes."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a plugin comes from: its entry point's name and its distribution."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclasses.dataclass(frozen=True)
class Offer:
    """Something that a plugin offers under a name."""

    kind: Kind
    spec: Spec
    source: Source

    @property
    def name(self) -> str:
        """The name that users type."""
        return self.spec.name


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A sound plugin, its hooks behind a manager of its own."""

    source: Source
    manager: pluggy.PluginManager
    offers: tuple[Offer, ...]


@dataclasses.dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that cannot be used, and the reason in one line."""

    source: Source
    reason: str

    def __str__(self) -> str:
        return f"{self.source.plugin} ({self.source}): {self.reason}"


class _Unsound(Exception):
    """A plugin breaks the rules; the message is the reason shown to users."""


class Registry:
    """The plugins of one process and what they offer.

    Args:
        strict: Treat any broken plugin as an error as soon as something is looked up.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.plugins: list[Plugin] = []
        self.broken: list[BrokenPlugin] = []
        self.disabled: list[Source] = []

    # ------------------------------------------------------------ filling

    @classmethod
    def discover(cls, environ: Mapping[str, str] = os.environ) -> Registry:
        """All installed plugins, as the environment's switches allow."""
        registry = cls(strict=environ.get(STRICT, "") not in ("", "0"))
        allowed, denied = _names(environ.get(ALLOW)), _names(environ.get(DENY))
        entry_points = sorted(
            importlib.metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value)
        )
        for entry_point in entry_points:
            source = _source(entry_point)
            names = {source.plugin, source.distribution}
            if (allowed and not names & allowed) or names & denied:
                registry.disabled.append(source)
            else:
                registry._load(entry_point, source)
        installed = {entry_point.name for entry_point in entry_points}
        installed |= {_source(entry_point).distribution for entry_point in entry_points}
        for name in sorted(allowed - installed):
            reason = f"named in {ALLOW}, but not installed"
            registry.broken.append(BrokenPlugin(Source(name, "unknown", "?"), reason))
        return registry

    def register(
        self, plugin: object, *, name: str, distribution: str = "in-process", version: str = "0"
    ) -> None:
        """Add a module or object that implements hooks; a broken one lands in :attr:`broken`."""
        self._add(plugin, Source(name, distribution, version))

    def _load(self, entry_point: importlib.metadata.EntryPoint, source: Source) -> None:
        try:
            plugin = entry_point.load()
        except _GUARDED as error:
            self.broken.append(BrokenPlugin(source, _reason(error, "being imported")))
        else:
            self._add(plugin, source)

    def _add(self, plugin: object, source: Source) -> None:
        manager = pluggy.PluginManager("editkit")
        manager.add_hookspecs(hookspecs)
        try:
            _check_hooks(manager, plugin)
            manager.register(plugin)
            offers = tuple(_offers(manager, source))
        except _GUARDED as error:
            self.broken.append(BrokenPlugin(source, _reason(error, "being registered")))
        else:
            self.plugins.append(Plugin(source, manager, offers))

    # ------------------------------------------------------------ looking up

    def offers(self, kind: Kind | None = None) -> list[Offer]:
        """All offers, clashing ones included, in the order of kinds and names."""
        found = [
            offer
            for plugin in self.plugins
            for offer in plugin.offers
            if kind is None or offer.kind == kind
        ]
        return sorted(found, key=lambda offer: (KINDS.index(offer.kind), offer.name))

    def names(self, kind: Kind) -> list[str]:
        """The distinct names of a kind, sorted."""
        return sorted({offer.name for offer in self.offers(kind)})

    @property
    def clashes(self) -> dict[tuple[Kind, str], tuple[Source, ...]]:
        """Names that more than one plugin offers, with those plugins."""
        sources: dict[tuple[Kind, str], tuple[Source, ...]] = {}
        for offer in self.offers():
            key = (offer.kind, offer.name)
            sources[key] = (*sources.get(key, ()), offer.source)
        return {key: found for key, found in sources.items() if len(found) > 1}

    def get(self, kind: Kind, name: str) -> Offer:
        """What is offered under a name.

        Raises:
            PluginError: Nobody offers it, or more than one plugin does.
        """
        self.check_strict()
        found = [offer for offer in self.offers(kind) if offer.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            sources = " and ".join(
                f"{offer.source} (plugin {offer.source.plugin!r})" for offer in found
            )
            raise PluginError(
                f"{kind} {name!r} is offered by {sources}, expected one of them.",
                hint=f"Uninstall one of them, or name it in {DENY}.",
            )
        raise self._unknown(kind, name)

    def has(self, kind: Kind, name: str) -> bool:
        """Whether anybody offers this name."""
        return any(offer.name == name for offer in self.offers(kind))

    def build(self, kind: Kind, name: str, config: Any) -> Any:
        """An instance of the named class, made from a validated config."""
        offer = self.get(kind, name)
        factory = resolve(getattr(offer.spec, "factory", ""), what=_describe(offer))
        try:
            return factory(config)
        except _GUARDED as error:
            raise PluginError(
                f"{_describe(offer)} cannot be built: {_reason(error, 'being built')}.",
                hint="Run again with --debug to see where, and tell the plugin's author.",
            ) from error

    def check_strict(self) -> None:
        """In strict mode, refuse to work beside a broken plugin.

        Raises:
            PluginError: Strict mode is on and a plugin is broken or a name clashes.
        """
        if not self.strict or not (self.broken or self.clashes):
            return
        troubles = [str(broken) for broken in self.broken]
        troubles += [clash_line(*clash) for clash in self.clashes.items()]
        raise PluginError(
            f"{STRICT} is set and not every plugin is sound: {'; '.join(troubles)}.",
            hint=f"Mend or uninstall them, or unset {STRICT}.",
        )

    def _unknown(self, kind: Kind, name: str) -> PluginError:
        known = self.names(kind)
        message = f"no {kind} is called {name!r}; known: {', '.join(known) or 'none'}."
        if self.broken:
            broken = "; ".join(str(plugin) for plugin in self.broken)
            message += f" These plugins are broken and may have offered it: {broken}."
        if self.disabled:
            disabled = ", ".join(source.plugin for source in self.disabled)
            message += f" These plugins are switched off by the environment: {disabled}."
        hint = did_you_mean(name, known) or "Run 'editkit plugins' to see what is installed."
        return PluginError(message, hint=hint)


@functools.cache
def default_registry() -> Registry:
    """The installed plugins, discovered once per process."""
    return Registry.discover()


def resolve(reference: str, *, what: str = "a plugin") -> Any:
    """Load what a lazy reference ``"package.module:Name"`` names.

    Args:
        reference: The reference.
        what: Whose reference it is, for the error message.

    Raises:
        PluginError: The module cannot be imported or lacks the name.
    """
    if not _REFERENCE.fullmatch(reference):
        raise PluginError(
            f"{what} names {reference!r}, expected 'package.module:Name'.",
            hint="Tell the plugin's author.",
        )
    module_name, _, attribute = reference.partition(":")
    try:
        return getattr(import_module(module_name, what=what), attribute)
    except AttributeError as error:
        raise PluginError(
            f"{what} names {reference!r}, but {module_name} has no {attribute!r}.",
            hint="Tell the plugin's author; perhaps its version does not fit this editkit.",
        ) from error


def import_module(name: str, *, what: str = "a plugin") -> ModuleType:
    """Import a module of a plugin, with its troubles told as one clear error.

    Raises:
        PluginError: The module raised, exited or could not be found.
    """
    try:
        return importlib.import_module(name)
    except _GUARDED as error:
        raise PluginError(
            f"{what} could not be loaded: {_reason(error, 'being imported')}.",
            hint="Install what it lacks, or run again with --debug to see where it failed.",
        ) from error


def clash_line(key: tuple[Kind, str], sources: Iterable[Source]) -> str:
    """One line that names a clash and everybody in it."""
    kind, name = key
    return f"{kind} {name!r} is offered by {' and '.join(str(source) for source in sources)}"


def _describe(offer: Offer) -> str:
    return f"{offer.kind} {offer.name!r} of {offer.source}"


def _names(value: str | None) -> set[str]:
    return {name.strip() for name in (value or "").split(",") if name.strip()}


def _source(entry_point: importlib.metadata.EntryPoint) -> Source:
    distribution = entry_point.dist
    if distribution is None:
        return Source(entry_point.name, "unknown", "?")
    return Source(entry_point.name, distribution.name, distribution.version)


def _reason(error: BaseException, moment: str) -> str:
    """One line that says why a plugin is broken."""
    if isinstance(error, _Unsound):
        return str(error)
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r}) while {moment}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse hooks that we do not know, unknown arguments, and hooks without the marker."""
    hooks = {name for name in vars(hookspecs) if name.startswith("editkit_")}
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in hooks:
                raise _Unsound(f"{name} is not marked as a hook; put @editkit.hookimpl above it")
            continue
        hook = options.get("specname") or name
        if hook not in hooks:
            hint = did_you_mean(hook, hooks) or f"Known: {', '.join(sorted(hooks))}."
            raise _Unsound(f"unknown hook {hook!r}. {hint}")
        offered = varnames(getattr(hookspecs, hook))[0]
        for argument in varnames(getattr(plugin, name))[0]:
            if argument not in offered:
                takes = ", ".join(offered) or "no arguments"
                raise _Unsound(f"{hook} takes {takes}; it was given an argument {argument!r}")


def _offers(manager: pluggy.PluginManager, source: Source) -> Iterator[Offer]:
    """The offers of one plugin, each checked."""
    seen: set[tuple[Kind, str]] = set()
    for kind, spec_type in _SPEC_TYPES.items():
        hook = f"editkit_{kind}s"
        for answer in getattr(manager.hook, hook)():
            if not isinstance(answer, Iterable) or isinstance(answer, str):
                raise _Unsound(f"{hook} returned {answer!r}, expected a list of specs")
            for spec in answer:
                _check_spec(hook, spec, spec_type)
                if (kind, spec.name) in seen:
                    raise _Unsound(f"{hook} offers {spec.name!r} twice")
                seen.add((kind, spec.name))
                yield Offer(kind, spec, source)


def _check_spec(hook: str, spec: Any, expected: type) -> None:
    if not isinstance(spec, expected):
        kind = type(spec).__name__
        raise _Unsound(f"{hook} returned {spec!r:.80} ({kind}), expected {expected.__name__}")
    name = getattr(spec, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _Unsound(
            f"{hook} offers the name {name!r}, expected lower-case letters, digits, '+', '-', '_'"
        )
    for field in ("factory", "config"):
        reference = getattr(spec, field, "package:Name")
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise _Unsound(
                f"{hook} names {reference!r} as {field} of {name!r}, expected 'package.module:Name'"
            )
