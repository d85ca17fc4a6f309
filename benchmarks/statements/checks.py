"""Ways to try a statement: each gives a verdict and the numbers that it rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from editkit.benchmark.aggregate import Estimate, mean_with_interval
from editkit_benchmarks.statements.results import MissingResultsError, Results, Traces

UNEDITED = "none"
Check = Callable[[Results], "Verdict"]
Chosen = tuple[str, dict[str, Any]]
"""An editor, and values of its configuration; of several cells the best one counts."""

Site = tuple[str, str]
"""A kind of site, and the role of the token that it is at."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a statement holds.

    Attributes:
        holds: None where an interval holds zero: the records do not tell.
        numbers: What the verdict rests on; differences with their 95% intervals.
    """

    holds: bool | None
    numbers: str


def above(key: str, first: Chosen, second: Chosen | None = None) -> Check:
    """One editor's score is larger than another's, paired over records.

    Args:
        key: The score.
        first: The one.
        second: The other; None: the best of all other editors.
    """

    def check(results: Results) -> Verdict:
        ours = _place(results, key, first)
        if second is None:
            cells = enumerate(results.section.run.cells)
            others = [i for i, cell in cells if cell.editor not in (first[0], UNEDITED)]
            theirs = results.best(key, others)
        else:
            theirs = _place(results, key, second)
        return _verdict(results.difference(key, ours, theirs), _told(results, key, ours, theirs))

    return check


def under(key: str, chosen: Chosen, bound: float) -> Check:
    """An editor's mean lies below a bound, given in the score's own unit."""

    def check(results: Results) -> Verdict:
        place = _place(results, key, chosen)
        score, found = results.score(key), results.estimate(key, place)
        low, high = score.scale * found.ci_low, score.scale * found.ci_high
        holds = True if high < bound else False if low > bound else None
        return Verdict(holds, _mean(results, key, place))

    return check


def marked(expected: dict[str, set[str]]) -> Check:
    """Reports mark these clear failures of these editors, and no others of theirs."""

    def check(results: Results) -> Verdict:
        told, right = [], []
        for editor, names in expected.items():
            found = results.failures(_place(results, None, (editor, {})))
            right.append(found == names)
            told.append(f"{editor}: {', '.join(sorted(found)) or 'none'}")
        return Verdict(all(right), "; ".join(told))

    return check


def only_unmarked(editor: str) -> Check:
    """Reports mark no clear failure of this editor, and some of every other one."""

    def check(results: Results) -> Verdict:
        found = {
            cell.editor: results.failures(place)
            for place, cell in enumerate(results.section.run.cells)
            if cell.editor != UNEDITED
        }
        if editor not in found:
            raise MissingResultsError(editor)
        told = [f"{each}: {', '.join(sorted(names)) or 'none'}" for each, names in found.items()]
        free = [each for each, names in found.items() if not names]
        return Verdict(free == [editor], "; ".join(told))

    return check


def all_of(*checks: Check) -> Check:
    """Several checks: all must hold; one that fails is enough to fail."""

    def check(results: Results) -> Verdict:
        found = [each(results) for each in checks]
        return Verdict(
            _joined([each.holds for each in found]), "; ".join(each.numbers for each in found)
        )

    return check


def alike(key: str, editors: Iterable[str], within: float) -> Check:
    """No editor's score is further from the unedited model's than so much, in its own unit."""

    def check(results: Results) -> Verdict:
        unedited, score = _place(results, key, (UNEDITED, {})), results.score(key)
        told, verdicts = [], []
        for editor in editors:
            found = results.difference(key, _place(results, key, (editor, {})), unedited)
            low, high = score.scale * found.ci_low, score.scale * found.ci_high
            outside = low > within or high < -within
            verdicts.append(
                False if outside else True if -within <= low <= high <= within else None
            )
            told.append(f"{editor} {_signed(found, score.scale)}")
        return Verdict(_joined(verdicts), f"{score.label} against unedited: {', '.join(told)}")

    return check


# ---------------------------------------------------------------- traces


def effect_above(
    first: Site, second: Site, *, late: bool = False, same_layer: bool = False
) -> Check:
    """The largest average effect of one kind and role is above that of another, paired over facts.

    Args:
        first: Kind of site, and role of a token.
        second: The other ones.
        late: Only layers of the upper half count.
        same_layer: The other effect is taken at the layer of the first one, and not at its largest.
    """

    def check(results: Results) -> Verdict:
        layers, (ours, theirs, difference) = _peaks(
            results.traces[0], first, second, late=late, same_layer=same_layer
        )
        told = (
            f"{ours:.3f} (layer {layers[0]}) against {theirs:.3f} (layer {layers[1]}), "
            f"{_signed(difference)}"
        )
        return _verdict(difference, f"{_pair(first, second)}: {told}")

    return check


def effect_above_in_all(first: Site, second: Site) -> Check:
    """The same under every setting that was traced; the numbers are the smallest and largest."""

    def check(results: Results) -> Verdict:
        found = [_peaks(traces, first, second)[1][2] for traces in results.traces]
        holds = _joined([_verdict(each, "").holds for each in found])
        ordered = sorted(found, key=lambda each: each.mean)
        ends = f"{_signed(ordered[0])} to {_signed(ordered[-1])}"
        return Verdict(holds, f"{_pair(first, second)}: {ends} under {len(found)} settings")

    return check


def grows_after(editor: str, kind: str, role: str) -> Check:
    """The largest average effect is above that before the edit, over facts traced both times."""

    def check(results: Results) -> Verdict:
        before = next((t for t in results.traces if t.after is None), None)
        after = next((t for t in results.traces if t.after == editor), None)
        if before is None or after is None:
            raise MissingResultsError(f"traces after {editor}")
        means = [each.mean for each in before.mean(kind, role)]
        layer = means.index(max(means))
        ours, theirs = after.effects(kind, role), before.effects(kind, role)
        both = sorted(ours.keys() & theirs.keys())
        found = mean_with_interval([ours[case][layer] - theirs[case][layer] for case in both])
        return _verdict(found, f"{kind} at the {role}, layer {layer}: {_signed(found)}")

    return check


def _peaks(
    traces: Traces, first: Site, second: Site, *, late: bool = False, same_layer: bool = False
) -> tuple[tuple[int, int], tuple[float, float, Estimate]]:
    """The layers where both averages are largest; these averages, and their difference."""
    places = []
    for kind, role in (first, second):
        means = [each.mean for each in traces.mean(kind, role)]
        start = len(means) // 2 if late else 0
        layer = means.index(max(means[start:]), start)
        places.append((kind, role, places[0][2] if same_layer and places else layer))
    return (places[0][2], places[1][2]), traces.compared(*places)


def _pair(first: Site, second: Site) -> str:
    if first[1] == second[1]:
        return f"{first[0]} against {second[0]} at the {first[1]}"
    return f"{first[0]} at the {first[1]} against {second[0]} at the {second[1]}"


# ---------------------------------------------------------------- words


def _place(results: Results, key: str | None, chosen: Chosen) -> int:
    editor, config = chosen
    places = results.cells(editor, **config)
    if not places:
        raise MissingResultsError(editor)
    return places[0] if key is None else results.best(key, places)


def _verdict(difference: Estimate, numbers: str) -> Verdict:
    holds = True if difference.ci_low > 0 else False if difference.ci_high < 0 else None
    return Verdict(holds, numbers)


def _joined(verdicts: Sequence[bool | None]) -> bool | None:
    """All must hold; one that fails is enough to fail."""
    return False if False in verdicts else None if None in verdicts else True


def _told(results: Results, key: str, first: int, second: int) -> str:
    score, labels = results.score(key), results.section.labels
    difference = results.difference(key, first, second)
    means = [score.scale * results.estimate(key, place).mean for place in (first, second)]
    return (
        f"{score.label or key} {means[0]:.1f} ({labels[first]}) against {means[1]:.1f} "
        f"({labels[second]}), {_signed(difference, score.scale)}"
    )


def _mean(results: Results, key: str, place: int) -> str:
    score, found = results.score(key), results.estimate(key, place)
    half = score.scale * found.half_width
    label = results.section.labels[place]
    return f"{score.label or key} {score.scale * found.mean:.1f} ± {half:.1f} ({label})"


def _signed(found: Estimate, scale: float = 1.0) -> str:
    digits = 1 if scale > 1 else 3
    return f"{scale * found.mean:+.{digits}f} ± {scale * found.half_width:.{digits}f}"
