"""Finding the installed plugins, each isolated from the others, and looking up what they offer.

A plugin is a module that an entry point of the group ``editkit`` names. If anything goes wrong
with one, the reason is one line in :attr:`Registry.broken`, and the other plugins are not affected.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import itertools
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, get_args

import pluggy

from editkit.errors import PluginError, did_you_mean
from editkit.interfaces import Configurable
from editkit.models.architectures import Architecture
from editkit.models.families import FAMILIES
from editkit.registry import hookspecs
from editkit.registry.guard import Guard, PluginFailure, RuleBrokenError
from editkit.registry.shadowed_packages import elsewhere, hidden_by_folder
from editkit.registry.specs import (
    REFERENCE,
    SPEC_TYPES,
    Kind,
    Spec,
    architecture_specs,
    problem_of,
)

__all__ = ["Offer", "Registry", "Source", "default_registry", "import_module", "resolve"]

_log = logging.getLogger(__name__)

GROUP = "editkit"
ALLOW = "EDITKIT_PLUGINS"
DENY = "EDITKIT_DISABLE_PLUGINS"
STRICT = "EDITKIT_STRICT_PLUGINS"

KINDS: tuple[Kind, ...] = get_args(Kind)
BUILT_IN = "architectures"
"""Name of the plugin in which editkit itself offers the architectures of its table."""
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
    """An editor, metric, model, command, ... that a plugin offers."""

    kind: Kind
    spec: Spec
    source: Source

    @property
    def name(self) -> str:
        """The name that users type."""
        return self.spec.name


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A plugin that works; its hooks are called through a manager of its own."""

    source: Source
    manager: pluggy.PluginManager
    offers: tuple[Offer, ...]
    notes: tuple[str, ...] = ()
    """Oddities without harm: settings that it changed, a package loaded from an unusual place."""


@dataclasses.dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that cannot be used, with the reason in one line."""

    source: Source
    reason: str

    def __str__(self) -> str:
        return f"{self.source.plugin} ({self.source}): {self.reason}"


class Registry:
    """The plugins of one process and what they offer.

    Args:
        strict: Every lookup is an error while any plugin is broken.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.plugins: list[Plugin] = []
        self.broken: list[BrokenPlugin] = []
        self.disabled: list[Source] = []

    # ------------------------------------------------------------ filling

    @classmethod
    def discover(cls, environ: Mapping[str, str] = os.environ) -> Registry:
        """Load all installed plugins that the environment variables allow."""
        registry = cls(strict=environ.get(STRICT, "") not in ("", "0"))
        own = importlib.metadata.version("editkit")
        registry.register(_TestedTable(), name=BUILT_IN, distribution="editkit", version=own)
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
            reason = f"{ALLOW} names it, but it is not installed"
            registry.broken.append(BrokenPlugin(Source(name, "unknown", "?"), reason))
        return registry

    def register(
        self, plugin: object, *, name: str, distribution: str = "in-process", version: str = "0"
    ) -> None:
        """Add a module or object that implements hooks; a broken one goes to :attr:`broken`."""
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
            notes.append("implements no hook of editkit")
        self.plugins.append(Plugin(source, manager, offers, tuple(notes)))

    # ------------------------------------------------------------ looking up

    def offers(self, kind: Kind | None = None) -> list[Offer]:
        """All offers, sorted by kind and name, including those whose names clash."""
        offers = [
            offer
            for plugin in self.plugins
            for offer in plugin.offers
            if kind is None or offer.kind == kind
        ]
        return sorted(offers, key=lambda offer: (KINDS.index(offer.kind), offer.name))

    def names(self, kind: Kind) -> list[str]:
        """The distinct names of a kind, sorted."""
        return sorted({offer.name for offer in self.offers(kind)})

    @property
    def clashes(self) -> dict[tuple[Kind, str], tuple[Source, ...]]:
        """Names that several plugins offer, with those plugins."""
        sources: dict[tuple[Kind, str], tuple[Source, ...]] = {}
        for offer in self.offers():
            key = (offer.kind, offer.name)
            sources[key] = (*sources.get(key, ()), offer.source)
        return {key: each for key, each in sources.items() if len(each) > 1}

    def get(self, kind: Kind, name: str, *, or_of: tuple[Kind, ...] = ()) -> Offer:
        """The offer of this kind and name.

        Args:
            kind: The kind.
            name: The name.
            or_of: Other kinds that are possible in this place, whose names the error lists, too.

        Raises:
            PluginError: No plugin offers it, or several do.
        """
        self.check_strict()
        offers = [offer for offer in self.offers(kind) if offer.name == name]
        if len(offers) == 1:
            return offers[0]
        if offers:
            sources = " and ".join(
                f"{offer.source} (plugin {offer.source.plugin!r})" for offer in offers
            )
            raise PluginError(
                f"{kind} {name!r} is offered by {sources}, expected only one of them.",
                hint=f"Uninstall one of them, or name its plugin in {DENY}.",
            )
        raise self._unknown(kind, name, or_of)

    def has(self, kind: Kind, name: str) -> bool:
        """Whether any plugin offers it."""
        return any(offer.name == name for offer in self.offers(kind))

    def build(self, kind: Kind, name: str, config: Any) -> Any:
        """An instance of the class that an offer names.

        Raises:
            PluginError: No plugin offers it, several do, or its class cannot be loaded or built.
        """
        offer = self.get(kind, name)
        factory = resolve(getattr(offer.spec, "factory", ""), what=_describe(offer))
        guard = Guard("being built")
        try:
            with guard:
                built = factory(config)
                if isinstance(built, Configurable):
                    built.name = name
        except PluginFailure as failure:
            raise PluginError(
                f"{_describe(offer)} cannot be built: {failure}.",
                hint="Run again with --debug for the traceback, and report it to the plugin's "
                "author.",
            ) from failure.__cause__
        _warn_of_changes(_describe(offer), guard)
        return built

    def check_strict(self) -> None:
        """In strict mode, refuse to continue if any plugin is broken.

        Raises:
            PluginError: Strict mode is on, and a plugin is broken or a name clashes.
        """
        if not self.strict or not (self.broken or self.clashes):
            return
        reasons = [str(broken) for broken in self.broken]
        reasons += [clash_line(*clash) for clash in self.clashes.items()]
        raise PluginError(
            f"{STRICT} is set, and some plugins are broken: {'; '.join(reasons)}.",
            hint=f"Fix or uninstall them, or unset {STRICT}.",
        )

    def possible_reasons(self) -> str:
        """Why a name may be missing: sentences to append to an error, or nothing."""
        reasons = ""
        if self.broken:
            broken = "; ".join(str(plugin) for plugin in self.broken)
            reasons += f" It may belong to a broken plugin: {broken}."
        if self.disabled:
            disabled = ", ".join(source.plugin for source in self.disabled)
            reasons += f" It may belong to a plugin that the environment disables: {disabled}."
        return reasons

    def _unknown(self, kind: Kind, name: str, or_of: tuple[Kind, ...] = ()) -> PluginError:
        known = [each for possible in (kind, *or_of) for each in self.names(possible)]
        hint = did_you_mean(name, known) or "'editkit plugins' lists what is installed."
        return PluginError(
            f"there is no {kind} named {name!r}; known: {', '.join(known) or 'none'}."
            f"{self.possible_reasons()}",
            hint=hint,
        )


