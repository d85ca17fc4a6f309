"""Broken variants of a valid record: every key and list element absent, or of another type."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

__all__ = ["mutations"]

_OTHERS: tuple[object, ...] = (None, "", 5, True, [], {}, ["x"], {"value": 5}, "\ud800", "{}")


def mutations(value: Any) -> Iterator[Any]:
    """Every variant with one place deleted or replaced."""
    for path in _places(value):
        for other in _OTHERS:
            variant = copy.deepcopy(value)
            parent = _at(variant, path[:-1])
            parent[path[-1]] = other
            yield variant
        variant = copy.deepcopy(value)
        del _at(variant, path[:-1])[path[-1]]
        yield variant


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys: Any = ()
    if isinstance(value, dict):
        keys = value
    elif isinstance(value, list):
        keys = range(len(value))
    for key in keys:
        yield (*path, key)
        yield from _places(value[key], (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
