"""Check what a run needs, before any weights are loaded: memory, statistics, disk, versions.

The model may be a folder with nothing but a config.json. The exit code is 1 if something would
stop the run.

With --records, doctor also loads the model, measures a sample of the benchmark, and predicts the
time, memory and disk of a run with that many records. The exit code is also 1 if an editor could
not be measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from editkit.benchmark.inputs import identity_of, n_layers_of
from editkit.benchmark.plan import ConfigResolver
from editkit.benchmark.spec import (
    Benchmark,
    Flags,
    PluginValues,
    apply_flags,
    load_benchmark,
    with_corpus,
)
from editkit.cli.arguments import (
    above,
    add_examples,
    add_flag,
    add_flags,
    parse_sets,
    positive,
    up_to,
)
from editkit.cli.regime_flags import add_regime_flags, regimes_of
from editkit.errors import UsageError
from editkit.registry.config import GUESSED
from editkit.registry.plugins import Registry, default_registry
from editkit.reprs import counted
from editkit.safe_text import one_line
from editkit.terminal import aligned, wrapped

if TYPE_CHECKING:
    from editkit.doctor.diagnose import Diagnosis, PlannedEditor
    from editkit.doctor.prediction import Prediction

EXIT_PROBLEM = 1
_DEFAULT = "atlas"
_SECONDS = 120
_MOST_RECORDS, _MOST_WORKERS = 100_000_000, 100_000


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
    add_flags(parser, "--metrics")
    add_flag(parser, "--device", default=None, shown_default="the benchmark's")
    add_flag(parser, "--dtype", default=None, shown_default="the benchmark's")
    add_flag(
        parser,
        "--batch",
        type=positive,
        metavar="N",
        help="requests edited together",
        shown_default="the benchmark's",
    )
    add_regime_flags(parser)
    add_flag(
        parser,
        "--tokens",
        type=positive,
        default=20,
        metavar="N",
        help="length of the longest prompt with its target",
    )
    add_flag(
        parser,
        "--records",
        type=up_to(_MOST_RECORDS),
        metavar="N",
        help="measure a sample, and predict a run with N records (default: no prediction)",
    )
    add_flag(
        parser,
        "--workers",
        type=up_to(_MOST_WORKERS),
        help="with --records: number of workers of that run (default: 1)",
    )
    add_flag(
        parser,
        "--seconds",
        type=above(0),
        metavar="S",
        help="with --records: time limit of the sample, after start-up; at least one batch of "
        f"each editor is measured (default: {_SECONDS})",
    )
    add_flags(parser, "--corpus", "--set", "--json")
    add_examples(
        parser,
        "editkit doctor -m smollm2 -e rome,memit",
        "editkit doctor -e rome,ft --records 20000 --workers 8",
    )


def run(args: argparse.Namespace) -> int:
    """Print the verdict of each check."""
    registry = default_registry()
    if args.records is None:
        for flag in ("workers", "seconds"):
            if getattr(args, flag) is not None:
                raise UsageError(
                    f"--{flag} is for the prediction of a run, and there is no --records.",
                    hint="Add --records N, the number of records of the run.",
                )
    benchmark, place = load_benchmark(args.benchmark, registry)
    flags = Flags(
        editors=args.editor,
        model=args.model,
        dataset=args.dataset,
        metrics=args.metrics,
        dtype=args.dtype,
        device=args.device,
        edits=regimes_of(args),
        sets=parse_sets(args.sets),
    )
    benchmark, values = apply_flags(benchmark, flags)
    values = with_corpus(benchmark, values, args.corpus, registry)
    model = benchmark.model.name
    chosen = args.editor or not registry.has("benchmark", args.benchmark)
    optional = not chosen and load_benchmark(args.benchmark, registry)[0].model.name != model
    editors = _editors(registry, benchmark, values, place, optional=optional)
    from editkit.doctor.diagnose import diagnose

    diagnosis = diagnose(
        registry,
        model,
        editors,
        dtype=benchmark.model.dtype,
        device=benchmark.model.device,
        requests=args.batch or benchmark.batch,
        tokens=args.tokens,
    )
    document = _document(model, diagnosis)
    able = [planned for planned in editors if planned.offer.name not in diagnosis.left_out]
    prediction = None
    if args.records is not None and diagnosis.sound:
        from editkit.cli.doctor_prediction import prediction_of, prediction_text

        batch = {"batch": args.batch} if args.batch else {}
        prediction = prediction_of(
            benchmark.model_copy(update={"limit": args.records, **batch}),
            values,
            registry,
            diagnosis,
            place=place,
            workers=args.workers or 1,
            seconds=_SECONDS if args.seconds is None else args.seconds,
            optional=optional,
        )
    available = None if prediction is None else prediction.available
    to_paste = _to_paste(args, benchmark, able, available)
    notes = _notes_on_command(args, prediction)
    document |= {"command": to_paste, "command_notes": notes}
    text = _text(model, diagnosis, to_paste, notes)
    if prediction is not None:
        document["prediction"] = prediction.document()
        text += f"\n{prediction_text(prediction)}"
    text = json.dumps(document, indent=2) if args.json else text
    sys.stdout.write(text.rstrip("\n") + "\n")
    predicted = prediction is None or prediction.totals is not None
    return 0 if diagnosis.sound and predicted else EXIT_PROBLEM


def _editors(
    registry: Registry, benchmark: Benchmark, values: PluginValues, place: str, *, optional: bool
) -> list[PlannedEditor]:
    """The chosen editors, each with the configuration that a benchmark would give it."""
    from editkit.doctor.diagnose import PlannedEditor

    model = benchmark.model
    resolver = ConfigResolver(registry, model, identity_of(model), place, values, n_layers_of)
    planned = []
    for i, choice in enumerate(benchmark.editors):
        offer, resolved = resolver.resolve("editor", f"editors.{i}", choice, choice.preset)
        planned.append(
            PlannedEditor(
                offer,
                resolved.config,
                resolved.rule,
                resolved.matched,
                resolved.overridden,
                {
                    field: value
                    for field, value in resolved.values.items()
                    if resolved.sources.get(field) in GUESSED
                },
                optional=optional,
                regimes=choice.edits or benchmark.edits,
            )
        )
    return planned


def _to_paste(
    args: argparse.Namespace,
    benchmark: Benchmark,
    editors: list[PlannedEditor],
    available: int | None,
) -> str:
    """The command that runs these editors with the values that nobody has chosen spelled out.

    ``available`` is how many records the dataset has, None if unknown. It is not asked for more.
    """
    parts = ["editkit run-benchmark"]
    if args.benchmark != _DEFAULT:
        parts[0] += f" {shlex.quote(args.benchmark)}"
    if args.model and (args.benchmark, args.model) != (_DEFAULT, _DEFAULT):
        parts.append(f"--model {shlex.quote(args.model)}")
    for planned in editors:
        name = planned.offer.name
        parts.append(f"--editor {name}")
        for field, value in planned.guessed.items():
            text = "null" if value is None else str(value)
            parts.append(f"--set {shlex.quote(f'editors.{name}.{field}={text}')}")
    if args.dataset:
        parts.append(f"--dataset {shlex.quote(args.dataset)}")
    if args.metrics:
        parts.append(f"--metrics {shlex.quote(','.join(args.metrics))}")
    if args.records and (available is None or args.records <= available):
        parts.append(f"--limit {args.records}")
    elif args.records and benchmark.limit is not None:
        parts.append(f"--limit {available}")  # the benchmark's own limit may be smaller
    for flag in ("dtype", "device", "batch", "corpus"):
        value = getattr(args, flag)
        if value is not None:
            name = f"--{flag}" if flag != "batch" else "--set"
            parts.append(
                f"{name} {shlex.quote(f'batch={value}' if flag == 'batch' else str(value))}"
            )
    for flag in ("joint", "sequential"):
        parts += [f"--{flag} {facts}" for facts in getattr(args, flag)]
    if args.step:
        parts.append(f"--step {args.step}")
    if args.checkpoints:
        parts.append(f"--checkpoints {','.join(map(str, args.checkpoints))}")
    parts += [f"--set {shlex.quote(each)}" for each in args.sets]
    if (args.workers or 1) > 1:
        parts.append(f"--ray local --workers {args.workers}")
    return " \\\n    ".join(parts)


def _notes_on_command(args: argparse.Namespace, prediction: Prediction | None) -> list[str]:
    notes = []
    if prediction is not None and prediction.records > prediction.available:
        notes.append(
            f"it runs all {prediction.available:,} records of the dataset, which has fewer than "
            f"{prediction.records:,}"
        )
    if (args.workers or 1) > 1:
        notes.append(
            "--ray local starts the workers on this machine, at most one per processor; "
            "--ray ADDRESS uses a cluster"
        )
    return notes


def _text(model: str, diagnosis: Diagnosis, to_paste: str, notes: list[str]) -> str:
    rows = [(check.verdict, check.topic, check.text) for check in diagnosis.checks]
    problems = sum(check.verdict == "problem" for check in diagnosis.checks)
    warnings = sum(check.verdict == "warning" for check in diagnosis.checks)
    what = counted(problems, "problem") if problems else "nothing"
    noted = "".join(wrapped(f"note: {note}") for note in notes)
    return (
        f"{one_line(model)}\n{aligned(rows)}{what} would stop the run; "
        f"{counted(warnings, 'warning')}\n"
        f"To run it, or to change its values:\n\n    {to_paste}\n" + f"\n{noted}" * bool(notes)
    )


def _document(model: str, diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": model,
        "ok": diagnosis.sound,
        "checks": [dataclasses.asdict(check) for check in diagnosis.checks],
        "memory": {
            name: {
                **dataclasses.asdict(memory),
                "beyond_base": memory.beyond,
                "peak": memory.peak,
            }
            for name, memory in diagnosis.memory.items()
        },
    }
