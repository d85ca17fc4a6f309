"""What is wrong with a value, in plain words and with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from editkit.errors import ConfigError

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


def problems_of(error: ValidationError, place: str = "") -> str:
    """A pydantic error in plain words: ``limit: got 'x', expected an integer``."""
    prefix = f"{place}." if place else ""
    return "; ".join(
        f"{prefix}{dotted(problem['loc'])}: {complaint(problem)}"
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


def dotted(location: Sequence[str | int]) -> str:
    """A place in nested values: ``optimizer.lr``."""
    return ".".join(str(part) for part in location) or "values"


def complaint(problem: Any) -> str:
    """One problem that pydantic found: ``got 'x', expected an integer``."""
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
