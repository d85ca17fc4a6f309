"""Putting a plugin's configuration together, and knowing where each value came from.

Field defaults, then the default preset, the file for the model, a preset that the user names, the
benchmark file, and the command line: later ones win. A layer that none of them sets is chosen by
the editor's rule, and the run's seed fills a ``seed`` field that nobody set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from editkit.errors import ConfigError, PluginError, did_you_mean
from editkit.interfaces import Config
from editkit.registry.hparams import (
    NO_MATCH,
    Match,
    ModelIdentity,
    match_name,
    match_values,
    values_by_rule,
)
from editkit.registry.plugins import Offer, resolve
from editkit.registry.specs import LayerRule
from editkit.validation import complaint, dotted

DEFAULT = "default"
RULE = "fallback rule"


@dataclasses.dataclass(frozen=True)
class Layer:
    """Some values, where they came from, and how a message points at them."""

    values: Mapping[str, Any]
    source: str
    place: str


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A validated configuration.

    Attributes:
        config: The configuration.
        sources: Where each value came from, by dotted field.
        preset: The preset, if the plugin has any.
        note: What the file for the model says about its values.
        rule: What the fallback rule chose and why, where it was needed.
        matched: Which file of values is used for the model and why, or why one is not.
        overridden: Values of the model's file that the named preset replaced, one text each.
    """

    config: Config
    sources: Mapping[str, str]
    preset: str | None = None
    note: str | None = None
    rule: str | None = None
    matched: Match = NO_MATCH
    overridden: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know about where values come from."""
        rule = (self.rule,) if self.rule else ()
        if not self.overridden:
            return rule
        return (*rule, f"preset {self.preset!r} was named and wins: {'; '.join(self.overridden)}")

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return self.config.model_dump(mode="json")


def resolve_config(
    offer: Offer,
    *,
    model: str | ModelIdentity | None = None,
    preset: str | None = None,
    layers: Sequence[Layer] = (),
    seed: int | None = None,
    place: str = "preset",
    n_layers: Callable[[], int | None] | None = None,
) -> Resolved:
    """The configuration of something on offer.

    Args:
        offer: An editor, locator, metric or dataset.
        model: The model, or its name, which may have a file of values; None: no such file is read.
        preset: Name of a preset, which then wins over the model's file in the fields that it sets;
            None: the one that the file names, or the first, over which the file wins.
        layers: Values of the benchmark file and of the command line, in this order.
        seed: The run's seed.
        place: How a message points at ``preset``.
        n_layers: Tells the model's number of layers, or None where it is not known; asked only
            if the fallback rule is needed.

    Raises:
        ConfigError: An unknown field or preset, or a value of the wrong type.
        PluginError: The plugin's config class cannot be loaded.
    """
    stack = stack_of(
        offer,
        model=model,
        preset=preset,
        layers=layers,
        seed=seed,
        place=place,
        n_layers=n_layers,
    )
    config = _validated(stack, offer)
    return Resolved(
        config,
        stack.sources(),
        stack.preset,
        stack.note,
        stack.rule,
        stack.matched,
        stack.overridden,
    )


@dataclasses.dataclass(frozen=True)
class Stack:
    """All values that were given for a configuration, not yet validated as a whole.

    Attributes:
        schema: The config class.
        layers: Lowest first.
        preset: The preset, if the plugin has any.
        note: What the file for the model says about its values.
        rule: What the fallback rule chose and why, where it was needed.
        matched: Which file of values is used for the model and why, or why one is not.
        overridden: Values of the model's file that the named preset replaced, one text each.
    """

    schema: type[Config]
    layers: tuple[Layer, ...]
    preset: str | None
    note: str | None
    rule: str | None = None
    matched: Match = NO_MATCH
    overridden: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """What was given, later layers over earlier ones; defaults are not among it."""
        values: dict[str, Any] = {}
        for layer in self.layers:
            values = _merged(self.schema, values, layer.values)
        return values

    def sources(self) -> dict[str, str]:
        """Where each value comes from, by dotted field."""
        return _sources(self.schema, self.layers)


def stack_of(
    offer: Offer,
    *,
    model: str | ModelIdentity | None = None,
    preset: str | None = None,
    layers: Sequence[Layer] = (),
    seed: int | None = None,
    place: str = "preset",
    n_layers: Callable[[], int | None] | None = None,
) -> Stack:
    """The layers of a configuration; arguments and errors as for :func:`resolve_config`."""
    schema = config_class(offer)
    match = match_values(offer, model) if model else NO_MATCH
    file = match.values
    named = preset is not None
    if file and not named and file.preset is not None:
        preset, place = file.preset, f"{file.file}: preset"
    chosen, preset_layers = _preset_layers(offer, preset, place, model)
    file_layers = [Layer(file.values, file.file, f"{file.file}: config")] if file else []
    lower = [*file_layers, *preset_layers] if named else [*preset_layers, *file_layers]
    found = [*lower, *layers]
    for layer in found:
        _check_fields(schema, layer)
    rule: LayerRule | None = getattr(offer.spec, "layer_rule", None)
    said = None
    if model and rule and not any(rule.field in layer.values for layer in found):
        known = n_layers() if n_layers else None
        shown = model if isinstance(model, str) else model.shown
        by_rule, said = values_by_rule(rule, shown, known, has_file=file is not None)
        if by_rule:
            found.append(Layer(by_rule, RULE, RULE))
    unset = not any("seed" in layer.values for layer in found)
    if seed is not None and unset and "seed" in schema.model_fields:
        found.append(Layer({"seed": seed}, "run seed", "seeds"))
    overridden: tuple[str, ...] = ()
    if named and file_layers:
        overridden = tuple(_overridden(schema, file_layers[0], preset_layers))
    note = file.note if file else None
    return Stack(schema, tuple(found), chosen, note, said, match, overridden)


def config_class(offer: Offer) -> type[Config]:
    """The config class of something on offer.

    Raises:
        ConfigError: Offers of this kind take no configuration.
        PluginError: It cannot be loaded, or is no :class:`Config`.
    """
    reference = getattr(offer.spec, "config", None)
    if reference is None:
        raise ConfigError(
            f"{offer.kind} {offer.name!r} takes no configuration.",
            hint="Only editors, locators, metrics and datasets do.",
        )
    found = resolve(reference, what=f"{offer.kind} {offer.name!r} of {offer.source}")
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise PluginError(
            f"{reference!r} of {offer.kind} {offer.name!r} is {found!r}, expected a subclass of "
            "editkit.Config.",
            hint="Tell the plugin's author.",
        )
    return found


def _validated(stack: Stack, offer: Offer) -> Config:
    """The config, with errors that point into the layer that a value came from."""
    try:
        return stack.schema.model_validate(stack.values())
    except ValidationError as error:
        who = f"{offer.kind} {offer.name!r}"
        found = error.errors(include_url=False)
        problems = [_problem(problem, stack.layers, who) for problem in found]
        raise ConfigError(
            "; ".join(problems) + ".", hint=f"'editkit describe {offer.name}' lists the fields."
        ) from None


def _preset_layers(
    offer: Offer, preset: str | None, place: str, model: str | ModelIdentity | None
) -> tuple[str | None, list[Layer]]:
    """A preset's name, and its values: for every model, and then for this one."""
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
    source, whose = f"preset {preset}", f"preset {preset!r} of {offer.name}"
    found = [Layer(presets[preset], source, whose)]
    by_model = getattr(offer.spec, "model_presets", {}).get(preset, {})
    name = match_name(offer, model, by_model) if model and by_model else None
    if name is not None:
        found.append(Layer(by_model[name], f"{source} for {name}", f"{whose} for {name}"))
    return preset, found


