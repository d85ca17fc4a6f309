"""The average traces of an experiment, each kept in the store of its output folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import Editor, EditRequest, Fact, make_dataset, make_locator
from editkit.benchmark.inputs import load_model_of
from editkit.benchmark.isolation import seeded
from editkit.benchmark.plan import Plan, PlannedCell
from editkit.benchmark.progress import counting
from editkit.benchmark.spec import Benchmark, PluginValues
from editkit.data_types import fact_of
from editkit.errors import UsageError, did_you_mean
from editkit.registry.plugins import default_registry
from editkit.report.labels import labels_of
from editkit_benchmarks.experiments.spec import Tracing
from editkit_plugins.tracing.facts import facts_of
from editkit_plugins.tracing.shown import Shown
from editkit_plugins.tracing.study import Edits, study

if TYPE_CHECKING:
    from editkit.models import LanguageModel

_log = logging.getLogger("editkit.experiments")
_BEFORE = "before the edit"


@dataclasses.dataclass(frozen=True)
class _Task:
    """One average to be made: a name for figures, facts, a configuration, and edits if any."""

    name: str
    facts: Sequence[Fact]
    source: str
    config: Mapping[str, Any]
    edits: Edits | None = None


def trace_all(
    tracing: Tracing,
    benchmark: Benchmark,
    values: PluginValues,
    plan: Plan | None,
    out: Path,
    *,
    quiet: bool = False,
) -> list[Shown]:
    """Trace what the folder's store lacks.

    Args:
        tracing: What to trace.
        benchmark: The model, and the records whose facts are traced.
        values: Values of the dataset's configuration.
        plan: Where the configurations of editors are; None where nothing is edited.
        out: The output folder.
        quiet: Show no progress.

    Raises:
        UsageError: No fact could be traced, or an editor is not among the benchmark's.
        EditkitError: Something cannot be loaded or made.
    """
    model = load_model_of(benchmark.model)
    found = []
    empty = ""
    for task in _tasks(tracing, benchmark, values, plan, model):
        locator = make_locator(tracing.locator, model, **task.config)
        with counting(f"tracing {task.name}".strip(), len(task.facts), quiet=quiet) as report:
            average = study(
                model, tracing.locator, locator, task.facts, out, report, edits=task.edits
            )
        if not average.kinds:
            empty = average.why_empty(model.name, f"{task.source} {task.name}".strip())
            _log.warning("left out: %s", empty)
            continue
        if average.failed:
            reason = next(iter(average.failed.values()))
            _log.warning("%s: %d not traced (%s)", task.name, len(average.failed), reason)
        found.append(Shown(average, tracing.locator, model.name, task.source, task.name))
    if not found:
        raise UsageError(empty, hint="Trace facts that the model knows.")
    return found


def _tasks(
    tracing: Tracing,
    benchmark: Benchmark,
    values: PluginValues,
    plan: Plan | None,
    model: LanguageModel,
) -> Iterator[_Task]:
    choice = benchmark.dataset
    limit = min((n for n in (tracing.limit, benchmark.limit) if n is not None), default=None)
    config = {**choice.config, **values.get(("dataset", choice.name), {})}
    requests: list[EditRequest] = []
    if tracing.facts is None or tracing.after:
        records = make_dataset(choice.name, **config).load().records[:limit]
        requests = [record.request for record in records]
    if tracing.facts is None:
        source, facts = choice.name, [fact_of(each) for each in requests]
    else:
        source = tracing.facts
        read = facts_of(source, config if source == choice.name else None)
        read.warn()
        facts = list(read.facts[:limit])
    for name, setting in (tracing.settings or {"": {}}).items():
        before = _BEFORE if tracing.after and not name else name
        yield _Task(before, facts, source, {**tracing.config, **setting})
    for label, planned in edited_cells(tracing, plan):
        edits = Edits(label, _editor(planned, model), requests)
        new = [fact_of(each, each.target_new) for each in requests]
        yield _Task(f"after {label}", new, choice.name, tracing.config, edits)


def edited_cells(tracing: Tracing, plan: Plan | None) -> list[tuple[str, PlannedCell]]:
    """The cells after whose edits facts are traced, with their labels.

    Raises:
        UsageError: ``after`` names what is no editor and no label of the benchmark.
    """
    cells = plan.cells if plan else ()
    labels = labels_of(plan.run(Path(), plan.model_description(), tracking=False)) if plan else ()
    found = []
    for name in tracing.after:
        named = [
            (label, planned)
            for label, planned in zip(labels, cells, strict=True)
            if name in (label, planned.cell.editor)
        ]
        if not named:
            raise UsageError(
                f"tracing.after names {name!r}, which is no editor of the benchmark; it has "
                f"{', '.join(labels) or 'none'}.",
                hint=did_you_mean(name, labels) or "Add it to benchmark.editors.",
            )
        found += named
    return found


def _editor(planned: PlannedCell, model: LanguageModel) -> Editor[Any]:
    """The editor of a cell, prepared as a benchmark does it."""
    editor: Editor[Any] = default_registry().build("editor", planned.cell.editor, planned.config)
    editor.check(model)
    with seeded(planned.cell.seed, "prepare"):
        editor.prepare(model)
    return editor
