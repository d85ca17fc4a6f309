"""The data of a benchmark run, as the store keeps it and observers receive it.

A run has cells (an editor, its configuration and a seed), and a cell has one row per record. Read
rows with :func:`editkit.benchmark.store.rows_of`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from editkit.data_types import Failure, Score
from editkit.regimes import Regime
from editkit.reprs import counted, html_table, listed, notebook_html, summary
from editkit.storage.digests import digest

__all__ = ["OF_JUDGE", "STORE_FILE", "Answer", "Cell", "ModelRow", "Rating", "Row", "Run"]

STORE_FILE = "results.sqlite"
OF_JUDGE = "judge/"
"""Start of the keys of texts that a judge was sent and replied."""
Answer = Literal["left", "same", "right"]


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of one editor on one record.

    Attributes:
        case_id: The record.
        status: ``failed`` rows have an ``error`` and no scores.
        scores: One number per score key (``efficacy/score``), as fractions.
        details: One number per prompt, by a key that the metric chooses.
        times: Seconds per step: ``edit_s``, ``score_s``, ``prepare_s``.
        notes: The notes of the editor's delta.
        error: Why the record failed.
        completed_at: Seconds since the epoch.
        peak_rss_mb: Peak memory of the process so far, in MiB.
        texts: Texts that the edited model wrote, by a key that the metric chooses: ``generation``.
            Under ``judge/KIND_sent`` and ``judge/KIND_received``: what a judge was sent about them,
            and what it replied.
        environment: Digest of the environment it was computed in (``Store.environments``); empty
            if none was recorded.
        group: Number of the model that the record shares with others, from 0; 0 in the regime
            ``independent``.
        place: Place at which the fact was written in its group, from 1; 0 where each fact has a
            model of its own.
        checkpoint: Facts in the model when the record was scored; 0 outside sequences. The fact
            was written ``checkpoint - place`` facts before.
    """

    case_id: int
    status: Literal["done", "failed"]
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    details: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    completed_at: float = 0.0
    peak_rss_mb: float = 0.0
    texts: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    environment: str = ""
    group: int = 0
    place: int = 0
    checkpoint: int = 0

    @property
    def written(self) -> dict[str, list[str]]:
        """What the edited model wrote: ``texts`` without what a judge was sent and replied."""
        return {key: texts for key, texts in self.texts.items() if not key.startswith(OF_JUDGE)}

    @property
    def judged(self) -> dict[str, list[tuple[str, str]]]:
        """What a judge was sent and what it replied, by kind of prompt: ``rewrite``."""
        return {
            key.removeprefix(OF_JUDGE).removesuffix("_sent"): list(
                zip(sent, self.texts.get(f"{key.removesuffix('_sent')}_received", ()), strict=False)
            )
            for key, sent in self.texts.items()
            if key.startswith(OF_JUDGE) and key.endswith("_sent")
        }

    @summary
    def __repr__(self) -> str:
        at = f" at {counted(self.checkpoint, 'fact')}" if self.checkpoint else ""
        content = f"failed: {self.error}" if self.status == "failed" else _scores(self.scores)
        return f"Row of record {self.case_id}{at}: {content}"


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """The scores of an edited model as a whole.

    Attributes:
        group: Number of the model, from 0.
        checkpoint: Facts in the model when it was scored; 0 for a joint edit.
        scores: One number per score key of the model metrics (``perplexity/value``).
        details: Lists of numbers, by a key that the metric chooses.
        texts: Texts that the edited model wrote, by a key that the metric chooses.
        times: Seconds per step: ``score_s``.
        errors: Why a metric failed, by its name; it has no scores then.
        completed_at: Seconds since the epoch.
        environment: As in :class:`Row`.
        delta: Digest of everything that was written into the model, as ``WeightDelta.digest``.
    """

    group: int
    checkpoint: int
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    details: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    completed_at: float = 0.0
    environment: str = ""
    delta: str = ""

    @summary
    def __repr__(self) -> str:
        at = f" at {counted(self.checkpoint, 'fact')}" if self.checkpoint else ""
        errors = "".join(f", {name} failed" for name in self.errors)
        return f"ModelRow of model {self.group}{at}: {_scores(self.scores)}{errors}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One line of the table: an editor with its configuration and a seed.

    Attributes:
        editor: Name of the editor.
        preset: Its preset, if any.
        config: Its complete configuration as plain data.
        sources: Where each value of ``config`` comes from.
        distribution: The Python distribution that provides the editor.
        version: Version of that distribution.
        seed: The run's seed.
        fingerprint: Digest of everything that the results depend on.
        params: Flat parameters for tracking: ``editor``, ``model``, ``editor.<field>``, ...
        edits: How facts reach models, as :meth:`Regime.to_dict`; read it with :attr:`regime`.
    """

    editor: str
    preset: str | None
    config: Mapping[str, Any]
    sources: Mapping[str, str]
    distribution: str
    version: str
    seed: int
    fingerprint: str
    params: Mapping[str, str | int | float | bool | None]
    edits: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def regime(self) -> Regime:
        """How facts reach models."""
        return Regime.from_dict(self.edits)

    @summary
    def __repr__(self) -> str:
        preset = f", preset {self.preset}" if self.preset else ""
        return f"Cell {self.editor}{preset}, seed {self.seed}, {self.regime.label}"


@dataclasses.dataclass(frozen=True)
class Run:
    """One benchmark on one model and slice of a dataset.

    Attributes:
        out: Output folder.
        benchmark: Name of the benchmark.
        model: The model's description: ``name``, ``fingerprint``, ``dtype``, ...
        dataset: ``name``, ``digest`` and ``n_records`` of the slice, ``config``, ``rejected``;
            ``n_edits`` if records have several edits.
        metrics: Metrics with ``name``, ``protocol``, ``config``, ``distribution``, ``version``.
        scores: All scores that the metrics declare, in order.
        seeds: The run's seeds.
        cells: The lines of the table.
        batch: Records that are edited and scored together.
        shard: (I, N): this process runs part I of N, from 1.
        tracking: Whether to send results to tracking services.
        model_metrics: Metrics of whole models, described as ``metrics``.
        model_scores: All scores that they declare, in order.
    """

    out: Path
    benchmark: str
    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    scores: tuple[Score, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    batch: int
    shard: tuple[int, int] = (1, 1)
    tracking: bool = True
    model_metrics: tuple[Mapping[str, Any], ...] = ()
    model_scores: tuple[Score, ...] = ()

    @property
    def store(self) -> Path:
        """Path of the result store."""
        return self.out / STORE_FILE

    @summary
    def __repr__(self) -> str:
        editors = listed(list(dict.fromkeys(cell.editor for cell in self.cells)), 5)
        n = counted(self.dataset["n_records"], "record")
        n += f" ({self.dataset['n_edits']} edits)" if "n_edits" in self.dataset else ""
        return (
            f"Run of {self.benchmark} on {self.model['name']}: {n} of {self.dataset['name']}, "
            f"{counted(len(self.cells), 'cell')}: {editors or 'none'}"
        )

    @notebook_html
    def _repr_html_(self) -> str:
        """A table of the cells for notebooks."""
        rows = [
            (cell.editor, cell.preset or "", cell.regime.label, cell.seed) for cell in self.cells
        ]
        return html_table(repr(self).strip("<>"), rows, ("editor", "preset", "regime", "seed"))

    def describe(self, cell: Cell) -> dict[str, Any]:
        """Everything about a cell except its rows, as plain data for the store."""
        return {
            "benchmark": self.benchmark,
            "model": dict(self.model),
            "dataset": dict(self.dataset),
            "metrics": [dict(metric) for metric in self.metrics],
            "scores": [dataclasses.asdict(score) for score in self.scores],
            "seeds": list(self.seeds),
            "batch": self.batch,
            "model_metrics": [dict(metric) for metric in self.model_metrics],
            "model_scores": [dataclasses.asdict(score) for score in self.model_scores],
            "cell": dataclasses.asdict(cell),
        }

    @classmethod
    def described(cls, out: Path, descriptions: Sequence[Mapping[str, Any]]) -> Run:
        """The run of some cells from what :meth:`describe` returned for each; the last one wins.

        Args:
            out: The output folder.
            descriptions: At least one.
        """
        latest = descriptions[-1]
        cells = tuple(Cell(**description["cell"]) for description in descriptions)
        return cls(
            out=out,
            benchmark=latest["benchmark"],
            model=latest["model"],
            dataset=latest["dataset"],
            metrics=tuple(latest["metrics"]),
            scores=tuple(map(_score, latest["scores"])),
            seeds=tuple(sorted({cell.seed for cell in cells})),
            cells=cells,
            batch=latest["batch"],
            model_metrics=tuple(latest.get("model_metrics", ())),
            model_scores=tuple(map(_score, latest.get("model_scores", ()))),
        )


def _score(described: Mapping[str, Any]) -> Score:
    failure, bounds = described.get("failure"), described.get("bounds")
    return Score(
        **{
            **described,
            "failure": Failure(**failure) if failure else None,
            "bounds": tuple(bounds) if bounds else None,
        }
    )


def _scores(scores: Mapping[str, float]) -> str:
    return listed([f"{key}={value:.3g}" for key, value in scores.items()], 5) or "no scores"


@dataclasses.dataclass(frozen=True)
class Rating:
    """A person's answers about the texts of two editors on one prompt.

    Attributes:
        case_id: The case.
        place: Index of the prompt within the case, from 0.
        cells: Fingerprints of the two cells, left and right as shown.
        rater: Name of the person.
        answers: The better side, by question.
        rated_at: Seconds since the epoch.
    """

    case_id: int
    place: int
    cells: tuple[str, str]
    rater: str
    answers: Mapping[str, Answer]
    rated_at: float

    @property
    def name(self) -> str:
        """Digest of the pair of texts and the rater: a later rating replaces an earlier one."""
        return digest([self.case_id, self.place, sorted(self.cells), self.rater])

    def better(self, question: str) -> str | None:
        """Fingerprint of the cell with the better text; None for a tie.

        Raises:
            KeyError: The question was not answered.
        """
        answer = self.answers[question]
        return None if answer == "same" else self.cells[answer == "right"]
