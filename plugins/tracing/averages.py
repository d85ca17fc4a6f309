"""Average effects over many facts (AIE, ATE), by layer and by the role of a token.

Section 2.2, figure 2 and appendix B.1 of Meng et al. (2022). There are two units of averages:

    by_fact    Each token has one role. A fact counts once per role, with the mean over its tokens.
    by_token   As in the notebook of the published code, each token counts, and it may have two
               roles: a subject's only token is both its first and its last one, and the token after
               the subject is the first subsequent token even if it is also the prompt's last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editkit import Localization
from editkit.benchmark.aggregate import Estimate, mean_with_interval
from editkit.storage.cache import write_atomically
from editkit_plugins.tracing.config import Averaging

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from editkit.tracing.plots import HeatMap

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
"""Roles of a prompt's tokens, from left to right (figure 2)."""

PLACES = ("any token", "last subject token", "last token")
"""Tokens over which a fact's largest effect is taken (appendix B.1 of the first version)."""


@dataclasses.dataclass(frozen=True)
class Largest:
    """The mean over facts of each fact's largest effect in any layer.

    Attributes:
        effect: Mean effect.
        probability: Mean probability of the answer with that effect, which the paper's first
            version calls the average maximum score; None for locators without a corrupted run.
    """

    effect: Estimate
    probability: Estimate | None


