"""Averages over many facts for readers: pictures, a table, and a run of a tracking service."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.storage.cache import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from editkit_plugins.tracing.study import Study


@dataclasses.dataclass(frozen=True)
class Shown:
    """What was found, and what to call it.

    Attributes:
        study: The averages.
        locator: Name of the locator.
        model: Name of the model.
        facts: Where the facts are from.
        setting: What tells it from others of the same locator, model and facts.
    """

    study: Study
    locator: str
    model: str
    facts: str
    setting: str = ""

    @property
    def title(self) -> str:
        """In pictures."""
        return f"{self.locator} on {self.model}" + (f", {self.setting}" if self.setting else "")

    @property
    def note(self) -> str:
        """Below the title: how many facts, and the total effect."""
        found = self.study
        note = (
            f"{found.known} facts of {self.facts}, {found.unknown} not known to the model left out"
        )
        if found.failed:
            note += f", {len(found.failed)} not traced"
        if "total_effect" in found.baselines:
            note += f"; average total effect {found.baselines['total_effect'].mean:.3f}"
        return note

    def maps(self, only: str | None = None) -> Figure:
        """A heat map for each kind of site, or for one alone: roles of tokens by layers."""
        from editkit.tracing.plots import average_maps

        kinds = {kind: m for kind, m in self.study.kinds.items() if only in (None, kind)}
        roles = list(dict.fromkeys(role for means in kinds.values() for role in means))
        scores = {
            kind: [[mean.mean for mean in means[role]] for role in roles if role in means]
            for kind, means in kinds.items()
        }
        note = self.note if only is None else f"{self.study.known} facts of {self.facts}"
        return average_maps(scores, roles, self.title, note)

    def lines(self) -> Figure:
        """A panel for each kind of site, a line with its 95% area for each role of a token."""
        from editkit.tracing.plots import average_lines

        lines = {
            kind: {
                role: [(each.mean, each.low, each.high) for each in layers]
                for role, layers in means.items()
            }
            for kind, means in self.study.kinds.items()
        }
        return average_lines(lines, self.title, self.note)

    def table(self) -> DataFrame:
        """All averages: kind, role, layer, mean, ci_low, ci_high, n."""
        from pandas import DataFrame

        rows = [
            (kind, role, layer, each.mean, each.low, each.high, each.n)
            for kind, roles in self.study.kinds.items()
            for role, layers in roles.items()
            for layer, each in enumerate(layers)
        ]
        return DataFrame(rows, columns=["kind", "role", "layer", "mean", "ci_low", "ci_high", "n"])

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write the pictures and the table; the files."""
        pictures = {f"{name}-maps": self.maps(), f"{name}-lines": self.lines()}
        files = save_figures(pictures, folder)
        files.append(folder / f"{name}.csv")
        write_atomically(files[-1], self.table().to_csv(index=False).encode())
        return files

    def tell(self, out: Path, files: list[Path]) -> bool:
        """Show the averages to tracking services; whether they could be told.

        Args:
            out: The output folder.
            files: What :meth:`save` has written.
        """
        from editkit.benchmark.observers import publish
        from editkit.data_types import Report

        found = self.study
        folder, name = files[-1].parent, files[-1].stem
        panels = {kind: folder / f"{name}-{kind}.png" for kind in found.kinds}
        for kind, file in panels.items():
            content = io.BytesIO()
            self.maps(kind).savefig(content, format="png")
            write_atomically(file, content.getvalue())
        metrics = {f"baseline/{key}": mean.mean for key, mean in found.baselines.items()}
        for kind, roles in found.kinds.items():
            for role, layers in roles.items():
                metrics[f"{kind}/{role}"] = max(each.mean for each in layers)
            for place, each in found.largest[kind].items():
                metrics[f"{kind}/largest/{place}"] = each.effect.mean
        names = [self.locator, self.model, Path(self.facts).stem, self.setting]
        params = {"model": self.model, "locator": self.locator, "facts": self.facts}
        answer = publish(
            Report(
                out=out,
                kind="traces",
                name=" · ".join(filter(None, names)),
                fingerprint=found.fingerprint,
                started=found.finished,
                finished=found.finished,
                params={**params, "setting": self.setting} if self.setting else params,
                metrics={**metrics, "facts/unknown": float(found.unknown)},
                tags={"model": self.model, "locator": self.locator},
                files={f"figures/{file.name}": file for file in files},
                panels=panels,
            )
        )
        return "failed" not in answer


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG; the same numbers give the same bytes.

    Returns:
        The files.
    """
    from matplotlib import rc_context

    files = []
    for name, figure in figures.items():
        with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
            for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                content = io.BytesIO()
                figure.savefig(content, format=form, metadata=metadata)
                files.append(folder / f"{name}.{form}")
                write_atomically(files[-1], content.getvalue())
    return files
