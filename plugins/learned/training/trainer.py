"""The training loop: draw edits, step, validate, keep the best network.

An interrupted training resumes to the same weights as one that ran through.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editkit import LanguageModel
from editkit.data_types import Point, Report
from editkit.progress import counting
from editkit.storage.checkpoints import (
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from editkit.storage.digests import key_of
from editkit_plugins.learned.networks import EditNetwork
from editkit_plugins.learned.settings import MendSettings
from editkit_plugins.learned.trained import Settings, new_network, save_trained
from editkit_plugins.learned.training.cached_blocks import CachedLowerBlocks
from editkit_plugins.learned.training.data import Source
from editkit_plugins.learned.training.objective import is_better, losses, validate

CHECKPOINT_FILE = "checkpoint.safetensors"
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_CURVES = {
    "train_edit": "train/edit_nll",
    "train_locality": "train/locality_kl",
    "edit": "validation/edit_nll",
    "locality": "validation/locality_kl",
    "ES": "validation/efficacy",
    "PS": "validation/paraphrase",
    "NS": "validation/neighborhood",
    "S": "validation/summary",
}
"""Column of the history -> name of its curve in tracking services."""


@dataclasses.dataclass
class Progress:
    """How far a training got, as plain data.

    Attributes:
        step: Completed steps.
        skipped: Steps with a loss or gradient that was not finite. They changed nothing.
        losses: Sums of the losses since the last validation, and the number of steps.
        history: One row per validation: step, losses, scores, seconds of training so far.
        best: Index of the best validation in the history.
        seconds: Time spent training.
    """

    step: int = 0
    skipped: int = 0
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: int | None = None
    seconds: float = 0.0


@dataclasses.dataclass
class Training:
    """The training of one editor.

    Attributes:
        model: The model whose edits are learned. It never changes.
        source: Supply of training and validation edits.
        settings: The settings of the training.
        facts: Metadata for the trained editor's file: what is known of its model and data.
            A checkpoint with different facts is refused.
        folder: Folder for the checkpoint and the result.
    """

    model: LanguageModel
    source: Source
    settings: Settings
    facts: Mapping[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        self.network = new_network(self.model, self.settings)
        self.optimizer = _optimizer(self.network, self.settings)
        self.progress = Progress()
        self._blocks = CachedLowerBlocks(self.model, self.model.n_layers - self.settings.blocks)
        self._best: Mapping[str, Tensor] = {}
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that must stay the same to resume from a checkpoint."""
        return {"settings": self.settings.model_dump(mode="json"), **self.facts}

    def resume(self) -> bool:
        """Load the folder's checkpoint, if there is one.

        Returns:
            Whether there is a checkpoint.

        Raises:
            ConfigError: It is damaged, or belongs to another training.
        """
        checkpoint = read_checkpoint(
            self.folder / CHECKPOINT_FILE,
            self.identity,
            progress=Progress,
            groups=("network", "best", "optimiser"),
        )
        if checkpoint is None:
            return False
        self.progress = checkpoint.progress
        self._best = checkpoint.tensors["best"]
        self.network.load_state_dict(checkpoint.tensors["network"])
        load_optimizer_tensors(self.optimizer, checkpoint.tensors["optimiser"])
        return True

    def run(self, after_step: Callable[[Progress], None] | None = None) -> Progress:
        """Train to the end and save the best network in the folder.

        Args:
            after_step: Called after every step.

        Raises:
            CacheError: The checkpoint or the result cannot be written.
        """
        written = time.monotonic()
        title = f"training {self.settings.kind}"
        with counting(title, self.settings.steps, done=self.progress.step) as advance:
            try:
                while not self.finished:
                    start = time.perf_counter()
                    self._step()
                    at_mark = self.progress.step % self.settings.validate_every == 0
                    if validated := self._at_end or at_mark:
                        self._validate()
                    self.progress.seconds += time.perf_counter() - start
                    if validated or time.monotonic() - written > _SECONDS_BETWEEN_CHECKPOINTS:
                        self._write_checkpoint()
                        written = time.monotonic()
                    advance()
                    if after_step:
                        after_step(self.progress)
            except KeyboardInterrupt:
                self._write_checkpoint()
                raise
        self._write_checkpoint()
        self.save(self.folder)
        return self.progress

    def save(self, folder: Path) -> None:
        """Write the best network so far as a trained editor."""
        best = self.progress.history[self.progress.best or 0]
        metadata = {**self.facts, "validation": best, "skipped_steps": self.progress.skipped}
        weights = dict(self.network.named_parameters())
        dtype = getattr(torch, self.settings.saved_dtype)
        tensors = {n: t.to(dtype) if n in weights else t for n, t in self._best.items()}
        save_trained(folder, tensors, self.settings, metadata)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or ``patience`` validations brought no improvement."""
        progress = self.progress
        since_best = len(progress.history) - 1 - (progress.best or 0)
        return self._at_end or (bool(progress.history) and since_best >= self.settings.patience)

    @property
    def _at_end(self) -> bool:
        return self.progress.step >= self.settings.steps

    def _step(self) -> None:
        progress, settings = self.progress, self.settings
        # Draws depend on seed and step alone, so a checkpoint needs no random state.
        edits = self.source.draw(
            random.Random(f"{settings.seed}:{progress.step}"),
            n=settings.edits_per_step,
            locality=settings.locality,
            related=settings.related,
        )
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * _rate_factor(progress.step, settings)
        statistics = {name: value.clone() for name, value in self.network.named_buffers()}
        step_losses = losses(self._blocks, self.network, edits, update_statistics=True)
        loss = step_losses.total(settings.edit_weight)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        progress.step += 1
        if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(loss)):
            progress.skipped += 1
            self.network.load_state_dict(statistics, strict=False)
            return
        self.optimizer.step()
        for name, value in (
            ("edit", step_losses.edit.item()),
            ("locality", step_losses.locality.item()),
            ("steps", 1.0),
        ):
            progress.losses[name] = progress.losses.get(name, 0.0) + value

    def _validate(self) -> None:
        progress = self.progress
        self.network.eval()
        scores = validate(self._blocks, self.network, self.source)
        self.network.train()
        steps = progress.losses.pop("steps", 1.0)
        means = {f"train_{name}": total / steps for name, total in progress.losses.items()}
        progress.losses = {}
        times = {"seconds": progress.seconds, "completed_at": time.time()}
        row = {"step": float(progress.step), **means, **scores, **times}
        progress.history.append(row)
        best = None if progress.best is None else progress.history[progress.best]
        if is_better(row, best, self.settings.edit_weight):
            progress.best = len(progress.history) - 1
            self._best = {name: t.detach().clone() for name, t in self.network.state_dict().items()}

    def _write_checkpoint(self) -> None:
        write_checkpoint(
            self.folder / CHECKPOINT_FILE,
            self.identity,
            self.progress,
            {
                "network": self.network.state_dict(),
                "best": self._best,
                "optimiser": optimizer_tensors(self.optimizer),
            },
        )

    def report(self, out: Path) -> Report:
        """The training for tracking services: settings, and a curve per loss and score.

        Args:
            out: Folder where a tracking service may keep its files.
        """
        progress, facts = self.progress, self.facts
        history = progress.history  # at least one validation is done
        first, last, best = history[0], history[-1], history[progress.best or 0]
        curves: dict[str, list[Point]] = {}
        for row in history:
            for column, name in _CURVES.items():
                if column in row:
                    point = Point(int(row["step"]), row[column], row["completed_at"])
                    curves.setdefault(name, []).append(point)
        metrics = {f"best/{_CURVES[n].partition('/')[2]}": best[n] for n in _CURVES if n in best}
        return Report(
            out=out,
            kind="training",
            name=f"{facts['editor']} · {facts['model']} · {facts['dataset']}",
            fingerprint=key_of(self.identity),
            started=first["completed_at"] - first["seconds"],
            finished=last["completed_at"] if self.finished else None,
            params={**facts, **self.settings.model_dump(mode="json")},
            metrics={
                **metrics,
                "best/step": best["step"],
                "time/training_s": last["seconds"],
                "steps/skipped": float(progress.skipped),
            },
            curves=curves,
            tags={key: str(facts[key]) for key in ("editor", "model", "dataset")},
            note=f"**{facts['editor']}** for {facts['model']}, trained on {facts['dataset']}; best "
            f"validation at step {best['step']:.0f}.\n\n`train/...` are losses of training "
            "batches; `validation/...` are losses and scores (fractions) on other records.",
        )


def _optimizer(network: EditNetwork, settings: Settings) -> torch.optim.Adam:
    rates = [p for name, p in network.named_parameters() if name == "rates"]
    others = [p for name, p in network.named_parameters() if name != "rates"]
    groups: list[dict[str, Any]] = [{"params": others, "lr": settings.lr}]
    if isinstance(settings, MendSettings):
        groups.append({"params": rates, "lr": settings.rate_lr})
    return torch.optim.Adam(groups)


def _rate_factor(step: int, settings: Settings) -> float:
    """Factor on the learning rates: linear warm-up, then cosine decay if ``decay`` is set."""
    warmup = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if not settings.decay:
        return warmup
    return warmup * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
