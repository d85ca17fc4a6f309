"""A plugin's configuration, and where each of its values came from.

Field defaults, the default preset, the file for the model (without one, the editor's fallback
values), a preset that the user names, the benchmark file, and the command line: later ones win. The
editor's fallback rule chooses a layer that none of them sets, and the run's seed fills a ``seed``
field that none of them sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from editkit.errors import ConfigError, PluginError, did_you_mean
from editkit.interfaces import Config
from editkit.registry.hparams import NO_MATCH, Match, match_name, match_values, values_by_rule
from editkit.registry.model_identity import ModelIdentity
from editkit.registry.plugins import Offer, resolve
from editkit.registry.specs import LayerRule
from editkit.validation import dotted, own_problems, problem_text

DEFAULT = "default"
RULE = "fallback rule"
FALLBACK = "fallback"
GUESSED = (RULE, FALLBACK)
"""Sources of values that nobody chose for the model."""


@dataclasses.dataclass(frozen=True)
class GivenValues:
    """Config values from one source.

    Attributes:
        values: The values, nested.
        source: Where they came from, for provenance: ``atlas.yaml``, ``--set``.
        place: How messages refer to them; a field's name is appended: ``editors.0.config``.
    """

    values: Mapping[str, Any]
    source: str
    place: str

    def place_of(self, field: str) -> str:
        """How messages refer to a field: ``editors.0.config.layer``, ``--set layer``."""
        return f"{self.place} {field}" if self.place == "--set" else f"{self.place}.{field}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenConfig:
    """All values that were given for a configuration, not yet validated as a whole.

    Attributes:
        schema: The config class.
        given: The values by source; later ones win.
        preset: The preset, if the plugin has any.
        note: The note in the model's file of values.
        rule: What the fallback rule chose and why, if it was needed.
        matched: Which file of values is used for the model and why, or why one is not.
        overridden: Values in the model's file that the named preset replaced, one text each.
    """

    schema: type[Config]
    given: tuple[GivenValues, ...]
    preset: str | None
    note: str | None
    rule: str | None = None
    matched: Match = NO_MATCH
    overridden: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """All given values, merged; defaults are not included."""
        values: dict[str, Any] = {}
        for each in self.given:
            values = _merged(self.schema, values, each.values)
        return values

    @property
    def sources(self) -> dict[str, str]:
        """Where each value came from, by dotted field."""
        return _sources(self.schema, self.given)

    @property
    def guesses(self) -> tuple[str, ...]:
        """Values that nobody chose for this model: by the fallback rule, and fallback values."""
        rule = (self.rule,) if self.rule else ()
        used = [name for name, source in self.sources.items() if source == FALLBACK]
        if not used:
            return rule
        values = self.values
        listed = ", ".join(f"{name} {values[name]}" for name in used)
        return (*rule, f"no file of values: {listed} (evidence: 'editkit explain defaults')")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know about where the values come from."""
        rule = (self.rule,) if self.rule else ()
        if not self.overridden:
            return rule
        replaced = "; ".join(self.overridden)
        return (*rule, f"the named preset {self.preset!r} overrides the file: {replaced}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved(GivenConfig):
    """A validated configuration, with where its values came from."""

    config: Config

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return self.config.model_dump(mode="json")


def resolve_config(
    offer: Offer,
    *,
    model: str | ModelIdentity | None = None,
    preset: str | None = None,
    given: Sequence[GivenValues] = (),
    seed: int | None = None,
    place: str = "preset",
    n_layers: Callable[[], int | None] | None = None,
) -> Resolved:
    """The validated configuration of an editor, locator, metric, judge or dataset.

    Args:
        offer: What to configure.
        model: The model, or its name, which may have a file of values; None: no file is read.
        preset: A preset, which wins over the model's file in the fields that it sets; None: the
            preset that the file names, or the first one, and the file wins over it.
        given: Values from the benchmark file and the command line; later ones win.
        seed: The run's seed.
        place: How messages refer to ``preset``.
        n_layers: Returns the model's number of layers, or None if it is not known; called only if
            the fallback rule is needed.

    Raises:
        ConfigError: An unknown field or preset, or a value of the wrong type.
        PluginError: The plugin's config class cannot be loaded.
    """
    gathered = gather_config(
        offer,
        model=model,
        preset=preset,
        given=given,
        seed=seed,
        place=place,
        n_layers=n_layers,
    )
    return Resolved(**vars(gathered), config=_validated(gathered, offer))


def gather_config(
    offer: Offer,
    *,
    model: str | ModelIdentity | None = None,
    preset: str | None = None,
    given: Sequence[GivenValues] = (),
    seed: int | None = None,
    place: str = "preset",
    n_layers: Callable[[], int | None] | None = None,
) -> GivenConfig:
    """All values given for a configuration; arguments and errors as for :func:`resolve_config`."""
    schema = config_class(offer)
    match = match_values(offer, model) if model else NO_MATCH
    file = match.values
    named = preset is not None
    if file and not named and file.preset is not None:
        preset, place = file.preset, f"{file.file}: preset"
    preset, preset_values = _preset_values(offer, preset, place, model)
    file_values = [GivenValues(file.values, file.file, f"{file.file}: config")] if file else []
    lower = [*file_values, *preset_values] if named else [*preset_values, *file_values]
    if model and file is None and not named:
        lower += _fallback(offer, given)
    everything = [*lower, *given]
    for each in everything:
        _check_fields(schema, each)
    rule: LayerRule | None = getattr(offer.spec, "layer_rule", None)
    choice = None
    if model and rule and not any(rule.field in each.values for each in everything):
        known = n_layers() if n_layers else None
        name = model if isinstance(model, str) else model.shown
        by_rule, choice = values_by_rule(rule, name, known, has_file=file is not None)
        if by_rule:
            everything.append(GivenValues(by_rule, RULE, RULE))
    unset = not any("seed" in each.values for each in everything)
    if seed is not None and unset and "seed" in schema.model_fields:
        everything.append(GivenValues({"seed": seed}, "run seed", "seeds"))
    overridden = _overridden(schema, file_values[0], preset_values) if named and file_values else ()
    return GivenConfig(
        schema=schema,
        given=tuple(everything),
        preset=preset,
        note=file.note if file else None,
        rule=choice,
        matched=match,
        overridden=tuple(overridden),
    )


def _fallback(offer: Offer, given: Sequence[GivenValues]) -> Iterator[GivenValues]:
    """The editor's values for models that no file knows: groups with a first field left alone."""
    chosen = {field for each in given for field in each.values}
    for group in getattr(offer.spec, "fallback", ()):
        if not chosen & set(list(group)[:1]):
            yield GivenValues(group, FALLBACK, f"fallback of {offer.name}")


def config_class(offer: Offer) -> type[Config]:
    """The config class of an editor, locator, metric, judge or dataset.

    Raises:
        ConfigError: Offers of this kind take no configuration.
        PluginError: The class cannot be loaded, or is not a subclass of :class:`Config`.
    """
    reference = getattr(offer.spec, "config", None)
    if reference is None:
        raise ConfigError(
            f"{offer.kind} {offer.name!r} takes no configuration.",
            hint="Only editors, locators, metrics, judges and datasets do.",
        )
    cls = resolve(reference, what=f"{offer.kind} {offer.name!r} of {offer.source}")
    if not (isinstance(cls, type) and issubclass(cls, Config)):
        raise PluginError(
            f"{reference!r} of {offer.kind} {offer.name!r} is {cls!r}, expected a subclass of "
            "editkit.Config.",
            hint="Report this to the plugin's author.",
        )
    return cls


def _validated(gathered: GivenConfig, offer: Offer) -> Config:
    """The config; errors name the source of each wrong value."""
    try:
        return gathered.schema.model_validate(gathered.values)
    except ValidationError as error:
        who = f"{offer.kind} {offer.name!r}"
        problems = [_problem(each, gathered, who) for each in own_problems(error)]
        raise ConfigError(
            "; ".join(problems) + ".", hint=f"'editkit describe {offer.name}' lists the fields."
        ) from None


def _preset_values(
    offer: Offer, preset: str | None, place: str, model: str | ModelIdentity | None
) -> tuple[str | None, list[GivenValues]]:
    """A preset's name, and its values: those for every model, then those for this one."""
    presets: Mapping[str, Mapping[str, Any]] = getattr(offer.spec, "presets", {})
    if preset is None:
        preset = next(iter(presets), None)
        if preset is None:
            return None, []
    if preset not in presets:
        known = ", ".join(presets) or "none"
        raise ConfigError(
            f"{place}: {offer.kind} {offer.name!r} has no preset {preset!r}; known: {known}.",
            hint=did_you_mean(str(preset), presets),
        )
    source, where = f"preset {preset}", f"preset {preset!r} of {offer.name}"
    values = [GivenValues(presets[preset], source, where)]
    by_model = getattr(offer.spec, "model_presets", {}).get(preset, {})
    name = match_name(offer, model, by_model) if model and by_model else None
    if name is not None:
        own = GivenValues(by_model[name], f"{source} for {name}", f"{where} for {name}")
        values.append(own)
    return preset, values


def _overridden(
    schema: type[BaseModel], file: GivenValues, presets: Sequence[GivenValues]
) -> Iterator[str]:
    """Values of the model's file that a preset replaces."""
    above = {field: value for each in presets for field, value in _flat(schema, each.values)}
    for field, value in _flat(schema, file.values):
        if field in above and above[field] != value:
            yield f"{field} is {above[field]!r}, not {value!r} from {file.source}"


def _flat(
    schema: type[BaseModel], values: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any]]:
    """Values by dotted field."""
    flat: list[tuple[str, Any]] = []
    for field, value in values.items():
        section = _section(schema, field)
        if section and isinstance(value, Mapping):
            flat += _flat(section, value, f"{prefix}{field}.")
        else:
            flat.append((f"{prefix}{field}", value))
    return flat


