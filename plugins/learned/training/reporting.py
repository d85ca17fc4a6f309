"""What a training tells tracking services: its settings, and a curve for each loss and score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from editkit.data_types import Point, Report
from editkit.storage.digests import key_of
from editkit_plugins.learned.training.loop import Training

CURVES = {
    "train_edit": "train/edit_nll",
    "train_locality": "train/locality_kl",
    "edit": "validation/edit_nll",
    "locality": "validation/locality_kl",
    "ES": "validation/efficacy",
    "PS": "validation/paraphrase",
    "NS": "validation/neighborhood",
    "S": "validation/summary",
}
"""Names that curves have in tracking services, by the column of the training's history."""


def report_of(training: Training, out: Path) -> Report:
    """A training as it stands after its last validation.

    Args:
        training: It has been validated at least once.
        out: Folder in which a tracking service may keep its files.
    """
    progress, facts = training.progress, training.facts
    history = progress.history
    first, last, best = history[0], history[-1], history[progress.best or 0]
    curves: dict[str, list[Point]] = {}
    for row in history:
        for column, name in CURVES.items():
            if column in row:
                point = Point(int(row["step"]), row[column], row["completed_at"])
                curves.setdefault(name, []).append(point)
    metrics = {f"best/{CURVES[n].partition('/')[2]}": best[n] for n in CURVES if n in best}
    settings: dict[str, Any] = training.settings.model_dump(mode="json")
    return Report(
        out=out,
        kind="training",
        name=f"{facts['editor']} · {facts['model']} · {facts['dataset']}",
        fingerprint=key_of(training.identity),
        started=first["completed_at"] - first["seconds"],
        finished=last["completed_at"] if training.finished else None,
        params={**facts, **settings},
        metrics={
            **metrics,
            "best/step": best["step"],
            "time/training_s": last["seconds"],
            "steps/skipped": float(progress.skipped),
        },
        curves=curves,
        tags={key: str(facts[key]) for key in ("editor", "model", "dataset")},
    )
