"""Run an experiment: a benchmark over a sweep of settings, then figures. Without NAME, list all.

Every setting is a line of the table, kept as those of run-benchmark: interrupted at any time, the
same command goes on. Figures are written to OUT/figures as PNG and SVG, and shown in MLflow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from editkit.benchmark.auto_layer import choose_layers
from editkit.benchmark.overrides import Flags, apply_flags
from editkit.benchmark.plan import make_plan
from editkit.benchmark.published import published_for
from editkit.benchmark.report import run_table, sections_of
from editkit.benchmark.run import Run
from editkit.benchmark.session import carry_out, fingerprint_of, n_layers_of
from editkit.cli.signals import terminable
from editkit.cli.text import aligned
from editkit.errors import TrackingError
from editkit.plugins import default_registry
from editkit_benchmarks.experiments.spec import Experiment, known_experiments, load_experiment

EXIT_FAILED_RECORDS = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME|FILE", help="the experiment; all are listed without it")
    add("--model", metavar="M", help="another model; the file says what changes with it")
    add("--dataset", metavar="D", help="another dataset")
    add("--limit", type=int, metavar="N", help="use only the first N records")
    add("--set", action="append", default=[], dest="sets", metavar="a.b=v", help="set one value")
    add("--out", type=Path, metavar="DIR", help="editkit-results/NAME by default")
    add("--no-mlflow", action="store_true", help="tell no tracking service")
    add("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Carry out the experiment, print its table and write its figures."""
    if args.name is None:
        rows = [(name, experiment.summary) for name, experiment in known_experiments().items()]
        sys.stdout.write(aligned([("experiment", "what it shows"), *rows]))
        return 0
    registry = default_registry()
    experiment = load_experiment(args.name).on(args.model)
    out = args.out or Path("editkit-results") / experiment.name
    flags = Flags(dataset=args.dataset, limit=args.limit, sets=args.sets)
    benchmark, values = apply_flags(experiment.to_benchmark(n_layers_of), flags)
    benchmark, values, _ = choose_layers(benchmark, values, registry)
    plan = make_plan(
        benchmark,
        registry,
        place=f"experiment {experiment.name}",
        values=values,
        fingerprint_of=fingerprint_of,
        n_layers_of=n_layers_of,
    )
    with terminable():
        finished = carry_out(plan, out, registry, tracking=not args.no_mlflow, quiet=args.quiet)
    cells = finished.document()["cells"]
    sys.stdout.write(run_table(finished.run, cells, terminal=sys.stdout.isatty()))
    files = _draw(experiment, finished.run)
    sys.stdout.write("".join(f"{file}\n" for file in files))
    if files and not args.no_mlflow:
        from editkit_plugins.mlflow_tracking.figures import show_figures

        show_figures(finished.run, experiment.name, files)
    sys.stdout.write(f"Tables and a page: editkit report {out}\n")
    for error in finished.tracking_errors:
        sys.stderr.write(f"error: {error}\n")
    if finished.tracking_errors:
        return TrackingError.exit_code
    return EXIT_FAILED_RECORDS if finished.failures() else 0


def _draw(experiment: Experiment, run: Run) -> list[Path]:
    from editkit_benchmarks.experiments.figures import draw, save

    [section] = sections_of([run], [published_for(run, default_registry())])
    files = []
    for spec in experiment.figures:
        figure = draw(spec, section, experiment.names())
        files += save(figure, run.out / "figures", spec.name)
    return files
