"""Tables that compare editors over the same records: paired differences, and what they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from editkit.benchmark.aggregate import SUMMARY, Difference, corrected, paired_differences
from editkit.data_types import Score
from editkit.report.lines import (
    Result,
    key_entries,
    key_heads,
    notes_on_intervals,
    scores_by_head,
)
from editkit.report.tables import Entry, Line, Table, score_entry

__all__ = ["Compared", "compare", "differences_table", "effects_table", "matrix_table"]

_SIGNIFICANT = "significant: a paired permutation test gives p < 0.05 after Holm's correction"
_NONE = "0 (none)"
_ALL_HIGHER, _ALL_LOWER = "all higher", "all lower"
_MOST_RECORDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Compared:
    """A result minus its reference, by score."""

    result: Result
    reference: Result
    scores: Mapping[str, Difference]


def compare(
    results: Sequence[Result], references: Mapping[int, Result], scores: Sequence[Score]
) -> list[Compared]:
    """All comparisons; p-values are corrected for those of one regime and checkpoint.

    Args:
        results: The results of a run.
        references: What a result is compared with, by its place.
        scores: The scores to compare.
    """
    pairs = [(results[i], other) for i, other in references.items()]
    lines = [
        paired_differences(result.state.facts, other.state.facts, scores) for result, other in pairs
    ]
    families: dict[tuple[str, int], list[int]] = {}
    for place, (result, _) in enumerate(pairs):
        families.setdefault(result.block, []).append(place)
    for places in families.values():
        for place, line in zip(places, corrected([lines[i] for i in places]), strict=True):
            lines[place] = line
    return [Compared(*pair, line) for pair, line in zip(pairs, lines, strict=True)]


def differences_table(
    comparisons: Sequence[Compared],
    columns: Sequence[Score],
    results: Sequence[Result],
    every: Sequence[Score],
    *,
    by_paper: bool,
) -> Table:
    """Each result minus the reference, over the records that both have.

    Args:
        comparisons: The comparisons.
        columns: The scores to print.
        results: All results of the run.
        every: All scores of the run.
        by_paper: Whether intervals have the papers' formula.
    """
    keys = key_heads(results, "minus")
    lines = [
        Line(
            (
                *_first(each, keys),
                *(_difference(score, each.scores.get(score.key), by_paper) for score in columns),
            )
        )
        for each in comparisons
    ]
    names = _references(comparisons)
    minus = names[0] if len(names) == 1 else "the one under 'minus'"
    within = ", in the same regime and at the same checkpoint" if len(keys) > 1 else ""
    return Table(
        name="differences",
        title=f"Paired differences{_to(comparisons)}",
        head=(*keys, *(score.label for score in columns)),
        lines=tuple(lines) if columns else (),
        scores=scores_by_head(columns, every),
        bold=_SIGNIFICANT,
        notes=(
            f"Each editor minus {minus}, over the records that both have{within}. Intervals are "
            "not corrected; that of S comes from a paired bootstrap.",
            *_family(comparisons, keys),
            *notes_on_intervals(lines),
        ),
        keys=len(keys),
    )


def effects_table(
    comparisons: Sequence[Compared],
    columns: Sequence[Score],
    results: Sequence[Result],
    every: Sequence[Score],
) -> Table:
    """The effect size of each difference, and the number of records that would separate the two.

    Arguments as for :func:`differences_table`.
    """
    keys = key_heads(results, "minus")
    lines = [
        Line(
            (
                *_first(each, keys),
                *(_effect(each.scores.get(score.key)) for score in columns),
            )
        )
        for each in comparisons
    ]
    units = "records" if len(keys) == 1 else "records (models, where facts share them)"
    shown = any(entry.text != "-" for line in lines for entry in line.entries[len(keys) :])
    return Table(
        name="effects",
        title=f"Effect sizes{_to(comparisons)}, and {units} needed",
        head=(*keys, *(score.label for score in columns)),
        lines=tuple(lines) if shown else (),
        scores=scores_by_head(columns, every),
        bold="already separated by the records of this run (corrected p < 0.05)",
        notes=(
            "d_z: the mean difference in standard deviations of the records' differences. In "
            f"parentheses: {units} with which the test would find this difference with a "
            "probability of 80%, at 0.05 divided by the number of comparisons.",
            *_legend(lines),
            *_larger_than_run(comparisons, columns),
        ),
        keys=len(keys),
    )


def matrix_table(results: Sequence[Result], scores: Sequence[Score], *, shown: bool) -> Table:
    """The summary score of each series minus that of each other series of its regime.

    Args:
        results: The last result of each series.
        scores: The scores of the run.
        shown: False for a table without lines.
    """
    pairs = [
        (i, j)
        for i, one in enumerate(results)
        for j, other in enumerate(results)
        if i < j and one.block == other.block and shown
    ]
    summarised = [score for score in scores if score.summary]
    there = {
        (i, j): minus[SUMMARY.key]
        for i, j in pairs
        for minus in [
            paired_differences(results[i].state.facts, results[j].state.facts, summarised)
        ]
        if SUMMARY.key in minus
    }
    families: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for i, j in there:
        families.setdefault(results[i].block, []).append((i, j))
    differences: dict[tuple[int, int], Difference] = {}
    for own in families.values():
        lines = corrected([{SUMMARY.key: there[pair]} for pair in own])
        for (i, j), line in zip(own, lines, strict=True):
            difference = line[SUMMARY.key]
            differences |= {(i, j): difference, (j, i): _turned(difference)}
    lines_shown = [
        Line(
            (
                Entry(result.name, series=result.name),
                *(
                    _difference(SUMMARY, differences[i, j], False)
                    if (i, j) in differences
                    else Entry("")
                    for j in range(len(results))
                ),
            )
        )
        for i, result in enumerate(results)
    ]
    return Table(
        name="matrix",
        title="Paired differences of S",
        head=("minus →", *(result.name for result in results)),
        lines=tuple(lines_shown) if shown else (),
        bold=f"{_SIGNIFICANT} for all pairs",
        notes=(
            "S of the row's editor minus S of the column's, over the records that both have.",
            *notes_on_intervals(lines_shown),
        ),
    )


def _legend(lines: Sequence[Line]) -> tuple[str, ...]:
    texts = {entry.text for line in lines for entry in line.entries[1:]}
    meanings = {
        _NONE: "the means are equal on these records, so no number of them separates the two",
        "-": "fewer than five",
    }
    shown = [f"{text}: {meaning}." for text, meaning in meanings.items() if text in texts]
    if any(text.startswith((f"{_ALL_HIGHER} (", f"{_ALL_LOWER} (")) for text in texts):
        shown.append(
            f"{_ALL_HIGHER}, {_ALL_LOWER}: by the same amount everywhere, so d_z has no bound."
        )
    return (" ".join(shown),) if shown else ()


def _larger_than_run(comparisons: Sequence[Compared], columns: Sequence[Score]) -> tuple[str, ...]:
    """How a significant difference can need more records than the run has, if one does."""
    for each in comparisons:
        for score in columns:
            difference = each.scores.get(score.key)
            if difference is None or difference.needed is None or not difference.is_significant:
                continue
            if difference.needed > min(difference.n, each.result.state.facts.n_models):
                return (
                    "Where a separated difference needs more than this run has, another run of "
                    "this size would find it with a probability below 80%.",
                )
    return ()


def _turned(difference: Difference) -> Difference:
    """The same comparison with the editors exchanged."""
    low, high = difference.ci_low, difference.ci_high
    return dataclasses.replace(
        difference,
        mean=-difference.mean,
        ci_low=None if high is None else -high,
        ci_high=None if low is None else -low,
    )


def _first(each: Compared, keys: Sequence[str]) -> list[Entry]:
    if len(keys) == 1:
        return key_entries(each.result, keys)
    return [
        *key_entries(each.result, keys[:-1]),
        Entry(each.reference.label, series=each.reference.name),
    ]


def _references(comparisons: Sequence[Compared]) -> list[str]:
    return list(dict.fromkeys(each.reference.label for each in comparisons))


def _to(comparisons: Sequence[Compared]) -> str:
    names = _references(comparisons)
    return f" to {names[0]}" if len(names) == 1 else ""


def _family(comparisons: Sequence[Compared], keys: Sequence[str]) -> tuple[str, ...]:
    blocks = [each.result.block for each in comparisons]
    sizes = sorted({blocks.count(block) for block in blocks})
    if not sizes:
        return ()
    count = " or ".join(map(str, sizes))
    family = f"the {count} comparisons of a column" if sizes != [1] else "one comparison a column"
    within = " in a regime at a checkpoint" if len(keys) > 1 else ""
    return (f"Holm's correction is for {family}{within}.",)


def _difference(score: Score, difference: Difference | None, by_paper: bool) -> Entry:
    if difference is None:
        return Entry("-")
    level = min(max(0.5 + difference.mean / 2, 0.0), 1.0)
    shown = difference.by_paper if by_paper else difference
    entry = score_entry(score, shown, signed=True, bold=difference.is_significant)
    return dataclasses.replace(entry, level=level)


def _effect(difference: Difference | None) -> Entry:
    if difference is None or difference.p is None:
        return Entry("-")
    if difference.needed is None:
        return Entry(_NONE)
    needed = f"{difference.needed:,}" if difference.needed <= _MOST_RECORDS else ">1,000,000"
    unbounded = _ALL_HIGHER if difference.mean > 0 else _ALL_LOWER
    effect = unbounded if difference.effect is None else f"{difference.effect:+.2f}"
    return Entry(f"{effect} ({needed})", bold=difference.is_significant)
