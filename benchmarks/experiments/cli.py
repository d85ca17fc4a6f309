"""Run an experiment: benchmark a sweep, trace facts, draw figures. Without NAME, list all.

Every setting is a row of the table, stored as for run-benchmark; so are traced facts. Run the same
command again to resume after an interruption. Figures are written to OUT/figures as PNG, SVG and
PDF, and logged to MLflow.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.benchmark.aggregate import SUMMARY
from editkit.benchmark.inputs import n_layers_of
from editkit.benchmark.layer_by_locator import choose_layers
from editkit.benchmark.observers import FAILED, publish
from editkit.benchmark.plan import Plan, make_plan
from editkit.benchmark.published import published_for
from editkit.benchmark.runner import Finished, run_plan
from editkit.benchmark.spec import Flags, apply_flags
from editkit.cli.arguments import add_examples, add_flag, add_flags, parse_sets, split_section
from editkit.cli.pools import add_pool_flags, pool_for
from editkit.cli.signals import terminable
from editkit.data_types import Report
from editkit.errors import ConfigError, TrackingError, did_you_mean
from editkit.registry.config import config_class
from editkit.registry.plugins import Registry, default_registry
from editkit.report.sections import Section, sections_of
from editkit.report.tables import Table
from editkit.report.text import run_table, text_table
from editkit.storage.digests import key_of
from editkit.storage.file_names import distinct_file_names, safe_file_name
from editkit.terminal import aligned, wrapped
from editkit.validation import nested_values
from editkit_benchmarks.experiments.limits import within_limit
from editkit_benchmarks.experiments.published import published_table
from editkit_benchmarks.experiments.selection import check_flags, with_editors, with_scores
from editkit_benchmarks.experiments.spec import NOTE, Experiment, known_experiments, load_experiment
from editkit_benchmarks.experiments.tables import table_of, write_csv

_log = logging.getLogger("editkit.experiments")

if TYPE_CHECKING:
    from editkit_benchmarks.experiments.tracing import Traces
    from editkit_plugins.tracing.averages import AverageTrace

EXIT_FAILED_RECORDS = 1
_MOST_WARNINGS = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser,
        "name",
        nargs="?",
        metavar="NAME|FILE",
        complete=lambda: list(known_experiments()),
        help="experiment to run (default: list all)",
    )
    add_flag(
        parser,
        "--editor",
        help="editors of the experiment, or other ones",
        shown_default="those of the experiment",
    )
    add_flag(parser, "--model", shown_default="the experiment's")
    add_flag(parser, "--dataset", shown_default="the experiment's")
    add_flags(parser, "--limit")
    add_flag(
        parser,
        "--metrics",
        help="names of metrics; figures without any of their scores are left out",
        shown_default="those of the experiment",
    )
    add_flags(parser, "--set")
    add_flag(parser, "--out", default=None, shown_default="editkit-results/NAME")
    add_pool_flags(parser)
    add_flags(parser, "--no-mlflow", "--quiet", "--wide")
    add_examples(parser, "editkit run-experiment", "editkit run-experiment layer-token-sweep -n 10")


def run(args: argparse.Namespace) -> int:
    """Run the experiment, print its table and write its figures; the exit code."""
    if args.name is None:
        rows = [(name, experiment.summary) for name, experiment in known_experiments().items()]
        sys.stdout.write(aligned([("experiment", "what it shows"), *rows]))
        return 0
    registry = default_registry()
    sets, tracing_sets = split_section(parse_sets(args.sets), "tracing")
    sets, figure_sets = split_section(sets, "figures")
    tracing_values = nested_values(tracing_sets, place="--set tracing.")
    experiment = load_experiment(args.name).on(args.model)
    _check_scores(experiment, registry)
    check_flags(
        experiment.with_tracing(tracing_values),
        editors=bool(args.editor),
        metrics=bool(args.metrics),
        dataset=args.dataset is not None,
    )
    experiment, notes = with_editors(
        experiment,
        args.editor,
        lambda name: config_class(registry.get("editor", name)).model_fields,
    )
    for note in notes:
        _log.warning("%s", note)
    experiment = experiment.with_tracing(tracing_values).with_figures(figure_sets)
    out = args.out or Path("editkit-results") / experiment.name
    flags = Flags(dataset=args.dataset, limit=args.limit, metrics=args.metrics, sets=sets)
    benchmark, values = apply_flags(experiment.to_benchmark(n_layers_of), flags)
    benchmark, note = within_limit(benchmark)
    if note:
        _log.warning("%s", note)
    pool, model = pool_for(args, benchmark.model)
    benchmark = benchmark.model_copy(update={"model": model})
    plan: Plan | None = None
    finished: Finished | None = None
    traces: Traces | None = None
    with terminable():
        if experiment.edits:
            benchmark, values, _ = choose_layers(benchmark, values, registry, pool)
            place = f"experiment {experiment.name}"
            as_listed = not args.editor  # the papers' editors; some may need training first
            plan = make_plan(benchmark, registry, place=place, values=values, leave_out=as_listed)
            planned = plan.run(out, plan.model_description(), tracking=False)
            experiment, left_out = with_scores(experiment, planned.scores, planned.model_scores)
            for warning in left_out:
                _log.warning("%s", warning)
            for warning in plan.warnings:
                _log.warning("%s", warning)
            for note in plan.notes:
                _log.info("%s", note)
            if experiment.tracing is not None:
                from editkit_benchmarks.experiments.tracing import edited_cells

                edited_cells(experiment.tracing, plan)  # refuses unknown names before any work
            tracking = not args.no_mlflow
            finished = run_plan(plan, out, registry, tracking=tracking, quiet=args.quiet, pool=pool)
        if experiment.tracing is not None:
            from editkit_benchmarks.experiments.tracing import trace_all

            traces = trace_all(
                experiment.tracing, benchmark, values, plan, out, pool=pool, quiet=args.quiet
            )
    if finished is not None:
        cells = finished.document(differences=False)["cells"]
        sys.stdout.write(
            run_table(
                finished.run,
                cells,
                terminal=sys.stdout.isatty(),
                wide=args.wide,
                most_warnings=None if args.wide else _MOST_WARNINGS,
            )
        )
    published = _show(experiment, finished, traces, out, tracking=not args.no_mlflow)
    if finished is not None:
        sys.stdout.write(f"Tables and a page: editkit report {out}\n")
    if not published:
        return TrackingError.exit_code
    return EXIT_FAILED_RECORDS if finished and finished.failures() else 0


def _check_scores(experiment: Experiment, registry: Registry) -> None:
    """Refuse figures and tables of scores that no installed metric reports."""
    kinds: tuple[Any, ...] = ("metric", "model_metric")
    specs: list[Any] = [offer.spec for kind in kinds for offer in registry.offers(kind)]
    known = [SUMMARY.key, *(score.key for spec in specs for score in spec.scores)]
    shown = [(f"figure {each.name!r}", key) for each in experiment.figures for key in each.scores]
    shown += [(f"table {each.name!r}", each.score) for each in experiment.tables]
    for what, key in shown:
        if key not in known and not key.startswith(NOTE):
            raise ConfigError(
                f"{what} shows {key!r}, which no installed metric reports.",
                hint=did_you_mean(key, known) or "'editkit describe METRIC' lists scores.",
            )


def _show(
    experiment: Experiment,
    finished: Finished | None,
    traces: Traces | None,
    out: Path,
    *,
    tracking: bool,
) -> bool:
    """Print, draw and track the results; false if a tracking service fails."""
    averages = traces.averages if traces else ()
    folder = out / "figures"
    published = True
    for average, name in zip(averages, _file_names(experiment, averages), strict=True):
        files = average.save(folder, name)
        sys.stdout.write(f"{average.title}: {average.note}\n")
        sys.stdout.write("".join(f"{file}\n" for file in files))
        published = (not tracking or average.publish(out, files)) and published
    files = _draw(experiment, finished, traces, folder)
    sys.stdout.write("".join(f"{file}\n" for file in files))
    if finished is None:
        return (not tracking or _publish(experiment.name, averages, out, files)) and published
    if files and tracking:
        from editkit_plugins.mlflow_tracking.reports import log_figures

        log_figures(finished.run, experiment.name)
    for error in finished.tracking_errors:
        sys.stderr.write(f"error: {error}\n")
    return published and not finished.tracking_errors


def _file_names(experiment: Experiment, averages: Sequence[AverageTrace]) -> list[str]:
    """What the files of each average start with; none clashes with another's or with a figure."""
    figures = {figure.name.casefold() for figure in experiment.figures}
    texts = [f"{experiment.name} {average.setting}".strip() for average in averages]
    names = []
    for average, text, name in zip(averages, texts, distinct_file_names(texts), strict=True):
        files = {f"{name}-{suffix}".casefold() for suffix in ("maps", "lines", *average.effects)}
        names.append(safe_file_name(text, identity=["traces"]) if files & figures else name)
    return names


