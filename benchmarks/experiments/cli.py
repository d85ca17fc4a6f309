"""Run an experiment: a benchmark over a sweep of settings, then figures. Without NAME, list all.

Every setting is a line of the table, kept as those of run-benchmark, and every traced fact is kept,
too: interrupted at any time, the same command goes on. Figures are written to OUT/figures as PNG
and SVG, and shown in MLflow.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.benchmark.aggregate import SUMMARY
from editkit.benchmark.auto_layer import choose_layers
from editkit.benchmark.inputs import n_layers_of
from editkit.benchmark.observers import publish
from editkit.benchmark.plan import Plan, make_plan
from editkit.benchmark.published import published_for
from editkit.benchmark.runner import Finished, run_plan
from editkit.benchmark.spec import Flags, apply_flags
from editkit.cli.arguments import add_flag, add_flags, parse_sets, split_section
from editkit.cli.signals import terminable
from editkit.data_types import Report
from editkit.errors import ConfigError, TrackingError, did_you_mean
from editkit.registry.plugins import Registry, default_registry
from editkit.report import Section, run_table, sections_of
from editkit.report.terminal import aligned
from editkit.storage.digests import key_of
from editkit.storage.file_names import distinct_file_names, safe_file_name
from editkit.validation import nested_values
from editkit_benchmarks.experiments.spec import Experiment, known_experiments, load_experiment

_log = logging.getLogger("editkit.experiments")

if TYPE_CHECKING:
    from editkit_plugins.tracing.shown import Shown

EXIT_FAILED_RECORDS = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME|FILE", help="experiment to run (default: list all)"
    )
    add_flags(parser, "--model", "--dataset", "--limit", "--set")
    add_flag(
        parser, "--out", default=None, help="folder of results (default: editkit-results/NAME)"
    )
    add_flags(parser, "--no-mlflow", "--quiet")


def run(args: argparse.Namespace) -> int:
    """Carry out the experiment, print its table and write its figures."""
    if args.name is None:
        rows = [(name, experiment.summary) for name, experiment in known_experiments().items()]
        sys.stdout.write(aligned([("experiment", "what it shows"), *rows]))
        return 0
    registry = default_registry()
    sets, tracing_sets = split_section(parse_sets(args.sets), "tracing")
    tracing_values = nested_values(tracing_sets, place="--set tracing.")
    experiment = load_experiment(args.name).on(args.model).tracing_with(tracing_values)
    out = args.out or Path("editkit-results") / experiment.name
    flags = Flags(dataset=args.dataset, limit=args.limit, sets=sets)
    _check_scores(experiment, registry)
    benchmark, values = apply_flags(experiment.to_benchmark(n_layers_of), flags)
    plan: Plan | None = None
    finished: Finished | None = None
    traced: list[Shown] = []
    with terminable():
        if experiment.edits:
            benchmark, values, _ = choose_layers(benchmark, values, registry)
            place = f"experiment {experiment.name}"
            plan = make_plan(benchmark, registry, place=place, values=values)
            for refused in plan.refused:
                _log.warning("%s", refused)
            for report in (*plan.matched, *plan.rules):
                _log.info("%s", report)
            if experiment.tracing is not None:
                from editkit_benchmarks.experiments.tracing import edited_cells

                edited_cells(experiment.tracing, plan)  # a wrong name is told before any work
            tracking = not args.no_mlflow
            finished = run_plan(plan, out, registry, tracking=tracking, quiet=args.quiet)
        if experiment.tracing is not None:
            from editkit_benchmarks.experiments.tracing import trace_all

            traced = trace_all(experiment.tracing, benchmark, values, plan, out, quiet=args.quiet)
    if finished is not None:
        cells = finished.document()["cells"]
        sys.stdout.write(run_table(finished.run, cells, terminal=sys.stdout.isatty()))
    told = _show(experiment, finished, traced, out, tracking=not args.no_mlflow)
    if finished is not None:
        sys.stdout.write(f"Tables and a page: editkit report {out}\n")
    if not told:
        return TrackingError.exit_code
    return EXIT_FAILED_RECORDS if finished and finished.failures() else 0


def _check_scores(experiment: Experiment, registry: Registry) -> None:
    """Refuse figures of scores that no installed metric has."""
    specs: list[Any] = [offer.spec for offer in registry.offers("metric")]
    known = [SUMMARY.key, *(score.key for spec in specs for score in spec.scores)]
    for figure in experiment.figures:
        for key in figure.scores:
            if key not in known:
                raise ConfigError(
                    f"figure {figure.name!r} shows {key!r}, a score that no metric has.",
                    hint=did_you_mean(key, known) or "'editkit describe METRIC' lists scores.",
                )


def _show(
    experiment: Experiment,
    finished: Finished | None,
    traced: Sequence[Shown],
    out: Path,
    *,
    tracking: bool,
) -> bool:
    """Print, draw and track what was found; whether tracking services could be told."""
    folder = out / "figures"
    told = True
    for shown, name in zip(traced, _names_of(experiment, traced), strict=True):
        files = shown.save(folder, name)
        sys.stdout.write(f"{shown.title}: {shown.note}\n")
        sys.stdout.write("".join(f"{file}\n" for file in files))
        told = (not tracking or shown.tell(out, files)) and told
    files = _draw(experiment, finished, traced, folder)
    sys.stdout.write("".join(f"{file}\n" for file in files))
    if finished is None:
        return (not tracking or _tell(experiment.name, traced, out, files)) and told
    if files and tracking:
        from editkit_plugins.mlflow_tracking.reports import log_figures

        log_figures(finished.run, experiment.name, files)
    for error in finished.tracking_errors:
        sys.stderr.write(f"error: {error}\n")
    return told and not finished.tracking_errors


def _names_of(experiment: Experiment, traced: Sequence[Shown]) -> list[str]:
    """What the files of each average are called: apart from each other and from the figures."""
    figures = {figure.name.casefold() for figure in experiment.figures}
    texts = [f"{experiment.name} {shown.setting}".strip() for shown in traced]
    names = []
    for shown, text, name in zip(traced, texts, distinct_file_names(texts), strict=True):
        files = {f"{name}-{suffix}".casefold() for suffix in ("maps", "lines", *shown.study.kinds)}
        names.append(safe_file_name(text, identity=["traces"]) if files & figures else name)
    return names


def _tell(name: str, traced: Sequence[Shown], out: Path, files: Sequence[Path]) -> bool:
    """Show figures of several averages beside these; whether tracking services could be told."""
    if not files:
        return True
    last = max(shown.study.finished for shown in traced)
    report = Report(
        out=out,
        kind="traces",
        name=f"figures · {name}",
        fingerprint=key_of({"name": name, "of": [shown.study.fingerprint for shown in traced]}),
        started=last,
        finished=last,
        tags={"model": traced[0].model, "locator": traced[0].locator},
        files={f"figures/{file.name}": file for file in files},
    )
    return "failed" not in publish(report)


def _draw(
    experiment: Experiment, finished: Finished | None, traced: Sequence[Shown], folder: Path
) -> list[Path]:
    from editkit_benchmarks.experiments.effects import draw_effects, draw_effects_and_score
    from editkit_benchmarks.experiments.figures import draw
    from editkit_plugins.tracing.shown import save_figures

    section: Section | None = None
    if finished is not None:
        [section] = sections_of([finished.run], [published_for(finished.run, default_registry())])
    files = []
    for spec in experiment.figures:
        if spec.kind == "effects":
            figure = draw_effects(spec, traced)
        elif section is None:  # the file was refused where a figure needs what is not made
            raise AssertionError(spec.name)
        elif spec.kind == "effects-and-score":
            figure = draw_effects_and_score(spec, traced, section)
        else:
            figure = draw(spec, section, experiment.names())
        files += save_figures({spec.name: figure}, folder)
    return files