# ---------------------------------------------------------------- merging


def _section(schema: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The class of a field that is itself a set of fields."""
    known = schema.model_fields.get(field)
    annotation = known.annotation if known else None
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def _merged(
    schema: type[BaseModel], below: Mapping[str, Any], above: Mapping[str, Any]
) -> dict[str, Any]:
    result = dict(below)
    for field, value in above.items():
        section, lower = _section(schema, field), below.get(field)
        if isinstance(value, Mapping) and isinstance(lower, Mapping):
            result[field] = _merged(section, lower, value) if section else {**lower, **value}
        else:
            result[field] = value
    return result


def _check_fields(schema: type[BaseModel], given: GivenValues) -> None:
    """Refuse unknown fields."""
    for field, siblings in _unknown_fields(schema, given.values):
        unknown = field.rpartition(".")[2]
        hint = did_you_mean(unknown, siblings) or f"Known: {', '.join(siblings) or 'no fields'}."
        raise ConfigError(f"{given.place_of(field)}: unknown field.", hint=hint)


def _unknown_fields(
    schema: type[BaseModel], values: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Dotted names of fields that are not in the schema, each with the fields that are."""
    for field, value in values.items():
        section = _section(schema, field) if isinstance(field, str) else None
        if field not in schema.model_fields:
            yield f"{prefix}{field}", list(schema.model_fields)
        elif section and isinstance(value, Mapping):
            yield from _unknown_fields(section, value, f"{prefix}{field}.")


def _sources(
    schema: type[BaseModel], given: Sequence[GivenValues], prefix: str = ""
) -> dict[str, str]:
    """Where the values of a class and of its sections come from."""
    sources: dict[str, str] = {}
    for field in schema.model_fields:
        section = _section(schema, field)
        setting = [each for each in given if field in each.values]
        if section:
            inner = [
                GivenValues(each.values[field], each.source, each.place)
                for each in setting
                if isinstance(each.values[field], Mapping)
            ]
            sources.update(_sources(section, inner, f"{prefix}{field}."))
        else:
            sources[f"{prefix}{field}"] = setting[-1].source if setting else DEFAULT
    return sources


def _problem(problem: Any, gathered: GivenConfig, who: str) -> str:
    location = problem["loc"]
    if not location:  # a validator of the class: values that do not fit together
        return f"{who}: {str(problem['msg']).removeprefix('Value error, ')}"
    field = dotted(location)
    setting = [each for each in gathered.given if location[0] in each.values] or gathered.given
    place = setting[-1].place_of(field) if setting else f"{who}: {field}"
    return f"{place}: {problem_text(problem)}"
