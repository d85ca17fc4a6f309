"""Score all settings of an editor's grid on atlas or SmolLM2, and print them, best first.

Settings are scored on the train split, which shares no subjects with the records that results are
reported on. The settings with the best summary score are in ``configs/*/atlas.yaml`` and
``configs/*/smollm2.yaml``. Editors for many facts are swept with ``--joint N``: each group of N
facts is written by one delta.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from editkit import (
    EditedModels,
    LanguageModel,
    Record,
    load_model,
    make_dataset,
    make_editor,
    make_metric,
)
from editkit.benchmark.aggregate import SUMMARY, harmonic_mean

Grid = Mapping[str, Sequence[Any]]


def _ultraedit(first: int, last: int) -> list[dict[str, Any]]:
    """Output projections of consecutive blocks, as the editor's field ``modules``."""
    return [{"part": "out", "first": first, "last": last}]


GRIDS: Mapping[str, Mapping[str, Grid]] = {
    "atlas": {
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
        "memit": {
            "layers": [[0], [0, 1], [0, 1, 2]],
            "weight": [1, 10, 100],
            "clamp": [0.75, 4.0],
        },
        "alphaedit": {
            "layers": [[0], [0, 1]],
            "threshold": [0.1, 0.3, 1.0, 3.0],
            "identity_weight": [0.1, 1.0],
        },
        "ultraedit": {
            "modules": [_ultraedit(0, 5), _ultraedit(1, 4), _ultraedit(2, 5), _ultraedit(3, 5)],
            "lr": [3e-4, 6e-4, 1e-3, 2e-3],
        },
        "lora": {
            "parts": [["mlp_out"], ["mlp_in", "mlp_out"], ["qkv"]],
            "rank": [8, 32],
            "lr": [1e-3, 2e-3, 5e-3],
        },
        "ft-all": {"lr": [5e-5, 1e-4, 2e-4, 5e-4], "stop_loss": [0.1, 0.4]},
    },
    "smollm2": {
        "rome": {"layer": [1, 3, 5, 8]},
        "ft": {"layer": [0, 5, 20], "lr": [2e-4, 5e-4]},
        "ft+l": {"lr": [2e-3], "max_change": [5e-3, 1e-2, 2e-2]},
        "attnedit": {"layer": [5, 20], "lr": [2e-3], "max_change": [1e-2, 3e-2]},
        "kn": {"threshold": [0.1, 0.2, 0.4]},
        "ultraedit": {
            "modules": [_ultraedit(10, 19), _ultraedit(19, 27), _ultraedit(10, 28)],
            "lr": [1e-4, 3e-4, 1e-3],
        },
        "lora": {"lr": [5e-4, 1e-3, 2e-3]},
        "ft-all": {"lr": [1e-5, 3e-5, 1e-4]},
        "memit": {
            "layers": [[3], [1, 2, 3]],
            "weight": [10, 100, 1000],
            "clamp": [0.75, 4.0],
        },
        "alphaedit": {
            "layers": [[3], [1, 2, 3]],
            "threshold": [0.3, 1.0],
            "identity_weight": [0.1, 1.0],
        },
    },
}
"""Values of each editor's fields by model; all combinations are tried, other fields have the
values that the model's file or the preset gives them."""

JOINT = ("memit", "alphaedit", "ultraedit", "lora", "ft-all")
"""Editors that are swept with ``--joint``."""

METRICS = ("efficacy", "paraphrase", "neighborhood", "same-subject")
COLUMNS = {"ES": "efficacy/score", "PS": "paraphrase/score", "NS": "neighborhood/score"}


def settings(grid: Grid) -> Iterator[dict[str, Any]]:
    """All combinations of a grid."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def score(
    model: LanguageModel,
    editor_name: str,
    values: Mapping[str, Any],
    records: Sequence[Record],
    *,
    joint: int | None = None,
) -> dict[str, float]:
    """Mean scores of one setting, their harmonic mean S, and seconds per fact.

    Args:
        model: The model.
        editor_name: Name of the editor.
        values: The setting.
        records: What is edited and scored.
        joint: Facts per delta; None: each fact has its own.
    """
    editor = make_editor(editor_name, model, **values)
    editor.prepare(model)
    requests = [record.request for record in records]
    start = time.perf_counter()
    if joint is None:
        deltas = editor.edit(model, requests)
    else:
        groups = [requests[i : i + joint] for i in range(0, len(requests), joint)]
        deltas = [
            delta for group in groups for delta in [editor.edit_jointly(model, group)] * len(group)
        ]
    seconds = (time.perf_counter() - start) / len(records)
    models = EditedModels(model, deltas)
    columns: dict[str, list[float]] = {}
    for name in METRICS:
        for row in make_metric(name).score(models, records):
            for key, value in row.items():
                if isinstance(value, float):
                    columns.setdefault(key, []).append(value)
    means = {key: fmean(columns[key]) for key in sorted(columns)}
    summary = harmonic_mean([means[key] for key in COLUMNS.values()])
    return {SUMMARY.key: summary, **means, "time/edit_s": seconds}


def main() -> int:
    """Run the sweeps."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.sweeps", description=__doc__)
    parser.add_argument("editors", nargs="*", help=f"all, or some of: {' '.join(GRIDS['atlas'])}")
    parser.add_argument("--limit", type=int, default=100, help="train records to score (100)")
    parser.add_argument("--joint", type=int, help="write this many facts with each delta")
    parser.add_argument("--model", default="atlas", choices=GRIDS, help="the model (atlas)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    records = make_dataset(args.model, split="train").load().records[: args.limit]
    grids = GRIDS[args.model]
    editors = args.editors or [name for name in grids if (name in JOINT) == bool(args.joint)]
    for editor in editors:
        if editor not in grids:
            parser.error(f"no sweep for {editor!r}; expected one of {', '.join(grids)}")
        scored = []
        for values in settings(grids[editor]):
            scores = score(model, editor, values, records, joint=args.joint)
            scored.append((values, scores))
            sys.stderr.write(f"{editor} {values}: S {100 * scores[SUMMARY.key]:.1f}\n")
        scored.sort(key=lambda pair: -pair[1][SUMMARY.key])
        for values, scores in scored:
            sys.stdout.write(_line(editor, values, scores, as_json=args.json) + "\n")
    return 0


def _line(
    editor: str, values: Mapping[str, Any], scores: Mapping[str, float], *, as_json: bool
) -> str:
    if as_json:
        return json.dumps({"editor": editor, "config": values, "scores": scores})
    setting = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {str(value).lower()}"
        for name, value in values.items()
    )
    columns = {"S": SUMMARY.key, **COLUMNS}
    numbers = "  ".join(f"{label} {100 * scores[key]:5.1f}" for label, key in columns.items())
    return f"{editor:8} {numbers}  {setting}"


if __name__ == "__main__":
    sys.exit(main())
