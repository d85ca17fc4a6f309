"""Whether a second moment has enough tokens: how much whitened keys still turn as it grows.

Editors use only the directions u = C⁻¹ k / |C⁻¹ k|. A sample is large enough when more tokens no
longer turn them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editkit.covariance.second_moment import SecondMoment, Whitening
from editkit.errors import ConfigError
from editkit.storage.cache import write_atomically
from editkit.storage.digests import digest_of_tensors

__all__ = ["Convergence", "ConvergenceReport", "Health", "draw", "health_of"]

ENOUGH = 0.99
"""Mean cosine above which a sample counts as large enough."""
_FIRST_SAMPLE = 4096
_LARGEST_FOR_EIGENVALUES = 8192
_SILENT = 1e-12


class Convergence:
    """Observes a growing second moment and records directions each time its tokens double.

    Args:
        keys: Keys whose directions are recorded, (n, D).
        ridge: Added to the diagonal, in units of its mean.
        first: Tokens of the first sample.
    """

    def __init__(self, keys: Tensor, ridge: float, *, first: int = _FIRST_SAMPLE) -> None:
        self.keys = keys.float().cpu()
        self.ridge = ridge
        self._next = first
        self.directions: dict[int, Tensor] = {}

    @property
    def identity(self) -> str:
        """Digest of the keys and the ridge."""
        return digest_of_tensors({"keys": self.keys}, f"ridge {self.ridge!r}")

    def is_due(self, count: int) -> bool:
        """Whether the number of tokens has doubled."""
        return count >= self._next

    def look(self, matrix: Tensor, count: int) -> None:
        """Record the directions."""
        while self.is_due(count):
            self._next *= 2
        directions = self._directions(SecondMoment(matrix, count))
        if directions is not None:
            self.directions[count] = directions

    def state(self) -> dict[str, Tensor]:
        """The recorded directions, and the number of tokens of the next ones."""
        recorded = {str(count): directions for count, directions in self.directions.items()}
        return {"next": torch.tensor(self._next), **recorded}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a result of :meth:`state`."""
        self._next = int(state["next"])
        self.directions = {int(name): t for name, t in state.items() if name != "next"}

    def report(self, statistic: SecondMoment) -> ConvergenceReport | None:
        """The directions' way to the final ones; None if the final C is singular."""
        final = self._directions(statistic)
        if final is None:
            return None
        samples = []
        for count, directions in sorted(self.directions.items()):
            if count < statistic.count:
                cosines = (directions * final).sum(dim=1)  # (n,)
                samples.append(Sample(count, float(cosines.mean()), float(cosines.min())))
        return ConvergenceReport(statistic.count, len(self.keys), self.ridge, tuple(samples))

    def _directions(self, statistic: SecondMoment) -> Tensor | None:
        try:
            solved = Whitening.of(statistic, self.ridge).solve(self.keys)  # (n, D)
        except ConfigError:  # singular: too few tokens yet
            return None
        directions: Tensor = solved / solved.norm(dim=1, keepdim=True)
        return directions


@dataclasses.dataclass(frozen=True)
class Sample:
    """The cosines between the directions after some tokens and the final ones."""

    tokens: int
    mean: float
    least: float


@dataclasses.dataclass(frozen=True)
class ConvergenceReport:
    """How the directions of keys turned while the sample grew.

    Attributes:
        tokens: All tokens.
        keys: Number of keys.
        ridge: The ridge.
        samples: Smaller samples, ascending.
    """

    tokens: int
    keys: int
    ridge: float
    samples: tuple[Sample, ...]

    @property
    def enough(self) -> bool:
        """Whether the last doubling hardly turned the directions."""
        return bool(self.samples) and self.samples[-1].mean >= ENOUGH

    def verdict(self) -> str:
        """The conclusion in a sentence."""
        if not self.samples:
            return "there are too few tokens to know whether u has settled: use more."
        last = self.samples[-1]
        moved = 100 * (1 - last.mean)
        if not self.enough:
            return (
                f"u still moves: its cosine between {last.tokens:,} and {self.tokens:,} tokens "
                f"is {last.mean:.4f} on average. Use more tokens, or a larger ridge."
            )
        first = next(sample for sample in self.samples if sample.mean >= ENOUGH)
        return (
            f"u has settled: from {first.tokens:,} tokens on, its mean cosine with the final u is "
            f"above {ENOUGH:g}; the last doubling changed it by {moved:.2g}%."
        )


@dataclasses.dataclass(frozen=True)
class Health:
    """The numerical condition of a second moment.

    Attributes:
        neurons: D.
        silent: Number of neurons that never fired.
        condition: Largest over smallest eigenvalue with the ridge; infinite if C is singular, None
            if the matrix is too large for the computation.
        invertible: Whether C can be inverted with the ridge.
    """

    neurons: int
    silent: int
    condition: float | None
    invertible: bool


def health_of(statistic: SecondMoment, ridge: float) -> Health:
    """Silent neurons, and whether C can be inverted with a ridge."""
    diagonal = statistic.matrix.diagonal().double()
    silent = int((diagonal <= _SILENT * diagonal.mean()).sum())
    try:
        Whitening.of(statistic, ridge)
        invertible = True
    except ConfigError:
        invertible = False
    condition: float | None = None
    if not invertible:
        condition = float("inf")
    elif len(diagonal) <= _LARGEST_FOR_EIGENVALUES:
        matrix = statistic.matrix.to(torch.float64, copy=True)
        matrix.diagonal().add_(ridge * diagonal.mean())
        values = torch.linalg.eigvalsh(matrix)
        condition = float(values[-1] / values[0]) if float(values[0]) > 0 else float("inf")
    return Health(len(diagonal), silent, condition, invertible)


def draw(report: ConvergenceReport, title: str, path: Path) -> None:
    """Write the report as a figure (PNG)."""
    from editkit.figures import NotebookFigure, png_bytes

    figure = NotebookFigure(width=6.4, height=4.2)
    axes = figure.add_subplot()
    sizes = [*(sample.tokens for sample in report.samples), report.tokens]
    for label, style, values in (
        ("mean of the keys", "o-", [*(s.mean for s in report.samples), 1.0]),
        ("least of the keys", "v--", [*(s.least for s in report.samples), 1.0]),
    ):
        axes.plot(sizes, values, style, label=label, markersize=5)
    axes.axhline(ENOUGH, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{ENOUGH:g}", (0.01, ENOUGH), xycoords=("axes fraction", "data"), va="bottom", color="grey"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [_short(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("tokens in the sample")
    axes.set_ylabel(f"cosine of u with that of {_short(report.tokens)} tokens")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    write_atomically(path, png_bytes(figure))


def document(
    report: ConvergenceReport | None, health: Health, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Report, health and facts as plain data for JSON; numbers that are not finite become None."""
    condition = health.condition
    finite = condition is not None and condition != float("inf")
    return {
        "schema": 1,
        **facts,
        "neurons": health.neurons,
        "silent_neurons": health.silent,
        "invertible": health.invertible,
        "condition": condition if finite else None,
        "convergence": None
        if report is None
        else {
            **dataclasses.asdict(report),
            "enough": report.enough,
            "verdict": report.verdict(),
        },
    }


def write_document(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON document atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def table(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """The samples as rows of a table, with a head."""
    head = ("tokens", "mean cosine", "least cosine")
    return [head, *((f"{s.tokens:,}", f"{s.mean:.4f}", f"{s.least:.4f}") for s in samples)]


def _short(number: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
