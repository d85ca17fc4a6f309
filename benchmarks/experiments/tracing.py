"""The traces of an experiment: averages, stored in its output folder, and single facts."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import EditRequest, Fact, make_dataset
from editkit.benchmark.plan import Plan, PlannedCell
from editkit.benchmark.spec import Benchmark, PluginValues
from editkit.data_types import fact_of
from editkit.errors import UsageError, did_you_mean
from editkit.progress import show_progress
from editkit.records.facts import read_facts
from editkit.report.labels import labels_of
from editkit.tracing.trace import Trace
from editkit.workers.pool import InProcess, Pool, answer_of
from editkit_benchmarks.experiments.spec import Tracing
from editkit_plugins.tracing.bench import MapFact, Mapped, NamedEditor, NamedModel, NamedTools
from editkit_plugins.tracing.stored_traces import Tracers, adapted_study, traced_study

if TYPE_CHECKING:
    from editkit_plugins.tracing.averages import AverageTrace

_log = logging.getLogger("editkit.experiments")
_BEFORE_EDIT = "before the edit"


@dataclasses.dataclass(frozen=True)
class _Setting:
    """One average: its name in figures, its facts and their source, what traces them, and the edit
    before each fact."""

    name: str
    facts: Sequence[Fact]
    source: str
    tools: NamedTools
    requests: Sequence[EditRequest] = ()


@dataclasses.dataclass(frozen=True)
class ExampleTrace:
    """The trace of an example under a setting.

    Attributes:
        example: The number of the example, from 0.
        setting: Name of the setting; empty if the example's own values make all settings equal.
        trace: Its trace.
    """

    example: int
    setting: str
    trace: Trace


@dataclasses.dataclass(frozen=True)
class Traces:
    """What an experiment traced.

    Attributes:
        averages: Averages over many facts, one per setting.
        examples: Traces of single facts.
    """

    averages: Sequence[AverageTrace] = ()
    examples: Sequence[ExampleTrace] = ()


def trace_all(
    tracing: Tracing,
    benchmark: Benchmark,
    values: PluginValues,
    plan: Plan | None,
    out: Path,
    *,
    pool: Pool | None = None,
    quiet: bool = False,
) -> Traces:
    """Trace the facts that the store lacks, average under each setting, and trace the examples.

    Args:
        tracing: What to trace.
        benchmark: The model, and the records with the facts.
        values: Values of the dataset's configuration.
        plan: The configured editors; None if nothing is edited.
        out: The output folder.
        pool: Who traces; None: this process.
        quiet: Whether to show no progress.

    Raises:
        UsageError: No fact could be traced, or ``after`` names an unknown editor.
        EditkitError: The model, a dataset, the locator or an editor cannot be loaded.
    """
    averages = []
    why_empty = ""
    settings = list(_settings(tracing, benchmark, values, plan))
    used = {name for setting in settings for name in setting.tools.distributions()}
    recipe = NamedModel(benchmark.model)
    with (pool or InProcess()).opened(recipe, distributions=sorted(used)) as crew:
        for setting in settings:
            with show_progress(quiet=quiet):
                study = adapted_study(
                    crew,
                    setting.tools,
                    setting.facts,
                    setting.requests,
                    source=setting.source,
                    setting=setting.name,
                )
                average = traced_study(crew, study, out)
            if not average.effects:
                why_empty = average.why_empty
                _log.warning("left out: %s", why_empty)
                continue
            if average.failed:
                reason = next(iter(average.failed.values()))
                _log.warning("%s: %d facts failed (%s)", setting.name, len(average.failed), reason)
            averages.append(average)
        examples = list(_examples(tracing, crew, settings[0].facts))
    if not averages:
        raise UsageError(why_empty, hint="Trace facts that the model knows.")
    return Traces(averages, examples)


def _examples(tracing: Tracing, crew: Tracers, facts: Sequence[Fact]) -> Iterator[ExampleTrace]:
    for number, example in enumerate(tracing.examples):
        fact = Fact(example.prompt, example.subject, example.answer)
        different: list[tuple[str, NamedTools]] = []
        for setting, tools in tools_by_setting(tracing, example.config):
            if all(tools != earlier for _, earlier in different):
                different.append((setting, tools))
        for setting, tools in different:
            answer = answer_of(crew, MapFact(tools, fact, facts))
            if not isinstance(answer, Mapped):
                raise AssertionError(answer)
            if answer.error:
                _log.warning("left out: example %r, %s: %s", example.prompt, setting, answer.error)
                continue
            trace = Trace(answer.model, tools.locator_name, answer.maps)
            if not trace.predicted:
                _log.warning("%s does not predict %s.", answer.model, trace.title)
            yield ExampleTrace(number, setting if len(different) > 1 else "", trace)


def tools_by_setting(
    tracing: Tracing, config: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, NamedTools]]:
    """The locator of each setting; ``config`` wins over its values, if it is the experiment's."""
    for name, setting in (tracing.settings or {"": {}}).items():
        values = dict(setting)
        locator = values.pop("locator", tracing.locator)
        if locator == tracing.locator:
            values = {**tracing.config, **values, **(config or {})}
        yield name, NamedTools(locator, values)


def _settings(
    tracing: Tracing, benchmark: Benchmark, values: PluginValues, plan: Plan | None
) -> Iterator[_Setting]:
    choice = benchmark.dataset
    limit = min((n for n in (tracing.limit, benchmark.limit) if n is not None), default=None)
    config = {**choice.config, **values.get(("dataset", choice.name), {})}
    requests: list[EditRequest] = []
    if tracing.facts is None or tracing.after:
        records = benchmark.model_copy(update={"limit": limit}).chosen(
            make_dataset(choice.name, **config).load().records
        )
        requests = [each for record in records for each in record.requests]
    if tracing.facts is None:
        source, facts = choice.name, [fact_of(each) for each in requests]
    else:
        source = tracing.facts
        read = read_facts(source, config if source == choice.name else None)
        read.warn()
        facts = list(read.facts[:limit])
    for name, tools in tools_by_setting(tracing):
        title = _BEFORE_EDIT if tracing.after and not name else name
        yield _Setting(title, facts, source, tools)
    for label, planned in edited_cells(tracing, plan):
        cell = planned.cell
        editor = NamedEditor(label, cell.editor, planned.config, cell.seed)
        tools = NamedTools(tracing.locator, tracing.config, edit=editor)
        new_facts = [fact_of(each, each.target_new) for each in requests]
        yield _Setting(f"after {label}", new_facts, choice.name, tools, requests)


def edited_cells(tracing: Tracing, plan: Plan | None) -> list[tuple[str, PlannedCell]]:
    """The cells that ``after`` names, with their labels.

    Raises:
        UsageError: A name is neither an editor of the benchmark nor a label.
    """
    cells = plan.cells if plan else ()
    labels = labels_of(plan.run(Path(), plan.model_description(), tracking=False)) if plan else ()
    selected = []
    for name in tracing.after:
        named = [
            (label, planned)
            for label, planned in zip(labels, cells, strict=True)
            if name in (label, planned.cell.editor)
        ]
        if not named:
            raise UsageError(
                f"tracing.after names {name!r}, which is not an editor of the benchmark; its "
                f"editors are {', '.join(labels) or 'none'}.",
                hint=did_you_mean(name, labels) or "Add it to benchmark.editors.",
            )
        selected += named
    return selected
