"""From a plan to finished results in an output folder: lock, store, model, observers, runner."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.benchmark.aggregate import document
from editkit.benchmark.environment import record_environment
from editkit.benchmark.observers import Observers
from editkit.benchmark.plan import Plan
from editkit.benchmark.progress import Progress
from editkit.benchmark.runner import Runner, discard_earlier
from editkit.benchmark.spec import ModelChoice
from editkit.benchmark.store import Store, exclusive, rows_of
from editkit.errors import ModelError, TrackingError
from editkit.registry.plugins import Registry
from editkit.results import STORE_FILE, Cell, Row, Run

if TYPE_CHECKING:
    from editkit.models import LanguageModel
    from editkit.registry.model_identity import ModelIdentity

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run whose rows are all stored.

    Attributes:
        run: The run.
        added: What observers add to the document, such as ``{"mlflow": {...}}``.
        tracking_errors: What tracking services could not be told.
    """

    run: Run
    added: Mapping[str, Any]
    tracking_errors: tuple[TrackingError, ...]

    def document(self) -> dict[str, Any]:
        """The run as in ``--json``."""
        return document(self.run, self.added)

    def failures(self) -> list[tuple[Cell, list[Row]]]:
        """The cells that have failed rows, with those."""
        found = []
        for cell in self.run.cells:
            failed = [row for row in rows_of(self.run, cell) if row.status == "failed"]
            if failed:
                found.append((cell, failed))
        return found


def carry_out(
    plan: Plan,
    out: Path,
    registry: Registry,
    *,
    fresh: bool = False,
    tracking: bool = True,
    quiet: bool = False,
) -> Finished:
    """Compute what the folder's store lacks. The model is loaded only if something is lacking.

    Args:
        plan: What to do.
        out: The output folder.
        registry: Where editors, metrics and observers come from.
        fresh: Discard earlier rows of this plan first.
        tracking: Whether tracking services should be told.
        quiet: Show no progress.

    Raises:
        StoreError: The folder is in use, or its store cannot be used.
        ModelError: The model cannot be loaded, or cannot chat although records ask it to.
        PluginError: An editor cannot be prepared, or changed the model.
    """
    with exclusive(out, plan.shard), Store(out / STORE_FILE) as store:
        if fresh:
            discard_earlier(plan, store)
        store.drop_damaged_descriptions({planned.cell.fingerprint for planned in plan.cells})
        for planned in plan.cells:
            store.drop_damaged(planned.cell.fingerprint)
        left = sum(len(b.records) for p in plan.cells for b in plan.remaining(p.cell, store))
        model = _load(plan) if left else None
        description = model.describe() if model else _known_model(plan, store)
        if model and any(r.request.chat for b in plan.batches for r in b.records):
            _ = model.chat_template  # refused once, not by every record
        if model:
            record_environment(
                description, store, [planned.cell.fingerprint for planned in plan.cells]
            )
        run = plan.run(out, description, tracking=tracking)
        for cell in run.cells:
            store.put_cell(cell.fingerprint, run.describe(cell))
        requests = {r.case_id: r.request for batch in plan.batches for r in batch.records}
        store.put_requests(str(run.dataset["digest"]), requests)
        observers = Observers(registry)
        observers.run_started(run)
        total = plan.n_records * len(plan.cells)
        with Progress(total, total - left, quiet=quiet) as progress:
            Runner(plan, run, store, registry, observers, progress).execute(model)
        added = observers.run_finished(run)
        return Finished(run, added, tuple(observers.tracking_errors))


def fingerprint_of(choice: ModelChoice) -> str:
    """The fingerprint of the chosen model, without loading it."""
    from editkit.registry.models import fingerprint_of

    return fingerprint_of(choice.name, revision=choice.revision)


def n_layers_of(choice: ModelChoice) -> int | None:
    """The number of layers of the chosen model, from its config; None where it cannot be had."""
    from editkit.registry.models import n_layers_of

    return n_layers_of(choice.name, revision=choice.revision, download=True)


def identity_of(choice: ModelChoice) -> ModelIdentity:
    """What files of values know the chosen model by, without loading it."""
    from editkit.registry.model_identity import identity_of

    return identity_of(choice.name, revision=choice.revision, download=True)


def load_chosen(choice: ModelChoice) -> LanguageModel:
    """The chosen model, loaded as the choice says."""
    from editkit.registry.models import load_model

    return load_model(
        choice.name,
        dtype=choice.dtype,
        device=choice.device,
        device_map=choice.device_map,
        attention=choice.attention,
        revision=choice.revision,
    )


def _load(plan: Plan) -> LanguageModel:
    choice = plan.model
    model = load_chosen(choice)
    if model.fingerprint != plan.model_fingerprint:
        raise ModelError(
            f"model {choice.name!r} has fingerprint {model.fingerprint}, expected "
            f"{plan.model_fingerprint}: its files changed while it was loaded.",
            hint="Run the command again.",
        )
    return model


def _known_model(plan: Plan, store: Store) -> dict[str, Any]:
    """The description that was stored when the model was loaded."""
    described = [store.known_cell(planned.cell.fingerprint) for planned in plan.cells]
    return next(
        (dict(d["model"]) for d in described if d and "model" in d), plan.model_description()
    )
