"""Run a benchmark: edit facts, score the edits, print the table.

Each fact is written into its own copy of the model, many into one at once (--joint), or one after
the other (--sequential).

Rows are stored batch by batch. After an interruption the same command resumes; once everything is
stored, it prints the table without computing anything.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from editkit.benchmark.aggregate import SCHEMA, SUMMARY
from editkit.benchmark.layer_by_locator import choose_layers
from editkit.benchmark.output_lock import check_folder
from editkit.benchmark.plan import Batch, Plan, make_plan
from editkit.benchmark.runner import Finished, run_plan
from editkit.benchmark.spec import Benchmark, Flags, apply_flags, load_benchmark, with_corpus
from editkit.benchmark.store import Store
from editkit.cli.arguments import add_examples, add_flag, add_flags, parse_sets
from editkit.cli.pools import add_pool_flags, placement_in_words, placement_of, pool_for
from editkit.cli.regime_flags import add_regime_flags, regimes_of
from editkit.cli.signals import terminable
from editkit.errors import EditkitError, TrackingError, UsageError
from editkit.regimes import Regime
from editkit.registry.config import RULE
from editkit.registry.factories import make_judge
from editkit.registry.judge_choice import JudgeChoice
from editkit.registry.plugins import Registry, default_registry
from editkit.registry.values_label import values_from
from editkit.report.labels import labels_of
from editkit.report.text import run_table
from editkit.reprs import counted
from editkit.results import STORE_FILE, Cell
from editkit.terminal import aligned

if TYPE_CHECKING:
    from pathlib import Path

    from editkit.doctor.diagnose import Check, Diagnosis
    from editkit.workers.placement import Placement

EXIT_FAILED_RECORDS = EXIT_PROBLEM = 1
_TASKS = "lm-eval"  # the metric that --tasks adds
_MOST_REJECTED = 10  # records, in a warning
_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser,
        "benchmark",
        nargs="?",
        default="atlas",
        metavar="NAME|FILE",
        complete="benchmark",
        help="a benchmark, or a file that describes one",
    )
    add_flags(parser, "--editor")
    add_flag(parser, "--model", shown_default="the benchmark's")
    add_flag(parser, "--dataset", shown_default="the benchmark's")
    add_flags(parser, "--limit", "--metrics")
    add_flag(
        parser,
        "--model-metrics",
        also=("--model-metric",),
        several=True,
        metavar="M,...",
        complete="model_metric",
        help="names of metrics of whole models, only for facts that share one (default: those of "
        "the benchmark)",
    )
    add_flag(
        parser,
        "--tasks",
        also=("--task",),
        several=True,
        metavar="T,...",
        help="also run tasks of lm-evaluation-harness on the edited models: names, or paths of "
        "YAML files (default: none)",
    )
    add_regime_flags(parser)
    add_flag(
        parser,
        "--seed",
        also=("--seeds",),
        several=True,
        default=[],
        metavar="S,...",
        help="random seeds (default: those of the benchmark)",
    )
    add_flag(parser, "--device", default=None, shown_default="the benchmark's")
    add_flag(parser, "--dtype", default=None, shown_default="the benchmark's")
    add_flags(parser, "--corpus", "--set", "--chat", "--out", "--fresh")
    add_flag(
        parser,
        "--retry-failed",
        action="store_true",
        help="compute records again that failed, and keep all others",
    )
    add_flag(
        parser, "--shard", type=_shard, metavar="I/N", help="run only part I of N (default: all)"
    )
    add_pool_flags(parser)
    add_flags(parser, "--no-mlflow", "--json", "--wide")
    add_flag(parser, "--dry-run", action="store_true", help="print the plan and run nothing")
    add_flag(parser, "--quiet")
    add_examples(
        parser,
        "editkit run-benchmark -e rome,ft -n 20",
        "editkit run-benchmark -m ./my-gpt2 -e rome --dry-run",
        "editkit run-benchmark atlas -e rome,memit --sequential 100 --step 10 -o results",
    )


def run(args: argparse.Namespace) -> int:
    """Run the benchmark."""
    registry = default_registry()
    benchmark, place = load_benchmark(args.benchmark, registry)
    for name in args.editor:  # before --set, which would take a misspelt name for a known one
        registry.get("editor", name)
    chat = {"dataset.chat": True} if args.chat else {}
    metrics, tasks = _with_tasks(args, benchmark)
    flags = Flags(
        editors=args.editor,
        model=args.model,
        dataset=args.dataset,
        limit=args.limit,
        metrics=metrics,
        model_metrics=args.model_metrics,
        edits=regimes_of(args),
        seeds=args.seed,
        dtype=args.dtype,
        device=args.device,
        sets={**chat, **tasks, **parse_sets(args.sets)},
    )
    benchmark, values = apply_flags(benchmark, flags)
    if args.model_metrics and all(regime.is_independent for regime in benchmark.regimes):
        raise UsageError(
            "--model-metrics is for facts that share a model, and every fact has its own here.",
            hint="Name them under --metrics to score each record's model, or add --joint N or "
            "--sequential N.",
        )
    values = with_corpus(benchmark, values, args.corpus, registry)
    pool, model = pool_for(args, benchmark.model)
    benchmark = benchmark.model_copy(update={"model": model})
    benchmark, values, chosen = choose_layers(benchmark, values, registry, pool)
    shard = args.shard or (1, 1)
    plan = make_plan(
        benchmark,
        registry,
        place=place,
        values=values,
        shard=shard,
        leave_out=_is_default_set(args, registry, benchmark),
    )
    for warning in plan.warnings:
        _log.warning("%s", warning)
    for note in (*plan.notes, *chosen):
        _log.info("%s", note)
    _warn_of_rejected(plan)
    if args.dry_run:
        diagnosis = diagnosis_of(plan, registry, args.out)
        left = _units_left(plan, args)
        workers = placement_of(pool, sum(map(len, left)))
        if workers is not None:
            diagnosis = _without_this_machine(diagnosis)
        _print_plan(plan, args, left, diagnosis, workers)
        return 0 if diagnosis.sound else EXIT_PROBLEM
    with terminable():
        try:
            finished = run_plan(
                plan,
                args.out,
                registry,
                fresh=args.fresh,
                retry_failed=args.retry_failed,
                tracking=not args.no_mlflow,
                quiet=args.quiet,
                pool=pool,
            )
        except KeyboardInterrupt:
            _warn_of_interruption(args, plan)
            raise
    return _report(args, finished)


def _with_tasks(args: argparse.Namespace, benchmark: Benchmark) -> tuple[list[str], dict[str, Any]]:
    """The metrics of ``--metrics`` and ``--tasks``, and the values that ``--tasks`` sets."""
    chosen: list[str] = args.metrics
    if not args.tasks:
        return chosen, {}
    tasks = list(dict.fromkeys(args.tasks))
    shared = args.model_metrics or [choice.name for choice in benchmark.model_metrics]
    if _TASKS in shared:  # tasks only for models that facts share
        return chosen, {f"model_metrics.{_TASKS}.tasks": tasks}
    own = [choice.name for choice in benchmark.metrics]
    return [*(chosen or own), _TASKS], {f"metrics.{_TASKS}.tasks": tasks}


def _is_default_set(args: argparse.Namespace, registry: Registry, benchmark: Benchmark) -> bool:
    """Whether nobody chose these editors for this model: a registered benchmark, another model."""
    if args.editor or not registry.has("benchmark", args.benchmark):
        return False
    return load_benchmark(args.benchmark, registry)[0].model.name != benchmark.model.name


def _report(args: argparse.Namespace, finished: Finished) -> int:
    result = finished.document(differences=args.json)
    if args.json:
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    else:
        terminal = sys.stdout.isatty()
        cells, wide = result["cells"], args.wide
        sys.stdout.write(run_table(finished.run, cells, terminal=terminal, wide=wide))
        sys.stdout.write(f"\nResults are in {args.out}.\n")
        if "mlflow" in finished.added:
            out = shlex.quote(str(args.out))
            sys.stdout.write(f"Compare these runs in MLflow: editkit ui --out {out}\n")
    if args.json or not sys.stdout.isatty():  # on a terminal they are below the table
        for label, entry in zip(labels_of(finished.run), result["cells"], strict=True):
            if entry["edits"]["summary"]:
                _log.warning("%s: %s", label, entry["edits"]["summary"])
    for line in _guessed_layers(finished, result["cells"]):
        _log.warning("%s", line)
    failures = finished.failures()
    for cell, rows in failures:
        _log.warning(
            "%s: %s failed, the first is case %d: %s. --retry-failed computes them again.",
            *(cell.editor, counted(len(rows), "record"), rows[0].case_id),
            (rows[0].error or "").removesuffix("."),
        )
    for error in finished.tracking_errors:
        _log.error("%s\n  see: %s", error, error.reference)
    if finished.tracking_errors:
        return TrackingError.exit_code
    return EXIT_FAILED_RECORDS if failures else 0


def _guessed_layers(finished: Finished, cells: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each editor at a guessed layer that another editor beats."""
    labels = labels_of(finished.run)
    scores = [cell["metrics"].get(SUMMARY.key, {}).get("mean") for cell in cells]
    best = max((score for score in scores if score is not None), default=0.0)
    for cell, label, score in zip(finished.run.cells, labels, scores, strict=True):
        spec: Any = default_registry().get("editor", cell.editor).spec
        rule = spec.layer_rule
        if score is None or score >= best or not (rule and rule.is_guess):
            continue
        if cell.sources.get(rule.field) == RULE:
            yield (
                f"{label}: S is {100 * score:.1f} at {rule.field} {cell.config[rule.field]}, which "
                f"is a guess, and {labels[scores.index(best)]} has {100 * best:.1f}. Try --set "
                f"editors.{cell.editor}.{rule.field}=auto, or the layers around it."
            )


