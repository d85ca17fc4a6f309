"""Plugins: found one guarded load at a time, looked up by name, kept from harming each other.

A plugin is a module named by an entry point of the group ``editkit``. Whatever goes wrong with it
is kept as one line in :attr:`Registry.broken`; the others never notice.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, get_args

import pluggy

from editkit.errors import PluginError, did_you_mean
from editkit.interfaces import Configurable
from editkit.registry import hookspecs
from editkit.registry.guard import Guard, PluginFailure, RuleBrokenError
from editkit.registry.origin import elsewhere, hidden_by_folder
from editkit.registry.specs import REFERENCE, SPEC_TYPES, Kind, Spec, problem_of

_log = logging.getLogger(__name__)

GROUP = "editkit"
ALLOW = "EDITKIT_PLUGINS"
DENY = "EDITKIT_DISABLE_PLUGINS"
STRICT = "EDITKIT_STRICT_PLUGINS"

KINDS: tuple[Kind, ...] = get_args(Kind)
_MOST_SPECS = 1000


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
    notes: tuple[str, ...] = ()
    """What is odd about it and harms nobody: settings that it changed, where it was loaded from."""


@dataclasses.dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that cannot be used, and the reason in one line."""

    source: Source
    reason: str

    def __str__(self) -> str:
        return f"{self.source.plugin} ({self.source}): {self.reason}"


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
        guard = Guard("being imported")
        try:
            with guard:
                plugin = entry_point.load()
        except PluginFailure as failure:
            reason = hidden_by_folder(entry_point.module) or str(failure)
            self.broken.append(BrokenPlugin(source, reason))
            return
        hidden = hidden_by_folder(entry_point.module)
        if hidden is not None:
            self.broken.append(BrokenPlugin(source, hidden))
            return
        notes = _changes(guard)
        module = sys.modules.get(entry_point.module)
        if entry_point.dist is not None and module is not None:
            other = elsewhere(module, entry_point.dist)
            notes += [other] if other else []
        self._add(plugin, source, notes)

    def _add(self, plugin: object, source: Source, notes: Iterable[str] = ()) -> None:
        manager = pluggy.PluginManager("editkit")
        manager.add_hookspecs(hookspecs)
        guard = Guard("being registered")
        try:
            with guard:
                _check_hooks(manager, plugin)
                manager.register(plugin)
                offers = tuple(Offer(kind, spec, source) for kind, spec in _specs_of(manager))
                hooks = manager.get_hookcallers(plugin)
        except PluginFailure as failure:
            self.broken.append(BrokenPlugin(source, str(failure)))
            return
        notes = [*notes, *_changes(guard)]
        if not hooks:
            notes.append("implements no hook of editkit, and offers nothing")
        self.plugins.append(Plugin(source, manager, offers, tuple(notes)))

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
        guard = Guard("being built")
        try:
            with guard:
                built = factory(config)
        except PluginFailure as failure:
            raise PluginError(
                f"{_describe(offer)} cannot be built: {failure}.",
                hint="Run again with --debug to see where, and tell the plugin's author.",
            ) from failure.__cause__
        _warn_of_changes(_describe(offer), guard)
        if isinstance(built, Configurable):
            built.name = name
        return built

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


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse unknown hooks and arguments, and hooks that lack the marker.

    Raises:
        RuleBrokenError: There is one.
    """
    known = {name for name in vars(hookspecs) if name.startswith("editkit_")}
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in known:
                raise RuleBrokenError(
                    f"{name} is not marked as a hook; put @editkit.hookimpl above it"
                )
            continue
        hook = options.get("specname") or name
        if hook not in known:
            hint = did_you_mean(hook, known) or f"Known: {', '.join(sorted(known))}."
            raise RuleBrokenError(f"unknown hook {hook!r}. {hint}")
        offered = inspect.signature(getattr(hookspecs, hook)).parameters
        for argument, parameter in inspect.signature(getattr(plugin, name)).parameters.items():
            if argument not in offered and parameter.default is parameter.empty:
                takes = ", ".join(offered) or "no arguments"
                raise RuleBrokenError(f"{hook} has no argument {argument!r}; it takes {takes}")


def _specs_of(manager: pluggy.PluginManager) -> Iterator[tuple[Kind, Spec]]:
    """What the one plugin of a manager offers.

    Raises:
        RuleBrokenError: A hook returned something else, or a name twice.
    """
    seen: set[tuple[Kind, str]] = set()
    for kind, spec_type in SPEC_TYPES.items():
        hook = f"editkit_{kind}s"
        for specs in getattr(manager.hook, hook)():
            if not isinstance(specs, Iterable) or isinstance(specs, str):
                raise RuleBrokenError(f"{hook} returned {specs!r:.80}, expected a list of specs")
            for count, spec in enumerate(specs):
                if count >= _MOST_SPECS:
                    raise RuleBrokenError(f"{hook} returned more than {_MOST_SPECS} specs")
                if problem := problem_of(spec, spec_type):
                    raise RuleBrokenError(f"{hook} {problem}")
                if (kind, spec.name) in seen:
                    raise RuleBrokenError(f"{hook} offers {spec.name!r} twice")
                seen.add((kind, spec.name))
                yield kind, spec


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
    if not REFERENCE.fullmatch(reference):
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
    guard = Guard("being imported")
    try:
        with guard:
            module = importlib.import_module(name)
    except PluginFailure as failure:
        raise PluginError(
            f"{what} could not be loaded: {hidden_by_folder(name) or failure}.",
            hint="Install what it lacks, or run again with --debug to see where it failed.",
        ) from failure.__cause__
    _warn_of_changes(what, guard)
    return module


def _changes(guard: Guard) -> list[str]:
    return [f"changed {change} while {guard.moment}; it was restored" for change in guard.changes]


def _warn_of_changes(what: str, guard: Guard) -> None:
    for change in _changes(guard):
        _log.warning("%s %s.", what, change)


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
