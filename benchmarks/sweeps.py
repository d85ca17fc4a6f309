"""``python -m editkit_benchmarks.sweeps``: how the settings for atlas were chosen.

Every setting is scored on records of the train split, whose subjects never appear in the records
that results are reported on. The best by summary score stands in ``configs/*/atlas.yaml``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from editkit import EditedModels, LanguageModel, Record, load_model, make_editor, make_metric
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset

GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "rome": {"layer": [0, 1, 2], "clamp": [4.0, 6.0], "stop_loss": [0.05, 0.3]},
    "ft": {"layer": [0, 1], "lr": [2e-4, 5e-4, 1e-3], "stop_loss": [0.01, 0.2, 0.4]},
    "ft+l": {"max_change": [3e-3, 4e-3, 6e-3, 1e-2], "stop_loss": [0.01, 0.4]},
    "attnedit": {
        "layer": [0, 1, 2, 3, 4],
        "lr": [1e-3, 5e-3],
        "max_change": [3e-3, 1e-2, 3e-2],
        "stop_loss": [0.01],
    },
    "kn": {
        "site": ["pre_activation", "post_activation"],
        "target_space": [False, True],
        "threshold": [0.1, 0.2, 0.4, 0.7],
    },
}
"""Values tried for each editor, all combinations; everything else is at its default."""

METRICS = ("efficacy", "paraphrase", "neighborhood", "same-subject")
SUMMARY = ("efficacy/score", "paraphrase/score", "neighborhood/score")


def settings(editor: str) -> Iterator[dict[str, Any]]:
    """All combinations of an editor's grid."""
    grid = GRIDS[editor]
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def score(
    model: LanguageModel, editor: str, values: Mapping[str, Any], records: Sequence[Record]
) -> dict[str, float]:
    """Mean scores of one setting, their harmonic mean S, and seconds per edit."""
    made = make_editor(editor, model, **values)
    made.prepare(model)
    start = time.perf_counter()
    deltas = made.edit(model, [record.request for record in records])
    seconds = (time.perf_counter() - start) / len(records)
    models = EditedModels(model, deltas)
    means: dict[str, float] = {}
    for name in METRICS:
        rows = make_metric(name).score(models, records)
        for key in {k for row in rows for k, v in row.items() if isinstance(v, float)}:
            column = [row[key] for row in rows if key in row]
            means[key] = sum(column) / len(column)
    parts = [means[key] for key in SUMMARY]
    summary = len(parts) / sum(1 / x for x in parts) if min(parts) > 0 else 0.0
    return {"summary/score": summary, **dict(sorted(means.items())), "time/edit_s": seconds}


def main() -> int:
    """Run a sweep and print its settings, best first."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.sweeps", description=__doc__)
    parser.add_argument("editors", nargs="*", help=f"all, or some of: {' '.join(GRIDS)}")
    parser.add_argument("--limit", type=int, default=100, help="train records to score (100)")
    parser.add_argument("--model", default="atlas", help="the model (atlas)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    records = AtlasDataset(AtlasConfig(split="train")).load().records[: args.limit]
    for editor in args.editors or GRIDS:
        if editor not in GRIDS:
            parser.error(f"no sweep for {editor!r}; there are {', '.join(GRIDS)}")
        found = []
        for values in settings(editor):
            found.append((values, score(model, editor, values, records)))
            _progress(editor, *found[-1])
        found.sort(key=lambda row: -row[1]["summary/score"])
        _print(editor, found, as_json=args.json)
    return 0


def _progress(editor: str, values: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    sys.stderr.write(f"{editor} {dict(values)}: S {100 * scores['summary/score']:.1f}\n")


def _print(
    editor: str, found: Sequence[tuple[dict[str, Any], dict[str, float]]], *, as_json: bool
) -> None:
    columns = {"S": "summary/score", "ES": SUMMARY[0], "PS": SUMMARY[1], "NS": SUMMARY[2]}
    for values, scores in found:
        if as_json:
            line = json.dumps({"editor": editor, "config": values, "scores": scores})
        else:
            setting = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
            numbers = "  ".join(f"{c} {100 * scores[key]:5.1f}" for c, key in columns.items())
            line = f"{editor:8} {numbers}  {setting}"
        sys.stdout.write(line + "\n")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


if __name__ == "__main__":
    sys.exit(main())