# ---------------------------------------------------------------- --dry-run and warnings


def diagnosis_of(plan: Plan, registry: Registry, out: Path) -> Diagnosis:
    """The checks of ``editkit doctor`` for a plan, and whether its results can be written."""
    from editkit.doctor.diagnose import PlannedEditor, diagnose

    offers = {
        planned.cell.editor: registry.get("editor", planned.cell.editor) for planned in plan.cells
    }
    regimes: dict[str, list[Regime]] = {}
    for planned in plan.cells:
        regimes.setdefault(planned.cell.editor, []).append(planned.cell.regime)
    editors = {
        (planned.cell.editor, planned.cell.preset): PlannedEditor(
            offers[planned.cell.editor],
            planned.config,
            matched=planned.resolved.matched,
            overridden=planned.resolved.overridden,
            regimes=tuple(dict.fromkeys(regimes[planned.cell.editor])),
        )
        for planned in plan.cells
    }
    choice = plan.model
    diagnosis = diagnose(
        registry,
        choice.name,
        list(editors.values()),
        dtype=choice.dtype,
        device=choice.device,
        requests=plan.batch,
        edits=plan.edits_per_record,
    )
    checks = (*diagnosis.checks, *_checks_of_judges(plan), *_problems_of_folder(plan, out))
    return dataclasses.replace(diagnosis, checks=checks)


