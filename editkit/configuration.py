"""Putting a plugin's configuration together, and knowing where each value came from.

Field defaults, then a preset, the file for the model, the benchmark file, and the command line:
later ones win. The run's seed fills a ``seed`` field that nobody set.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from editkit.errors import ConfigError, PluginError, did_you_mean
from editkit.interfaces import Config
from editkit.plugins import Offer, resolve

DEFAULT = "default"


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
    """

    config: Config
    sources: Mapping[str, str]
    preset: str | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return self.config.model_dump(mode="json")


def resolve_config(
    offer: Offer,
    *,
    model: str | None = None,
    preset: str | None = None,
    layers: Sequence[Layer] = (),
    seed: int | None = None,
    place: str = "preset",
) -> Resolved:
    """The configuration of something on offer.

    Args:
        offer: An editor, locator, metric or dataset.
        model: The model's name, which may have a file of values; None: no such file is read.
        preset: Name of a preset; None: the one that the model's file names, or the first.
        layers: Values of the benchmark file and of the command line, in this order.
        seed: The run's seed.
        place: How a message points at ``preset``.

    Raises:
        ConfigError: An unknown field or preset, or a value of the wrong type.
        PluginError: The plugin's config class cannot be loaded.
    """
    stack = stack_of(offer, model=model, preset=preset, layers=layers, seed=seed, place=place)
    config = _validated(stack)
    return Resolved(config, stack.sources(), stack.preset, stack.note)


@dataclasses.dataclass(frozen=True)
class Stack:
    """All values that were given for a configuration, not yet validated as a whole.

    Attributes:
        schema: The config class.
        layers: Lowest first.
        preset: The preset, if the plugin has any.
        note: What the file for the model says about its values.
    """

    schema: type[Config]
    layers: tuple[Layer, ...]
    preset: str | None
    note: str | None

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
    model: str | None = None,
    preset: str | None = None,
    layers: Sequence[Layer] = (),
    seed: int | None = None,
    place: str = "preset",
) -> Stack:
    """The layers of a configuration; arguments and errors as for :func:`resolve_config`."""
    schema = config_class(offer)
    file = _model_file(offer, model) if model else _ModelFile()
    preset_layer = _preset_layer(offer, preset or file.preset, place if preset else file.place)
    found = [layer for layer in (preset_layer, file.layer, *layers) if layer is not None]
    for layer in found:
        _check_fields(schema, layer)
    unset = not any("seed" in layer.values for layer in found)
    if seed is not None and unset and "seed" in schema.model_fields:
        found.append(Layer({"seed": seed}, "run seed", "seeds"))
    name = preset_layer.source.removeprefix("preset ") if preset_layer else None
    return Stack(schema, tuple(found), name, file.note)


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


def _validated(stack: Stack) -> Config:
    """The config, with errors that point into the layer that a value came from."""
    try:
        return stack.schema.model_validate(stack.values())
    except ValidationError as error:
        problems = [_problem(problem, stack.layers) for problem in error.errors(include_url=False)]
        raise ConfigError(
            "; ".join(problems) + ".", hint="'editkit describe NAME' lists the fields."
        ) from None


def problems_of(error: ValidationError, place: str = "") -> str:
    """A pydantic error in plain words: ``limit: got 'x', expected an integer``."""
    prefix = f"{place}." if place else ""
    return "; ".join(
        f"{prefix}{_dotted(problem['loc'])}: {_complaint(problem)}"
        for problem in error.errors(include_url=False)
    )


def parse_yaml(text: str, *, place: str) -> Any:
    """Plain data from YAML.

    Raises:
        ConfigError: It is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(
            f"{place}{where}: {what}; expected YAML.", hint="Check quotes and indentation there."
        ) from None


# ---------------------------------------------------------------- layers below the benchmark file


@dataclasses.dataclass(frozen=True)
class _ModelFile:
    layer: Layer | None = None
    preset: str | None = None
    note: str | None = None
    place: str = ""


def model_file_name(model: str) -> str:
    """Name of the file of values for a model: ``gpt2-xl.yaml`` for ``openai-community/gpt2-xl``."""
    return model.rstrip("/").rpartition("/")[2].lower() + ".yaml"


def _model_file(offer: Offer, model: str) -> _ModelFile:
    folder = getattr(offer.spec, "configs", None)
    if not folder:
        return _ModelFile()
    package, _, inside = folder.partition(":")
    try:
        file = importlib.resources.files(package)
    except ModuleNotFoundError:
        raise PluginError(
            f"{offer.kind} {offer.name!r} of {offer.source} names {folder!r} for its files of "
            f"values, but there is no package {package!r}.",
            hint="Install the plugin again, or tell its author.",
        ) from None
    for part in (*inside.split("/"), model_file_name(model)):
        file = file / part if part else file
    if not file.is_file():
        return _ModelFile()
    place = f"{folder.replace(':', '/')}/{model_file_name(model)}"
    content = parse_yaml(file.read_text(encoding="utf-8"), place=place)
    if not isinstance(content, Mapping) or not isinstance(content.get("config", {}), Mapping):
        raise ConfigError(f"{place}: got {content!r:.60}, expected 'config:' with fields below it.")
    for key in content:
        if key not in ("config", "preset", "note"):
            raise ConfigError(
                f"{place}: unknown key {key!r}, expected config, preset or note.",
                hint=did_you_mean(str(key), ("config", "preset", "note")),
            )
    layer = Layer(content.get("config", {}), place, f"{place}: config")
    return _ModelFile(layer, content.get("preset"), content.get("note"), f"{place}: preset")


def _preset_layer(offer: Offer, preset: str | None, place: str) -> Layer | None:
    presets: Mapping[str, Mapping[str, Any]] = getattr(offer.spec, "presets", {})
    if preset is None:
        preset = next(iter(presets), None)
        if preset is None:
            return None
    if preset not in presets:
        known = ", ".join(presets) or "none"
        raise ConfigError(
            f"{place}: {offer.kind} {offer.name!r} has no preset {preset!r}; known: {known}.",
            hint=did_you_mean(str(preset), presets),
        )
    return Layer(presets[preset], f"preset {preset}", f"preset {preset!r} of {offer.name}")


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


# ---------------------------------------------------------------- messages

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "none_required": "nothing (null)",
}


def _problem(problem: Any, layers: Sequence[Layer]) -> str:
    location = problem["loc"]
    if not location:  # several values that make no sense together, told by a validator of theirs
        return str(problem["msg"]).removeprefix("Value error, ")
    place = ""
    for layer in layers:
        if location and location[0] in layer.values:
            place = f"{layer.place}."
    if not place and layers:
        place = f"{layers[-1].place}."
    return f"{place}{_dotted(location)}: {_complaint(problem)}"


def _dotted(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location) or "values"


def _complaint(problem: Any) -> str:
    kind, message = problem["type"], problem["msg"]
    if kind == "missing":
        return "is missing, and has no default"
    if kind == "extra_forbidden":
        return "unknown field"
    expected = _EXPECTED.get(kind)
    if expected is None:
        message = message.removeprefix("Value error, ")
        if not message.startswith("Input should be "):
            return f"got {problem['input']!r}; {message}"
        expected = message.removeprefix("Input should be ")
    return f"got {problem['input']!r}, expected {expected}"
