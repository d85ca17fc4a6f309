"""JSON from unknown writers: read without ambiguity, or refused with a reason."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["distinct", "parse_json"]

_LONGEST_INT = 20  # characters of an integer of 64 bits
_LONGEST_SHOWN = 40


def parse_json(text: str, *, allow_nan: bool = False) -> Any:
    """Plain data from JSON.

    Args:
        text: The JSON.
        allow_nan: Accept ``NaN`` and ``Infinity``, as Python writes them.

    Raises:
        ValueError: It is not JSON, or different readers would read it differently: duplicate keys,
            ``NaN`` and ``Infinity``, numbers beyond 64 bits, lone surrogates, deep nesting.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=distinct,
            parse_constant=float if allow_nan else _constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\u" in text.lower():  # in valid UTF-8, a lone surrogate needs an escape
        _check_texts(value)
    return value


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of :func:`json.loads` that refuses duplicate keys.

    Raises:
        ValueError: A key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"the key {_shown(twice)} occurs twice")
    return content


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {_shown(text)} is too large")
    return number


def _int(text: str) -> int:
    if len(text) > _LONGEST_INT or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"the number {_shown(text)} is beyond 64 bits")
    return int(text)


def _check_texts(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the text {_shown(value)} contains a lone surrogate") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(key)
            _check_texts(item)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)


def _shown(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