class _TestedTable:
    """The architectures of editkit, offered as those of any plugin, so that clashes show."""

    @hookspecs.hookimpl
    def editkit_architectures(self) -> Iterable[Architecture]:
        return FAMILIES


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse unknown hooks and arguments, and hooks without the marker.

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
            if kind == "architecture":
                specs = itertools.chain.from_iterable(map(architecture_specs, specs))
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
    """The class, function, ... that ``"package.module:Name"`` refers to.

    Args:
        reference: The reference.
        what: What has the reference, for errors: ``"editor 'rome' of editkit 1.0"``.

    Raises:
        PluginError: The module cannot be imported, or does not have the name.
    """
    if not REFERENCE.fullmatch(reference):
        raise PluginError(
            f"{what} refers to {reference!r}, expected 'package.module:Name'.",
            hint="Report this to the plugin's author.",
        )
    module_name, _, attribute = reference.partition(":")
    try:
        return getattr(import_module(module_name, what=what), attribute)
    except AttributeError as error:
        raise PluginError(
            f"{what} refers to {reference!r}, but {module_name} has no {attribute!r}.",
            hint="Report this to the plugin's author; its version may not fit this editkit.",
        ) from error


def import_module(name: str, *, what: str = "a plugin") -> ModuleType:
    """Import a module of a plugin.

    Args:
        name: The module.
        what: What needs it, for errors.

    Raises:
        PluginError: The module does not exist, raised an error, or called exit.
    """
    guard = Guard("being imported")
    try:
        with guard:
            module = importlib.import_module(name)
    except PluginFailure as failure:
        raise PluginError(
            f"{what} could not be loaded: {hidden_by_folder(name) or failure}.",
            hint="Install what is missing, or run again with --debug for the traceback.",
        ) from failure.__cause__
    _warn_of_changes(what, guard)
    return module


def _changes(guard: Guard) -> list[str]:
    return [f"changed {change} while {guard.moment}; it was restored" for change in guard.changes]


def _warn_of_changes(what: str, guard: Guard) -> None:
    for change in _changes(guard):
        _log.warning("%s %s.", what, change)


def clash_line(key: tuple[Kind, str], sources: Iterable[Source]) -> str:
    """One line that describes a clash."""
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