def _without_this_machine(diagnosis: Diagnosis) -> Diagnosis:
    """Without what is about the device and memory of this machine, where no model is loaded."""
    checks = tuple(
        check
        for check in diagnosis.checks
        if check.topic != "device" and not check.topic.startswith("memory of ")
    )
    return dataclasses.replace(diagnosis, checks=checks)


def _checks_of_judges(plan: Plan) -> Iterator[Check]:
    """What the judges of metrics lack, such as a key; nothing is asked of them."""
    for metric in plan.metrics:
        config = metric.resolved.config
        if not isinstance(config, JudgeChoice):
            continue
        from editkit.doctor.diagnose import Check

        topic = f"judge of {metric.offer.name}"
        try:
            make_judge(config.judge, **config.judge_config).prepare()
        except EditkitError as error:
            yield Check(topic, "problem", f"{error.message} {error.hint or ''}".strip())
        else:
            yield Check(topic, "ok", config.judge)


def _problems_of_folder(plan: Plan, out: Path) -> Iterator[Check]:
    """Why results cannot be written; nothing is created."""
    try:
        check_folder(out, plan.shard)
    except EditkitError as error:
        from editkit.doctor.diagnose import Check

        yield Check("output folder", "problem", f"{error.message} {error.hint or ''}".strip())


