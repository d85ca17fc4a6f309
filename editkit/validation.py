"""Validated values: the base of every configuration, and errors that name the field and value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from editkit.errors import ConfigError

__all__ = ["nested_values"]

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


_LONGEST_SHOWN = 200


def problems_of(error: ValidationError, place: str = "") -> str:
    """A pydantic error as a message: ``limit: got 'x', expected an integer``."""
    prefix = f"{place}." if place else ""
    return "; ".join(
        f"{prefix}{dotted(problem['loc'])}: {problem_text(problem)}"
        for problem in own_problems(error)
    )


def own_problems(error: ValidationError) -> list[Any]:
    """The problems of a pydantic error, without those that only follow from others.

    Pydantic drops a wrong element of a list, and then finds the list too short.
    """
    problems = error.errors(include_url=False)
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if problem["type"] != "too_short"
        or all(place == other or place != other[: len(place)] for other in places)
    ]


def dotted(location: Sequence[str | int]) -> str:
    """The dotted name of a place in nested values: ``optimizer.lr``."""
    return ".".join(str(part) for part in location) or "values"


def nested_values(values: Mapping[str, Any], *, place: str = "--set ") -> dict[str, Any]:
    """Nested mappings from values by dotted name: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``.

    Args:
        values: The values; of two with one name the later wins.
        place: What messages put before a name.

    Raises:
        ConfigError: A value is set inside another that is not a mapping.
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, field = name.split(".")
        target = nested
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"{place}{name}: {section} is {inner!r}, which has no fields.",
                    hint=f"Set either {section} or its fields.",
                )
            target = inner
        target[field] = value
    return nested


def problem_text(problem: Any) -> str:
    """One problem of a pydantic error as text: ``got 'x', expected an integer``."""
    kind, message = problem["type"], problem["msg"]
    if kind == "missing":
        return "is missing, and has no default"
    if kind == "extra_forbidden":
        return "unknown field"
    expected = _EXPECTED.get(kind)
    if kind == "too_short":
        n = problem["ctx"]["min_length"]
        expected = f"at least {n} {'value' if n == 1 else 'values'}"
    if expected is None:
        message = message.removeprefix("Value error, ")
        if not message.startswith("Input should be "):
            return f"got {_shown(problem['input'])}; {message}"
        expected = message.removeprefix("Input should be ")
    return f"got {_shown(problem['input'])}, expected {expected}"


def _shown(value: Any) -> str:
    """A value for a message, cut if it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; an integer of too many digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


_TYPE_PROBLEMS = {bool: "bool_type", int: "int_type", float: "float_type"}


def strict_values(
    cls: type[BaseModel], values: Any, handler: ModelWrapValidatorHandler[Any]
) -> Any:
    """A wrap validator for values that pydantic accepts: true as 1, "5" as 5, unwritable texts.

    Raises:
        ValidationError: A boolean where a field holds numbers, a text where it holds numbers or
            booleans, a number where it holds booleans, or a text with a NUL or a lone surrogate,
            each with its place.
    """
    validated = handler(values)
    if isinstance(values, Mapping):
        problems = [
            problem
            for name, field in cls.model_fields.items()
            for key in (name, field.alias)
            if key in values
            for problem in _surprises(values[key], getattr(validated, name, None), (str(key),))
        ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
    return validated


def _surprises(given: Any, kept: Any, place: tuple[str | int, ...]) -> Iterator[InitErrorDetails]:
    """Problems of a value that validation accepted, and of the values inside it."""
    if (
        isinstance(given, bool | int | float | str)
        and isinstance(kept, bool | int | float)
        and (isinstance(given, str) or isinstance(given, bool) is not isinstance(kept, bool))
    ):
        yield InitErrorDetails(type=_TYPE_PROBLEMS[type(kept)], loc=place, input=given)
    elif isinstance(given, str | PurePath):
        if problem := text_problem(str(given)):
            custom = PydanticCustomError("text", "Value error, {problem}", {"problem": problem})
            yield InitErrorDetails(type=custom, loc=place, input=str(given))
    elif isinstance(given, Mapping):
        for key, value in given.items():
            own = kept.get(key) if isinstance(kept, Mapping) else None
            yield from _surprises(value, own, (*place, str(key)))
    elif isinstance(given, list | tuple):
        same = isinstance(kept, list | tuple) and len(kept) == len(given)
        for number, value in enumerate(given):
            yield from _surprises(value, kept[number] if same else None, (*place, number))


def text_problem(text: str) -> str | None:
    """Why a text cannot be a name, a path or a value in a file; None if it can."""
    if "\0" in text:
        return "it holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"it holds the lone surrogate U+{ord(text[error.start]):04X}"
    return None


# ---------------------------------------------------------------- configurations of plugins


@dataclasses.dataclass(frozen=True)
class NamesFile:
    """Marks a text that names a file: a path, or ``package:file``."""


@dataclasses.dataclass(frozen=True)
class NamesCorpus:
    """Marks a text that names a :class:`~editkit.covariance.corpora.Corpus`."""


@dataclasses.dataclass(frozen=True)
class NotRead:
    """Marks a path or a text that names content on which results do not depend."""


FileName = Annotated[str, NamesFile()]
"""Type of a field that holds a path, or ``package:file``."""


CorpusName = Annotated[str, NamesCorpus()]
"""Type of a field that holds the source of a :class:`~editkit.covariance.corpora.Corpus`."""


class Config(BaseModel):
    """Base of every plugin's configuration: immutable, no unknown keys, finite numbers only.

    The docstring under each field is its documentation (``editkit describe NAME``).
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    _strict = model_validator(mode="wrap")(strict_values)

    def check_for(self, model: str, model_fingerprint: str, name: str) -> None:
        """Refuse a model that an editor with these values cannot edit, before it is loaded.

        Override this if something must exist first, such as a network trained for the model. A
        benchmark that comes with editkit or a plugin leaves the editor out for a model that it was
        not written for; otherwise, the error ends the run before any work is done.

        Args:
            model: The model as the user typed it, for the message.
            model_fingerprint: Its fingerprint.
            name: The name that the configuration was given under: ``mend-cf``.

        Raises:
            ConfigError: What is missing, and how to get it.
        """

    def depends_on(self, model_fingerprint: str, name: str) -> Mapping[str, str]:
        """Digests of what results depend on besides the values, by field.

        The content of files, folders and corpora that fields name always counts, if the fields have
        the types :class:`~pathlib.Path`, :data:`~editkit.interfaces.FileName` and
        :data:`~editkit.interfaces.CorpusName`. Override this for anything that no field names, such
        as trained weights that are found by the model's fingerprint.

        Args:
            model_fingerprint: Fingerprint of the model that is used, without edits applied to it.
            name: The name that the configuration was given under: ``mend-cf``.

        Raises:
            ConfigError: A file that a field names does not exist or cannot be read.
        """
        return {}
