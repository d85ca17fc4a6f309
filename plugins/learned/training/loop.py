"""The loop: draw, step, validate, keep the best; it goes on to the same weights after any end."""

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
from editkit_plugins.learned.below import Remembered
from editkit_plugins.learned.networks import EditNetwork
from editkit_plugins.learned.settings import MendSettings
from editkit_plugins.learned.trained import Settings, save_trained, seeded_network
from editkit_plugins.learned.training.checkpoint import (
    Checkpoint,
    Progress,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
)
from editkit_plugins.learned.training.sources import Source
from editkit_plugins.learned.training.step import losses
from editkit_plugins.learned.training.validation import better, validate

Report = Callable[[Progress], None]
"""Called after every step with what happened so far."""

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclasses.dataclass
class Training:
    """One training of one editor.

    Attributes:
        model: The model whose edits are learnt; left as it is.
        source: Training and validation edits.
        settings: How.
        facts: What the trained editor's file shall say of its model and data; a checkpoint of
            other facts is not gone on from.
        folder: Where checkpoint and result are written.
    """

    model: LanguageModel
    source: Source
    settings: Settings
    facts: Mapping[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        self.network = seeded_network(self.model, self.settings)
        self.optimiser = _optimiser(self.network, self.settings)
        self.progress = Progress()
        self._below = Remembered(self.model, self.model.n_layers - self.settings.blocks)
        self._best: dict[str, Tensor] = {}
        self._rates = [group["lr"] for group in self.optimiser.param_groups]

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for a checkpoint to be gone on from."""
        return {"settings": self.settings.model_dump(mode="json"), **self.facts}

    def resume(self) -> bool:
        """Go back to where the folder's checkpoint stands; whether there is one.

        Raises:
            ConfigError: It is damaged, or of another training.
        """
        found = read_checkpoint(self.folder, self.identity)
        if found is None:
            return False
        self.progress = found.progress
        self._best = dict(found.best)
        self.network.load_state_dict(found.network)
        restore_optimiser(self.optimiser, found.optimiser)
        return True

    def run(self, report: Report | None = None) -> Progress:
        """Train to the end, and write the best editor into the folder."""
        written = time.monotonic()
        try:
            while not self.finished:
                start = time.perf_counter()
                self._step()
                if self.progress.step % self.settings.validate_every == 0 or self._at_end:
                    self._validate()
                self.progress.seconds += time.perf_counter() - start
                if time.monotonic() - written > _SECONDS_BETWEEN_CHECKPOINTS or self._validated:
                    self._write()
                    written = time.monotonic()
                if report:
                    report(self.progress)
        except KeyboardInterrupt:
            self._write()
            raise
        self._write()
        self.save(self.folder)
        return self.progress

    def save(self, folder: Path) -> None:
        """Write the best editor so far into a folder."""
        best = self.progress.history[self.progress.best or 0]
        facts = {**self.facts, "validation": best, "skipped_steps": self.progress.skipped}
        weights = dict(self.network.named_parameters())
        dtype = getattr(torch, self.settings.saved_dtype)
        tensors = {n: t.to(dtype) if n in weights else t for n, t in self._best.items()}
        save_trained(folder, tensors, self.settings, facts)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the last validations brought nothing better."""
        progress = self.progress
        waited = len(progress.history) - 1 - (progress.best or 0)
        return self._at_end or (bool(progress.history) and waited >= self.settings.patience)

    @property
    def _at_end(self) -> bool:
        return self.progress.step >= self.settings.steps

    @property
    def _validated(self) -> bool:
        history = self.progress.history
        return bool(history) and history[-1]["step"] == self.progress.step

    def _step(self) -> None:
        progress, settings = self.progress, self.settings
        # Chance depends on the seed and the step alone, so that nothing of it need be kept.
        generator = random.Random(f"{settings.seed}:{progress.step}")
        drawn = self.source.draw(
            generator,
            n=settings.edits_per_step,
            locality=settings.locality,
            related=settings.related,
        )
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * _schedule(progress.step, settings)
        before = {name: value.clone() for name, value in self.network.named_buffers()}
        found = losses(self._below, self.network, drawn, observe=True)
        loss = settings.edit_weight * found.edit + found.locality
        self.optimiser.zero_grad()
        loss.backward()
        length = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        progress.step += 1
        if not bool(torch.isfinite(length)) or not bool(torch.isfinite(loss)):
            progress.skipped += 1
            self.network.load_state_dict(before, strict=False)
            return
        self.optimiser.step()
        for name, value in (
            ("edit", found.edit.item()),
            ("locality", found.locality.item()),
            ("steps", 1.0),
        ):
            progress.losses[name] = progress.losses.get(name, 0.0) + value

    def _validate(self) -> None:
        progress = self.progress
        self.network.eval()
        scores = validate(self._below, self.network, self.source)
        self.network.train()
        steps = progress.losses.pop("steps", 1.0)
        means = {f"train_{name}": total / steps for name, total in progress.losses.items()}
        progress.losses = {}
        moment = {"seconds": progress.seconds, "completed_at": time.time()}
        row = {"step": float(progress.step), **means, **scores, **moment}
        progress.history.append(row)
        old = None if progress.best is None else progress.history[progress.best]
        if better(row, old, self.settings.edit_weight):
            progress.best = len(progress.history) - 1
            self._best = {name: t.detach().clone() for name, t in self.network.state_dict().items()}

    def _write(self) -> None:
        Checkpoint(
            identity=self.identity,
            progress=self.progress,
            network=self.network.state_dict(),
            best=self._best,
            optimiser=optimiser_tensors(self.optimiser),
        ).write(self.folder)


def _optimiser(network: EditNetwork, settings: Settings) -> torch.optim.Adam:
    rates = [p for name, p in network.named_parameters() if name == "rates"]
    others = [p for name, p in network.named_parameters() if name != "rates"]
    groups: list[dict[str, Any]] = [{"params": others, "lr": settings.lr}]
    if isinstance(settings, MendSettings):
        groups.append({"params": rates, "lr": settings.rate_lr})
    return torch.optim.Adam(groups)


def _schedule(step: int, settings: Settings) -> float:
    """Factor of the learning rates: up over the warm-up, then down along a cosine, if wanted."""
    rise = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if not settings.decay:
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
