"""Small versions of an experiment: with fewer records, models get fewer facts."""

from __future__ import annotations

from collections.abc import Iterable

from editkit.benchmark.spec import Benchmark
from editkit.regimes import Regime

__all__ = ["within_limit"]


def within_limit(benchmark: Benchmark) -> tuple[Benchmark, str]:
    """The benchmark with regimes of at most ``limit`` facts per model, and a note about changes.

    Longer joint edits and sequences are cut. Of regimes that are then equal but for their number of
    models, the first is kept. The note is empty if nothing changes.
    """
    limit = benchmark.limit
    if limit is None or all(regime.facts <= limit for regime in benchmark.regimes):
        return benchmark, ""
    longest = max(regime.facts for regime in benchmark.regimes)
    editors = tuple(
        editor.model_copy(update={"edits": _cut(editor.edits, limit) if editor.edits else None})
        for editor in benchmark.editors
    )
    changes = {"edits": _cut(benchmark.edits, limit), "editors": editors}
    note = f"models get at most {limit} facts instead of {longest}, because limit is {limit}"
    return benchmark.model_copy(update=changes), note


def _cut(regimes: Iterable[Regime], limit: int) -> tuple[Regime, ...]:
    cut: dict[tuple[str, int, int], Regime] = {}
    for regime in regimes:
        if regime.facts > limit and regime.kind == "joint":
            regime = Regime.joint(limit, groups=regime.groups)
        elif regime.facts > limit:
            marks = [mark for mark in regime.checkpoints if mark < limit]
            step = min(regime.step, limit)
            regime = Regime.sequential(limit, step=step, checkpoints=marks, groups=regime.groups)
        cut.setdefault((regime.kind, regime.facts, regime.step), regime)
    return tuple(cut.values())