def _publish(name: str, averages: Sequence[AverageTrace], out: Path, files: Sequence[Path]) -> bool:
    """Send figures over several averages to tracking services; false if one of them fails."""
    if not files:
        return True
    last = max(average.finished for average in averages)
    report = Report(
        out=out,
        kind="traces",
        name=f"figures · {name}",
        fingerprint=key_of({"name": name, "of": [average.fingerprint for average in averages]}),
        started=last,
        finished=last,
        tags={"model": averages[0].model, "locator": averages[0].locator},
        files={f"figures/{file.name}": file for file in files},
        note=f"Figures of **{name}** over these averages: "
        + ", ".join(average.title for average in averages),
    )
    return FAILED not in publish(report)


def _draw(
    experiment: Experiment,
    finished: Finished | None,
    traces: Traces | None,
    folder: Path,
) -> list[Path]:
    """Print the tables and write the figures; the files."""
    from editkit.figures import save_figures
    from editkit_benchmarks.experiments.edit_figures import (
        draw_edits,
        draw_ranked,
        draw_retention,
        draw_steps,
    )
    from editkit_benchmarks.experiments.figures import draw_effects_and_score, draw_traces
    from editkit_benchmarks.experiments.score_figures import draw_scores

    section: Section | None = None
    if finished is not None:
        [section] = sections_of([finished.run], [published_for(finished.run, default_registry())])
    names = experiment.names()
    files = []
    for table in _tables(experiment, section):
        if table.lines:
            rows = text_table(table, terminal=sys.stdout.isatty())
            notes = "".join(map(wrapped, table.notes))
            sys.stdout.write(f"\n{table.title}\n{rows}{notes}")
            files.append(write_csv(table, folder))
    draw = {
        "edits": draw_edits,
        "retention": draw_retention,
        "steps": draw_steps,
        "ranked": draw_ranked,
    }
    for spec in experiment.figures:
        if spec.kind == "fact-maps" and traces is not None and not traces.examples:
            continue  # none could be traced, as warnings say
        if spec.shows_traces_only and traces is not None:
            figure = draw_traces(spec, traces)
        elif section is None:  # load_experiment refuses such a file
            raise AssertionError(spec.name)
        elif spec.kind == "effects-and-score" and traces is not None:
            figure = draw_effects_and_score(spec, traces.averages, section)
        elif spec.kind in draw:
            figure = draw[spec.kind](spec, section, names)
        else:
            figure = draw_scores(spec, section, names, experiment.published)
        files += save_figures({spec.name: figure}, folder)
    return files


def _tables(experiment: Experiment, section: Section | None) -> Iterator[Table]:
    """The published numbers beside ours, then the tables of the experiment file."""
    if section is None:  # nothing is edited: load_experiment refuses a file with such tables
        return
    names = experiment.names()
    yield published_table(f"{experiment.name}-published", experiment.published, section, names)
    for spec in experiment.tables:
        yield table_of(spec, section, names)
