"""What was made outside of a benchmark and is worth comparing: a training, a trace, a figure.

Whoever makes such a thing keeps it in files of its own and tells of it with :func:`tell`. Plugins
that show things, such as MLflow tracking, observe ``editkit_reported``. Telling of the same thing
again brings what is shown up to date and adds nothing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.errors import PluginError, TrackingError
from editkit.file_names import why_unsafe_path

__all__ = ["FAILED", "Point", "Report", "tell"]

FAILED = "failed"
"""Key of the answer of :func:`tell` that says which tracking service could not be told."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        step: Where it stands, from 0.
        value: Its value.
        time: When it was known, in seconds since the epoch.
    """

    step: int
    value: float
    time: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Something to be shown.

    Attributes:
        out: Output folder; a tracking service may keep its own files there.
        kind: What it is one of: ``training``; reports of one kind are shown together.
        name: Its name in lists.
        fingerprint: Digest of what it depends on: the same thing keeps it for ever.
        started: When it was begun, in seconds since the epoch.
        finished: When it was done; None while it goes on.
        params: What was chosen.
        metrics: Single numbers that came out.
        curves: Numbers that came out step by step, by name.
        tags: What to group and search by.
        files: Files to keep with it (figures, tables), by the path that they are shown under.
        panels: Pictures (PNG) by name, shown beside those of the same name of other reports.
        note: Markdown for a reader who sees it alone.

    Raises:
        PluginError: A name in ``files`` or ``panels`` is absolute, climbs out with ``..``, or
            cannot be a file's name.
    """

    out: Path
    kind: str
    name: str
    fingerprint: str
    started: float
    finished: float | None
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Sequence[Point]] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    panels: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse names that would leave the folders of whoever keeps the files."""
        for what, names in (("files", self.files), ("panels", self.panels)):
            for name in names:
                trouble = why_unsafe_path(name)
                if trouble is not None:
                    raise PluginError(
                        f"report {self.kind} {self.name!r} names {name!a:.80} among its {what}, "
                        f"which {trouble}.",
                        hint="Fix the plugin: a name is a relative path such as 'figures/a.png'.",
                    )


def tell(report: Report) -> dict[str, Any]:
    """Tell all observers; trouble is logged and never raised.

    Returns:
        What observers answer, such as ``{"mlflow": {...}}``; ``{"failed": message}`` besides where
        a tracking service could not be told.
    """
    from editkit.benchmark.observers import Observers
    from editkit.plugins import default_registry

    observers = Observers(default_registry())
    answer = observers.reported(report)
    for error in observers.tracking_errors:
        _log.error("%s\n  see: docs/errors/%s.md", error, TrackingError.page)
        answer[FAILED] = error.message
    return answer
