"""Draw the picture of the README: a fact located, edited, and editors compared.

Traces and edits one fact of the embedded model, and reads the scores of the default benchmark from
an output folder (``editkit run-benchmark``). Writes overview.png, .svg and .pdf.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import editkit
from editkit.benchmark.aggregate import SUMMARY, metrics_of
from editkit.benchmark.samples import series_of
from editkit.errors import EditkitError, StoreError
from editkit.figures import NotebookFigure, save_figures
from editkit.palette import COLORS, GREY
from editkit.registry.styles import styles_of
from editkit.tracing.plots import draw_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from editkit.benchmark.intervals import Estimate

PROMPT, SUBJECT, OLD, NEW = "The capital of Kenya is", "Kenya", "Nairobi", "Paris"
_ASKED = {"edit": 1, "wording": 3, "subject": 3, "neighbor": 3}
"""How many checks of each role are shown, from top to bottom."""

_EDITED = COLORS["vermilion"]
_LONGEST = 46  # characters of a prompt


def main(arguments: list[str] | None = None) -> int:
    """Draw the picture, and print where it is."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.overview", description=__doc__)
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("editkit-results"), help="output folder"
    )
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the picture")
    args = parser.parse_args(arguments)
    try:
        scores = summary_scores(args.results)
        figure = overview(scores)
    except EditkitError as error:
        sys.stderr.write(f"error: {error.message}\n  hint: {error.hint}\n")
        return error.exit_code
    for file in save_figures({"overview": figure}, args.out):
        sys.stdout.write(f"{file}\n")
    return 0


def summary_scores(results: Path) -> dict[str, Estimate]:
    """S of every editor of the benchmark ``atlas``.

    Raises:
        StoreError: The folder has no results of that benchmark.
    """
    for run in editkit.runs_in(results):
        if run.benchmark == "atlas":
            return {
                each.editor: metrics_of(each.last, run.scores)[SUMMARY.key]
                for each in series_of(run)
            }
    raise StoreError(
        f"{results} has no results of the benchmark 'atlas'.", hint="Run 'editkit run-benchmark'."
    )


def overview(scores: Mapping[str, Estimate]) -> NotebookFigure:
    """Three panels: the trace of the fact, its answers before and after an edit, the scores."""
    figure = NotebookFigure(
        width=12.5,
        height=3.3,
        title="A fact located, edited, and editors compared",
        description=f"The fact of '{PROMPT} {OLD}' in the embedded model, edited to {NEW} by ROME; "
        "S of the default benchmark with 95% intervals.",
    )
    located, edited, compared = figure.subplots(1, 3, width_ratios=(0.8, 1, 1))
    model = editkit.load_model("atlas")
    trace = editkit.trace(model, PROMPT, subject=SUBJECT)
    [states] = [each for each in trace.heat_maps() if each.kind == "state"]
    draw_map(
        located,
        dataclasses.replace(states, title=""),
        trace.row_labels,
        unit=trace.unit,
        base=trace.maps[0].baselines["corrupted"],
        highest=states.highest,
    )
    located.set_title("1. Where is the fact recalled?", loc="left", fontsize=10)
    located.set_xlabel("restored layer", fontsize=9)
    _answers(edited, editkit.edit(model, PROMPT, subject=SUBJECT, to=NEW))
    _scores(compared, scores)
    return figure


def _answers(panel: Axes, patch: editkit.Patch) -> None:
    """Probability of the new answer before and after; of the old one where it should stay."""
    asked = [
        check
        for role, n in _ASKED.items()
        for check in [each for each in patch.checks if each.question.role == role][:n]
    ]
    labels = []
    for row, check in enumerate(asked):
        before, after = (100 * each.probabilities[0] for each in (check.before, check.after))
        panel.plot((before, after), (row, row), color=GREY, linewidth=1.2, zorder=1)
        panel.scatter(before, row, s=26, facecolor="white", edgecolor=GREY, zorder=2)
        panel.scatter(after, row, s=26, color=_EDITED, zorder=3)
        prompt = check.question.prompt
        shown = prompt if len(prompt) < _LONGEST else f"… {prompt[2 - _LONGEST :]}"
        labels.append(f"{shown} → {check.question.answers[0]}")
    panel.set_yticks(range(len(asked)), labels, fontsize=7)
    panel.invert_yaxis()
    panel.set_xlim(-3, 103)
    panel.set_xlabel("probability of the answer shown, %", fontsize=9)
    panel.set_title("2. Before ○ and after ● the edit", loc="left", fontsize=10)


def _scores(panel: Axes, scores: Mapping[str, Estimate]) -> None:
    """S with its interval, best editor on top."""
    ranked = sorted(scores.items(), key=lambda pair: pair[1].mean)
    styles = styles_of({name: name for name in scores})
    for row, (name, each) in enumerate(ranked):
        low, high = each.interval
        style = styles[name]
        panel.plot((100 * low, 100 * high), (row, row), color=style.color, linewidth=1.6)
        panel.plot(100 * each.mean, row, color=style.color, marker=style.marker, markersize=6)
    panel.set_yticks(range(len(ranked)), [name for name, _ in ranked], fontsize=8)
    panel.set_xlim(-3, 103)
    panel.set_xlabel("S, 100 edits each, 95% intervals", fontsize=9)
    panel.set_title("3. Which editor does this best?", loc="left", fontsize=10)


if __name__ == "__main__":
    sys.exit(main())
