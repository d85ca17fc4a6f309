"""What ``--editor`` and ``--metrics`` leave of an experiment, and what they add."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from editkit import UsageError
from editkit.benchmark.aggregate import SUMMARY
from editkit.benchmark.spec import edits_as_data
from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE
from editkit_benchmarks.experiments.spec import NOTE, Experiment, FigureSpec, Sweep

__all__ = ["check_flags", "with_editors", "with_scores"]


def check_flags(experiment: Experiment, *, editors: bool, metrics: bool, dataset: bool) -> None:
    """Refuse flags that cannot apply to an experiment.

    Args:
        experiment: The experiment.
        editors: Whether ``--editor`` is given.
        metrics: Whether ``--metrics`` is given.
        dataset: Whether ``--dataset`` is given.

    Raises:
        UsageError: It edits nothing, or reads no dataset.
    """
    if experiment.edits:
        return
    flags = [flag for flag, given in (("--editor", editors), ("--metrics", metrics)) if given]
    if flags:
        raise UsageError(
            f"{' and '.join(flags)}: experiment {experiment.name} traces facts and edits nothing.",
            hint="Leave it out, or run an experiment with edits, such as knowing-vs-saying.",
        )
    facts = experiment.tracing.facts if experiment.tracing is not None else None
    if dataset and facts is not None:
        raise UsageError(
            f"--dataset: experiment {experiment.name} traces the facts of {facts} on this model.",
            hint="Choose others with --set tracing.facts=FILE, or --set tracing.facts=null for "
            "those of the dataset.",
        )


def with_editors(
    experiment: Experiment, names: Sequence[str], fields_of: Callable[[str], Collection[str]]
) -> tuple[Experiment, list[str]]:
    """The experiment with these editors only, and notes for the log.

    Editors of the experiment keep their settings. Another editor is swept over the first grid that
    it has all fields of; without such a grid, it has one setting. Facts reach its models as they do
    in the first sweep, if the benchmark has no regimes.

    Args:
        experiment: The experiment.
        names: Names of editors; none changes nothing.
        fields_of: The fields of an editor's configuration.
    """
    if not names:
        return experiment, []
    benchmark = experiment.benchmark
    own = list(benchmark.get("editors", []))
    known = {_name_of(choice) for choice in own} | {sweep.editor for sweep in experiment.sweep}
    editors = [choice for choice in own if _name_of(choice) in names]
    sweeps = [sweep for sweep in experiment.sweep if sweep.editor in names]
    notes = []
    for name in dict.fromkeys(names):
        if name in known:
            continue
        fits = [s for s in experiment.sweep if s.grid and {*s.grid} <= {*fields_of(name)}]
        if fits and name != BASELINE:
            sweep = fits[0]
            sweeps.append(Sweep(editor=name, grid=sweep.grid, edits=sweep.edits, seeds=sweep.seeds))
            notes.append(f"{name} is swept over the {' and '.join(sweep.grid)} of {sweep.editor}")
            continue
        choice: dict[str, Any] = {"name": name}
        of_sweep = edits_as_data(experiment.sweep[0].edits) if experiment.sweep else None
        if of_sweep is not None and "edits" not in benchmark and name != BASELINE:
            choice["edits"] = of_sweep
        editors.append(choice)
        if experiment.sweep and name != BASELINE:
            missing = sorted({*experiment.sweep[0].grid} - {*fields_of(name)})
            reason = f": it has no {' and no '.join(missing)}" if missing else ""
            notes.append(f"{name} has one setting{reason}")
    changes: dict[str, Any] = {
        "benchmark": {**benchmark, "editors": editors},
        "sweep": tuple(sweeps),
    }
    if experiment.tracing is not None and experiment.tracing.after:
        after = tuple(name for name in dict.fromkeys(names) if name != BASELINE)
        changes["tracing"] = experiment.tracing.model_copy(update={"after": after})
    return experiment.model_copy(update=changes), notes


def with_scores(
    experiment: Experiment, scores: Sequence[Score], model_scores: Sequence[Score]
) -> tuple[Experiment, list[str]]:
    """The experiment without figures, panels and tables of scores that the run lacks, and warnings.

    Args:
        experiment: The experiment.
        scores: The scores of its metrics of records.
        model_scores: The scores of its metrics of models.
    """
    keys = {score.key for score in (*scores, *model_scores)}
    if any(score.summary for score in scores):
        keys.add(SUMMARY.key)

    def has(key: str) -> bool:
        return key in keys or key.startswith(NOTE)

    warnings, figures = [], list[FigureSpec]()
    for figure in experiment.figures:
        shown = tuple(key for key in figure.scores if has(key))
        lacks = ", ".join(key for key in figure.scores if not has(key))
        if figure.scores and not shown:
            warnings.append(f"figure {figure.name} is left out: no metric of this run has {lacks}")
        else:
            figures.append(figure.model_copy(update={"scores": shown}))
            if lacks:
                warnings.append(f"figure {figure.name} has no panel for {lacks}: not scored here")
    tables = [table for table in experiment.tables if has(table.score)]
    warnings += [
        f"table {table.name} is left out: no metric of this run has {table.score}"
        for table in experiment.tables
        if table not in tables
    ]
    changes = {"figures": tuple(figures), "tables": tuple(tables)}
    return experiment.model_copy(update=changes), warnings


def _name_of(choice: str | Mapping[str, Any]) -> str:
    return choice if isinstance(choice, str) else str(choice["name"])