def _overridden(schema: type[BaseModel], file: Layer, presets: Sequence[Layer]) -> Iterator[str]:
    """Values of the model's file in whose place a preset puts other ones."""
    below = _flat(schema, file.values)
    above = {field: value for layer in presets for field, value in _flat(schema, layer.values)}
    for field, value in below:
        if field in above and above[field] != value:
            yield f"{field} is {above[field]!r}, not {value!r} of {file.source}"


def _flat(
    schema: type[BaseModel], values: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any]]:
    """Values by dotted field."""
    found: list[tuple[str, Any]] = []
    for field, value in values.items():
        section = _section(schema, field)
        if section and isinstance(value, Mapping):
            found += _flat(section, value, f"{prefix}{field}.")
        else:
            found.append((f"{prefix}{field}", value))
    return found


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
        section = _section(schema, field)
        if section and isinstance(value, Mapping) and isinstance(below.get(field), Mapping):
            result[field] = _merged(section, below[field], value)
        else:
            result[field] = value
    return result


def _check_fields(schema: type[BaseModel], layer: Layer) -> None:
    """Refuse unknown fields, with the place where they were written."""
    for place, field, known in _unknown_fields(schema, layer.values, layer.place):
        hint = did_you_mean(field, known) or f"Known: {', '.join(known) or 'no fields'}."
        raise ConfigError(f"{place}.{field}: unknown field.", hint=hint)


def _unknown_fields(
    schema: type[BaseModel], values: Mapping[str, Any], place: str
) -> Iterator[tuple[str, str, list[str]]]:
    for field, value in values.items():
        section = _section(schema, field) if isinstance(field, str) else None
        if field not in schema.model_fields:
            yield place, str(field), list(schema.model_fields)
        elif section and isinstance(value, Mapping):
            yield from _unknown_fields(section, value, f"{place}.{field}")


def _sources(schema: type[BaseModel], layers: Sequence[Layer], prefix: str = "") -> dict[str, str]:
    """Where the values of a class and of its sections come from."""
    sources: dict[str, str] = {}
    for field in schema.model_fields:
        section = _section(schema, field)
        here = [layer for layer in layers if field in layer.values]
        if section:
            inner = [
                Layer(layer.values[field], layer.source, layer.place)
                for layer in here
                if isinstance(layer.values[field], Mapping)
            ]
            sources.update(_sources(section, inner, f"{prefix}{field}."))
        else:
            sources[f"{prefix}{field}"] = here[-1].source if here else DEFAULT
    return sources


def _problem(problem: Any, layers: Sequence[Layer], who: str) -> str:
    location = problem["loc"]
    if not location:  # several values that make no sense together, told by a validator of theirs
        return f"{who}: {str(problem['msg']).removeprefix('Value error, ')}"
    place = ""
    for layer in layers:
        if location and location[0] in layer.values:
            place = f"{layer.place}."
    if not place and layers:
        place = f"{layers[-1].place}."
    return f"{place}{dotted(location)}: {complaint(problem)}"
