"""The descriptions of runs and experiments in MLflow, in Markdown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit import EditkitError, EditorSpec
from editkit.benchmark.aggregate import SUMMARY
from editkit.benchmark.spec import Benchmark, load_benchmark
from editkit.regimes import INDEPENDENT
from editkit.registry.plugins import default_registry
from editkit.registry.values_label import names_its_preset
from editkit_plugins.mlflow_tracking import view

if TYPE_CHECKING:
    from editkit.regimes import Regime
    from editkit.results import Cell, Row, Run

_MOST_FAILURES = 10
_SET = "--set"  # how a cell marks values from the command line


def run_note(
    run: Run,
    cell: Cell,
    rows: Sequence[Row],
    document: Mapping[str, Any],
    table: Mapping[str, str],
) -> str:
    """The description of an editor's run: what it is, its scores, warnings, how to repeat it.

    Args:
        run: The benchmark run.
        cell: The editor with its configuration.
        rows: Its rows.
        document: The cell as in ``run-benchmark --json``.
        table: Its line in the table of scores, by column.
    """
    summary = _summary(cell.editor)
    head = f"**{cell.editor}**" + (f": {summary}" if summary else "")
    records = f"{run.dataset['n_records']} records of {run.dataset['name']}"
    where = f"{run.model['name']} ({run.model['dtype']})"
    parts = [
        f"{head}. {records} on {where}, {_in_words(cell.regime)}.",
        _numbers(run, table),
        *_warnings(rows, document["edits"]["summary"]),
        "Metrics are fractions; `intervals.json` has all scores with their intervals, "
        "`records.json` the score of each record, and `report.html` the comparison of all editors.",
        f"Repeat it with\n\n    {repeat_command(run, cell)}",
    ]
    return "\n\n".join(filter(None, parts))


def experiment_note(run: Run, experiment_id: str) -> str:
    """The description of the experiment of a benchmark.

    Args:
        run: A run of the benchmark.
        experiment_id: The experiment's id, for links to its pages.
    """
    labelled = [score for score in run.scores if score.label]
    main = [score.label for score in labelled if score.summary]
    ranked, charts, tables = (
        view.address(experiment_id, mode).lstrip("/") for mode in ("TABLE", "CHART", "ARTIFACT")
    )
    rows = [SUMMARY, *labelled] if main else labelled
    return "\n".join(
        [
            f"Benchmark **{run.benchmark}** of editkit, one run per editor: "
            f"[ranked table]({ranked}), [charts]({charts}), [intervals and records]({tables}).",
            "",
            f"S is the harmonic mean of {', '.join(main)}. " if main else "",
            "Tables show shares x 100 with their 95% interval, metrics are fractions. "
            "The editor `none` is the unedited model.",
            "",
            "| column | metric | meaning |",
            "|---|---|---|",
            *(f"| {score.label} | `{score.key}` | {score.description} |" for score in rows),
        ]
    )


def reports_note(kind: str, experiment_id: str, *, curves: bool) -> str:
    """The description of the experiment of reports of one kind, such as trainings.

    Args:
        kind: The kind.
        experiment_id: The experiment's id, for links to its pages.
        curves: Whether MLflow's own view shows them.
    """
    if curves:
        page = view.address(experiment_id, "CHART", shared=False)
        return f"**{kind}** of editkit, one run each: [curves]({page.lstrip('/')})."
    numbers, images = (view.address(experiment_id, mode).lstrip("/") for mode in ("TABLE", "CHART"))
    return f"**{kind}** of editkit, one run each: [numbers]({numbers}), [images]({images})."


def repeat_command(run: Run, cell: Cell) -> str:
    """The command that computes a cell again.

    ``FILE`` stands for a benchmark that is not installed under its name.
    """
    known = _installed(run.benchmark)
    flags = ["--editor", cell.editor]
    if known is None or known.model.name != run.model["name"]:
        flags += ["--model", str(run.model["name"])]
    if run.model["dtype"] != ("float32" if known is None else known.model.dtype):
        flags += ["--dtype", str(run.model["dtype"])]
    if known is not None and known.dataset.name != run.dataset["name"]:
        flags += ["--dataset", str(run.dataset["name"])]
    if known is None or known.limit != run.dataset["n_records"]:
        flags += ["--limit", str(run.dataset["n_records"])]
    metrics = [str(metric["name"]) for metric in run.metrics]
    if known is not None and [metric.name for metric in known.metrics] != metrics:
        flags += ["--metrics", ",".join(metrics)]
    if cell.seed not in ((0,) if known is None else known.seeds):
        flags += ["--seed", str(cell.seed)]
    flags += _regime_flags(cell.regime, known)
    own = [] if known is None else [each for each in known.editors if each.name == cell.editor]
    named = cell.preset != "published" or names_its_preset(cell, str(run.model["name"]))
    if named and cell.preset not in (None, *(each.preset for each in own)):
        flags += [_SET, f"editors.{cell.editor}.preset={cell.preset}"]
    for field, source in cell.sources.items():
        if source == _SET:
            flags += [_SET, f"editors.{cell.editor}.{field}={_as_yaml(cell.config[field])}"]
    name = "FILE" if known is None else run.benchmark
    return shlex.join(["editkit", "run-benchmark", name, *flags])


def _summary(editor: str) -> str:
    registry = default_registry()
    if not registry.has("editor", editor):
        return ""
    spec = registry.get("editor", editor).spec
    return spec.summary.rstrip(".") if isinstance(spec, EditorSpec) else ""


def _in_words(regime: Regime) -> str:
    if regime.is_independent:
        return "each in its own copy of the model"
    if regime.kind == "joint":
        return f"{regime.facts} facts in each model, all at once (joint)"
    return f"{regime.facts} facts in each model, {regime.step} per step (sequential)"


def _numbers(run: Run, table: Mapping[str, str]) -> str:
    """``S **94.2 ±1.7**, ES 100.0 ±0.2, 0.236 s per edit``, and what the numbers mean."""
    main = [score.label for score in run.scores if score.summary and score.label]
    shown = [head for head in (SUMMARY.label, *main) if head in table]
    if not shown:
        return ""
    scores = ", ".join(f"{head} **{table[head]}**" for head in shown)
    meaning = f"S is the harmonic mean of {', '.join(main)}; " if SUMMARY.label in shown else ""
    intervals = " with 95% intervals" if any(" " in table[head] for head in shown) else ""
    return f"{scores}; {table['s/edit']} s per edit. {meaning}shares x 100{intervals}."


def _warnings(rows: Sequence[Row], outcomes: str) -> list[str]:
    """What went wrong in the cell; empty if nothing did."""
    parts = [f"**Edits that did not work:** {outcomes}"] if outcomes else []
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        reasons = "\n".join(f"- case {row.case_id}: {row.error}" for row in failed[:_MOST_FAILURES])
        parts.append(
            f"**{len(failed)} of {len(rows)} records failed** and are excluded from all scores:"
            f"\n\n{reasons}"
        )
    return parts


def _installed(name: str) -> Benchmark | None:
    """The installed benchmark of this name; None if there is none that can be read."""
    registry = default_registry()
    if not registry.has("benchmark", name):
        return None
    try:
        return load_benchmark(name, registry)[0]
    except EditkitError:
        return None


def _regime_flags(regime: Regime, known: Benchmark | None) -> list[str]:
    if regime in ((INDEPENDENT,) if known is None else known.edits):
        return []
    if regime.is_independent or regime.groups is not None:
        edits = regime.kind if regime.is_independent else regime.to_dict()
        return [_SET, f"edits={_as_yaml(edits)}"]
    flags = [f"--{regime.kind}", str(regime.facts)]
    if regime.kind == "sequential":
        flags += ["--step", str(regime.step)]
        flags += ["--checkpoints", ",".join(map(str, regime.checkpoints))]
    return flags


def _as_yaml(value: Any) -> str:
    """A value as ``--set`` reads it."""
    return value if isinstance(value, str) else json.dumps(value)