def _units_left(plan: Plan, args: argparse.Namespace) -> list[list[Batch]]:
    """The units of each cell that lack rows."""
    path = args.out / STORE_FILE
    with contextlib.ExitStack() as stack:
        store = None
        if path.exists() and not args.fresh:
            store = stack.enter_context(Store(path, read_only=True))
        return [list(plan.remaining(planned.cell, store)) for planned in plan.cells]


def _print_plan(
    plan: Plan,
    args: argparse.Namespace,
    units: Sequence[Sequence[Batch]],
    diagnosis: Diagnosis,
    workers: Placement | None,
) -> None:
    left = [sum(len(unit.records) for unit in own) for own in units]
    write = _plan_as_json if args.json else _plan_as_text
    sys.stdout.write(write(plan, left, diagnosis, workers))


def _plan_as_json(
    plan: Plan, left: list[int], diagnosis: Diagnosis, workers: Placement | None
) -> str:
    cells = [
        {
            "editor": planned.cell.editor,
            "preset": planned.cell.preset,
            "values_from": values_from(planned.cell),
            "seed": planned.cell.seed,
            "fingerprint": planned.cell.fingerprint,
            "config": planned.cell.config,
            "sources": planned.cell.sources,
            "rule": planned.resolved.rule,
            "matched": planned.resolved.matched.report,
            "overridden": list(planned.resolved.overridden),
            "edits": planned.cell.regime.to_dict(),
            "records": {"stored": plan.n_records(planned.cell) - n, "left": n},
            **dataclasses.asdict(_Size.of(plan, planned.cell)),
        }
        for planned, n in zip(plan.cells, left, strict=True)
    ]
    content = {
        "schema": SCHEMA,
        "dry_run": True,
        "benchmark": plan.benchmark,
        "model": plan.model_description(),
        "dataset": dict(plan.dataset),
        "batches": len(plan.batches),
        "workers": None if workers is None else dataclasses.asdict(workers),
        "cells": cells,
        "left_out": {name: str(error) for name, error in plan.left_out.items()},
        "ok": diagnosis.sound,
        "checks": [dataclasses.asdict(check) for check in diagnosis.checks],
    }
    return json.dumps(content, indent=2) + "\n"


@dataclasses.dataclass(frozen=True)
class _Size:
    """How much a cell computes.

    Attributes:
        models: Number of edited models.
        facts_per_model: Facts of each model but the last.
        facts_of_last: Facts of the last model.
        checkpoints: After how many facts a model is scored.
        rows: Rows of records that the store will have, those of earlier checkpoints included.
        model_rows: Rows of models.
    """

    models: int
    facts_per_model: int
    facts_of_last: int
    checkpoints: tuple[int, ...]
    rows: int
    model_rows: int

    @classmethod
    def of(cls, plan: Plan, cell: Cell) -> _Size:
        """The size of a cell in this shard."""
        if cell.regime.is_independent:
            n = plan.n_records(cell)
            return cls(n, 1, 1, (1,), n, 0)
        sizes = [len(unit.records) for unit in plan.units(cell)]
        scored = [[mark or size for mark in cell.regime.checkpoints_of(size)] for size in sizes]
        largest = max(sizes, default=0)
        return cls(
            models=len(sizes),
            facts_per_model=largest,
            facts_of_last=sizes[-1] if sizes else 0,
            checkpoints=tuple(mark or largest for mark in cell.regime.checkpoints_of(largest)),
            rows=sum(map(sum, scored)),
            model_rows=sum(map(len, scored)),
        )

    def columns(self) -> tuple[str, str, str]:
        """For the table: models, checkpoints, rows."""
        more = f" + {self.model_rows} of models" if self.model_rows else ""
        uneven = self.facts_of_last != self.facts_per_model
        models = f"{self.models - uneven} x {self.facts_per_model}"
        models += f", 1 x {self.facts_of_last}" * uneven
        return models, ", ".join(map(str, self.checkpoints)), f"{self.rows}{more}"


