"""For tests that damage things: a documented error, or a result, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from editkit import EditkitError

T = TypeVar("T")
E = TypeVar("E", bound=EditkitError)

PAGES = Path(__file__).resolve().parents[1] / "docs" / "errors"


def either(act: Callable[[], T], *documented: type[E]) -> T | E:
    """What ``act`` returns, or the error of a documented kind that it raised.

    Every other exception passes, and fails the test. The error has words, fits a terminal, and has
    its page.
    """
    try:
        return act()
    except documented as error:
        raised = error
    assert raised.message.strip()
    assert len(str(raised)) < 2000
    assert (PAGES / f"{raised.page}.md").is_file()
    return raised