@dataclasses.dataclass(frozen=True)
class AverageTrace:
    """Effects of one locator, averaged over the facts that a model knows.

    Attributes:
        model: Name of the model.
        locator: Name of the locator.
        facts: Source of the facts: a file or a dataset.
        setting: What distinguishes it from averages with the same locator, model and facts.
        fingerprint: Digest of everything that the numbers depend on.
        effects: By kind of site and role of a token: the mean effect in each layer (AIE).
        largest: By kind of site and place: means of each fact's largest effect.
        baselines: Means of ``clean``, ``corrupted`` and ``total_effect`` (ATE).
        known: Number of facts averaged over.
        unknown: Number of facts left out because the model does not predict their answers.
        failed: Errors of facts that could not be traced, by case.
        finished: Time of the last fact, in seconds since the epoch.
        windows: By kind of site: how many layers are restored together.
    """

    model: str
    locator: str
    facts: str
    setting: str
    fingerprint: str
    effects: Mapping[str, Mapping[str, Sequence[Estimate]]]
    largest: Mapping[str, Mapping[str, Largest]]
    baselines: Mapping[str, Estimate]
    known: int
    unknown: int
    failed: Mapping[int, str]
    finished: float
    windows: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def has_corrupted_run(self) -> bool:
        """Whether effects are differences to a corrupted run; else they are a locator's scores."""
        return "corrupted" in self.baselines

    @property
    def unit(self) -> str:
        """What the averages are averages of."""
        return "average indirect effect" if self.has_corrupted_run else f"{self.locator} score"

    @property
    def title(self) -> str:
        """Title of plots."""
        return ", ".join(filter(None, [f"{self.locator} on {self.model}", self.setting]))

    @property
    def note(self) -> str:
        """Second line of plots: the number of facts, and the total effect."""
        note = f"{self.known} facts of {self.facts}; left out: {self.unknown} unknown to the model"
        if self.failed:
            note += f", {len(self.failed)} failed"
        if "total_effect" in self.baselines:
            note += f"; average total effect {self.baselines['total_effect'].mean:.3f}"
        return note

    @property
    def why_empty(self) -> str:
        """Why there is nothing to average."""
        total = self.unknown + len(self.failed)
        facts = f"{total} facts of {self.facts}" + (f" ({self.setting})" if self.setting else "")
        if not self.failed:
            return f"{self.model} predicts none of the {facts}."
        reason = next(iter(self.failed.values()))
        return (
            f"none of the {facts} could be traced on {self.model}: {self.unknown} are unknown to "
            f"it, {len(self.failed)} failed ({reason})."
        )

    def heat_maps(self, kind: str | None = None) -> Figure:
        """Heat maps, roles by layers, of one kind of site or of all."""
        from editkit.tracing.plots import heat_maps

        effects = {each: means for each, means in self.effects.items() if kind in (None, each)}
        roles = list(dict.fromkeys(role for means in effects.values() for role in means))
        maps = [self.heat_map(each, roles) for each in effects]
        note = self.note if kind is None else f"{self.known} facts of {self.facts}"
        return heat_maps(maps, roles, self.title, [note], unit=self.unit)

    def heat_map(self, kind: str, roles: Sequence[str]) -> HeatMap:
        """The panel of a kind of site, with rows for the given roles."""
        from editkit.tracing.plots import HeatMap

        means = self.effects[kind]
        values = [[mean.mean for mean in means[role]] for role in roles]
        return HeatMap(kind, values, *self.labels(kind))

    def labels(self, kind: str) -> tuple[str, str]:
        """Title of a panel for a kind of site, and label of its axis of layers."""
        from editkit.tracing.plots import restored

        if not self.has_corrupted_run:
            return kind, "layer"
        name, axis = restored(kind, self.windows.get(kind))
        return f"average effect of restoring {name}", axis

    def line_plots(self) -> Figure:
        """A panel per kind of site: a line with its interval per role."""
        from editkit.tracing.plots import line_plots

        lines = {
            kind: {
                role: [(each.mean, *each.interval) for each in layers]
                for role, layers in means.items()
            }
            for kind, means in self.effects.items()
        }
        labels = {kind: self.labels(kind) for kind in lines}
        return line_plots(lines, labels, self.title, [self.note], unit=self.unit)

    def to_frame(self) -> DataFrame:
        """All averages as a pandas table: kind, role, layer, mean, ci_low, ci_high, n."""
        from pandas import DataFrame

        rows = [
            (kind, role, layer, each.mean, each.ci_low, each.ci_high, each.n)
            for kind, roles in self.effects.items()
            for role, layers in roles.items()
            for layer, each in enumerate(layers)
        ]
        return DataFrame(rows, columns=["kind", "role", "layer", "mean", "ci_low", "ci_high", "n"])

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write the plots (PNG, SVG, PDF) and the table (CSV) to files that start with ``name``."""
        from editkit.figures import save_figures

        plots = {f"{name}-maps": self.heat_maps(), f"{name}-lines": self.line_plots()}
        table = folder / f"{name}.csv"
        files = [*save_figures(plots, folder), table]
        write_atomically(table, self.to_frame().to_csv(index=False).encode())
        return files

    def publish(self, out: Path, files: Sequence[Path]) -> bool:
        """Send the averages to tracking services; false if one of them fails.

        Args:
            out: The output folder.
            files: The files that :meth:`save` wrote.
        """
        from editkit.benchmark.observers import FAILED, publish
        from editkit.data_types import Report
        from editkit.figures import png_bytes

        table = files[-1]
        panels = {kind: table.with_name(f"{table.stem}-{kind}.png") for kind in self.effects}
        for kind, file in panels.items():
            write_atomically(file, png_bytes(self.heat_maps(kind)))
        metrics = {f"baseline/{key}": mean.mean for key, mean in self.baselines.items()}
        for kind, roles in self.effects.items():
            for role, layers in roles.items():
                metrics[f"{kind}/{role}"] = max(each.mean for each in layers)
            for place, each in self.largest[kind].items():
                metrics[f"{kind}/largest/{place}"] = each.effect.mean
        tags = {"model": self.model, "locator": self.locator}
        setting = {"setting": self.setting} if self.setting else {}
        names = [self.locator, self.model, Path(self.facts).stem, self.setting]
        report = Report(
            out=out,
            kind="traces",
            name=" · ".join(filter(None, dict.fromkeys(names))),
            fingerprint=self.fingerprint,
            started=self.finished,
            finished=self.finished,
            params={**tags, "facts": self.facts, **setting},
            metrics={**metrics, "facts/unknown": float(self.unknown)},
            tags=tags,
            files={f"figures/{file.name}": file for file in files},
            panels=panels,
            note=f"**{self.title}**: {self.note}.\n\nThe numbers are each kind of site's largest "
            f"{self.unit} over the layers, by role of the token.",
        )
        return FAILED not in publish(report)


# ---------------------------------------------------------------- one fact


def tokens_by_role(
    n_tokens: int, subject: tuple[int, int], averaging: Averaging = "by_fact"
) -> dict[str, list[int]]:
    """The tokens of each role.

    Args:
        n_tokens: Number of the prompt's tokens.
        subject: Half-open span of the subject's tokens.
        averaging: The unit of averages.
    """
    first, end = subject
    last = n_tokens - 1
    by_token = averaging == "by_token"
    tokens = (
        [first] if by_token or end - first > 1 else [],
        list(range(first + 1, end - 1)),
        [end - 1],
        [end] if end < last or (by_token and end == last) else [],
        list(range(end + 1, last)),
        [last] if by_token or last >= end else [],
    )
    return dict(zip(ROLES, tokens, strict=True))


def effects_by_role(
    localization: Localization, averaging: Averaging = "by_fact"
) -> dict[str, list[list[float]]]:
    """A fact's effects by role: (tokens, L) ``by_token``, their mean (1, L) ``by_fact``.

    Tokens that were not traced, for lack of a counterpart in another subject, are left out.

    Raises:
        ValueError: The localization has no subject span.
    """
    effects: dict[str, list[list[float]]] = {}
    subject = _subject_of(localization)
    for role, tokens in tokens_by_role(len(localization.tokens), subject, averaging).items():
        tokens = [token for token in tokens if localization.traced[token]]
        if not tokens:
            continue
        rows = [list(localization.scores[token]) for token in tokens]
        if averaging == "by_fact":
            rows = [[sum(column) / len(rows) for column in zip(*rows, strict=True)]]
        effects[role] = rows
    return effects


def largest_effects(localization: Localization) -> dict[str, float]:
    """A fact's largest effect over all layers, at each of :data:`PLACES`.

    Raises:
        ValueError: The localization has no subject span.
    """
    _, end = _subject_of(localization)
    by_token = [max(row) for row in localization.scores]
    values = (max(by_token), by_token[end - 1], by_token[-1])
    return dict(zip(PLACES, values, strict=True))


def _subject_of(localization: Localization) -> tuple[int, int]:
    if localization.subject is None:
        raise ValueError("the localization has no subject span")
    return localization.subject


# ---------------------------------------------------------------- many facts


def mean_of_effects(values: Sequence[float], *, signed: bool = True) -> Estimate:
    """Mean and 95% interval of effects.

    The mean is that of ``editkit.benchmark.aggregate.mean_with_interval`` up to rounding: sums run
    from left to right, as in all results so far.

    Args:
        values: Differences of probabilities.
        signed: False for probabilities.
    """
    estimate = mean_with_interval(values, (-1.0 if signed else 0.0, 1.0))
    return dataclasses.replace(estimate, mean=sum(values) / len(values))


def average_by_role(
    facts: Sequence[Mapping[str, Sequence[Sequence[float]]]],
) -> dict[str, list[Estimate]]:
    """Mean effects by role and layer, over the facts that have tokens of that role.

    Args:
        facts: The results of :func:`effects_by_role`.
    """
    means: dict[str, list[Estimate]] = {}
    for role in ROLES:
        rows = [row for fact in facts for row in fact.get(role, ())]
        if rows:
            means[role] = [mean_of_effects(column) for column in zip(*rows, strict=True)]
    return means


def average_largest(
    facts: Sequence[Mapping[str, float]], corrupted: Sequence[float | None]
) -> dict[str, Largest]:
    """Means of the largest effects by place.

    Args:
        facts: The results of :func:`largest_effects`.
        corrupted: P* of each fact; None for locators without a corrupted run.
    """
    means = {}
    for place in PLACES:
        effects = [fact[place] for fact in facts]
        restored = [
            effect + low for effect, low in zip(effects, corrupted, strict=True) if low is not None
        ]
        probability = (
            mean_of_effects(restored, signed=False) if len(restored) == len(effects) else None
        )
        means[place] = Largest(mean_of_effects(effects), probability)
    return means