def _plan_as_text(
    plan: Plan, left: list[int], diagnosis: Diagnosis, workers: Placement | None
) -> str:
    rows = [
        (
            planned.cell.editor,
            values_from(planned.cell) or "-",
            planned.cell.regime.label,
            *_Size.of(plan, planned.cell).columns(),
            str(planned.cell.seed),
            planned.cell.fingerprint[:12],
            f"{plan.n_records(planned.cell) - n} stored, {n} left",
        )
        for planned, n in zip(plan.cells, left, strict=True)
    ]
    n_records = sum(len(batch.records) for batch in plan.batches)
    edits = sum(len(record.requests) for batch in plan.batches for record in batch.records)
    of_edits = f" ({edits} edits)" if edits > n_records else ""
    n_batches = len(plan.batches)
    batches = "1 batch" if n_batches == 1 else f"{n_batches:,} batches"
    head = (
        f"benchmark {plan.benchmark}: {counted(n_records, 'record')}{of_edits} of "
        f"{plan.dataset['name']} in {batches}, on {plan.model.name} ({plan.model.dtype})\n"
    )
    if workers is not None:
        head += f"{placement_in_words(workers)}\n"
    checks = [
        (check.verdict, check.topic, check.text)
        for check in diagnosis.checks
        if check.verdict != "ok"
    ]
    titles = ("editor", "values from", "edits", "models x facts", "scored after", "rows")
    table = aligned([(*titles, "seed", "fingerprint", "records"), *rows])
    end = "nothing would stop the run" if diagnosis.sound else "the run would stop"
    return f"{head}{table}{aligned(checks) if checks else ''}{end}\n"


def _warn_of_rejected(plan: Plan) -> None:
    if not plan.rejected:
        return
    first = plan.rejected[:_MOST_REJECTED]
    shown = [
        f"{each.place}{'' if each.field == 'record' else f', {each.field}'}: {each.reason}"
        for each in first
    ]
    n, n_others = len(plan.rejected), len(plan.rejected) - len(shown)
    shown += [f"and {n_others} more"] if n_others else []
    from_0 = any(each.has_position for each in first)
    _log.warning(
        "skipped %d broken %s%s: %s.",
        *(n, "record" if n == 1 else "records"),
        *(" (positions count from 0)" if from_0 else "", "; ".join(shown)),
    )


def _warn_of_interruption(args: argparse.Namespace, plan: Plan) -> None:
    rows = 0
    if (args.out / STORE_FILE).exists():
        with Store(args.out / STORE_FILE, read_only=True) as store:
            rows = sum(len(store.rows(planned.cell.fingerprint)) for planned in plan.cells)
    without = " without --fresh" if args.fresh else ""
    stored = f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} stored"
    _log.warning("%s in %s. The same command%s resumes.", stored, args.out, without)


# ---------------------------------------------------------------- arguments


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    try:
        shard = int(part), int(parts)
    except ValueError:
        shard = 0, 0
    if not 1 <= shard[0] <= shard[1]:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected I/N with I from 1 to N: 1/4")
    return shard
