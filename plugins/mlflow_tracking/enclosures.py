"""What all runs of an output folder share: its figures, and the report that compares them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editkit import TrackingError
from editkit.benchmark.published import published_for
from editkit.benchmark.store import runs_in
from editkit.registry.plugins import default_registry
from editkit.report.html_page import report
from editkit.report.sections import sections_of
from editkit.storage.digests import canonical_json, sha256_of

if TYPE_CHECKING:
    from editkit.results import Run

REPORT = "report.html"
_FIGURES = "figures"  # in the output folder, and in MLflow's list of artifacts
_SHOWN = (".png", ".svg")
_MOST_BYTES = 20_000_000  # of all figures: every run has a copy


def figures_of(out: Path) -> dict[str, Path]:
    """The figures in an output folder that MLflow can show, by their path in MLflow.

    Figures beyond 20 MB in all are omitted, the last ones in alphabetical order.
    """
    figures, size = {}, 0
    for file in sorted((out / _FIGURES).glob("*")):
        if file.suffix in _SHOWN and file.is_file():
            size += file.stat().st_size
            if size <= _MOST_BYTES:
                figures[f"{_FIGURES}/{file.name}"] = file
    return figures


def digest_of(contents: Iterable[str], figures: Sequence[Path]) -> str:
    """Digest of everything that enclosures depend on; it takes less time than the report.

    Args:
        contents: Digests of the contents of all runs.
        figures: The files.
    """
    return sha256_of(
        canonical_json([sorted(contents), [sha256_of(file.read_bytes()) for file in figures]])
    )


def report_page(run: Run) -> bytes:
    """The report of a run's output folder, as ``editkit report --format html`` writes it."""
    registry, runs = default_registry(), runs_in(run.out)
    sections = sections_of(runs, [published_for(each, registry) for each in runs], None)
    return report(sections, against=None).encode()


def read_figures(figures: dict[str, Path]) -> dict[str, bytes]:
    """The content of figures, by their path in MLflow.

    Raises:
        TrackingError: A file cannot be read.
    """
    try:
        return {name: file.read_bytes() for name, file in figures.items()}
    except OSError as error:
        raise TrackingError(
            f"a figure cannot be read: {error}.",
            hint="Run the command again, or `editkit export-mlflow`.",
        ) from error
