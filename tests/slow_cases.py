"""Cases of a matrix that run by default; ``pytest -m slow`` runs the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def by_default(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """Mark all cases except the chosen ones as slow.

    A case that is a tuple holds the values of several parameters.
    """
    cases = list(cases)
    absent = [case for case in chosen if case not in cases]
    if absent:
        raise ValueError(f"{absent} is not among the cases {cases}")
    return [
        case
        if case in chosen
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
