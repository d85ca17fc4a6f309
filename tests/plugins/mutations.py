"""Broken variants of a valid record, and arbitrary values for its fields."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from editkit import Records

__all__ = ["check_read_or_rejected", "json_values", "mutations"]

_OTHERS: tuple[object, ...] = (None, "", 5, True, [], {}, ["x"], {"value": 5}, "\ud800", "{}")


def json_values() -> st.SearchStrategy[object]:
    """Any small JSON value."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    )


def check_read_or_rejected(loaded: Records) -> None:
    """Check that the only record of a dataset is read, or rejected with a place and a reason."""
    assert len(loaded.records) + len(loaded.rejected) == 1
    assert all(each.field and each.reason for each in loaded.rejected)


def mutations(value: Any) -> Iterator[Any]:
    """Every variant with a key or list element absent, or of another type."""
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
