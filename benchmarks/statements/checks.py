"""Checks of statements. Each returns a verdict with the numbers that it is based on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import Estimate, mean_with_interval
from editkit_benchmarks.statements.results import MissingResultsError, Results, Traces

UNEDITED = "none"
Check = Callable[[Results], "Verdict"]
Chosen = tuple[str, dict[str, Any]]
"""An editor and configuration values; if several cells match, the best one counts."""

Site = tuple[str, str]
"""A kind of site and the role of its token."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a statement holds.

    Attributes:
        holds: None if an interval contains zero: the data do not decide.
        numbers: The numbers behind it; differences with 95% intervals.
    """

    holds: bool | None
    numbers: str


def above(key: str, first: Chosen, second: Chosen | None = None) -> Check:
    """Check that an editor's score is higher than another's, paired over records.

    Args:
        key: The score.
        first: The editor with the higher score.
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
        difference = results.difference(key, ours, theirs)
        return _verdict(difference, _comparison(results, key, ours, theirs))

    return check


def below(key: str, chosen: Chosen, bound: float) -> Check:
    """Check that an editor's mean is below a bound, in the unit of tables."""

    def check(results: Results) -> Verdict:
        place = _place(results, key, chosen)
        score, mean = results.score(key), results.estimate(key, place)
        low, high = (score.scale * bound for bound in mean.interval)
        holds = True if high < bound else False if low > bound else None
        return Verdict(holds, _mean(results, key, place))

    return check


def fails_in(expected: dict[str, set[str]]) -> Check:
    """Check that reports mark exactly these clear failures of these editors."""

    def check(results: Results) -> Verdict:
        failures = {
            editor: results.failures(_place(results, None, (editor, {}))) for editor in expected
        }
        return Verdict(failures == expected, _failures(failures))

    return check


def only_without_failures(editor: str) -> Check:
    """Check that reports mark clear failures of every editor but this one."""

    def check(results: Results) -> Verdict:
        failures = {
            cell.editor: results.failures(place)
            for place, cell in enumerate(results.section.run.cells)
            if cell.editor != UNEDITED
        }
        if editor not in failures:
            raise MissingResultsError(editor)
        without = [each for each, names in failures.items() if not names]
        return Verdict(without == [editor], _failures(failures))

    return check


def all_of(*checks: Check) -> Check:
    """Combine checks: all must hold."""

    def check(results: Results) -> Verdict:
        verdicts = [each(results) for each in checks]
        holds = _all([each.holds for each in verdicts])
        return Verdict(holds, "; ".join(each.numbers for each in verdicts))

    return check


def unchanged(key: str, editors: Iterable[str], within: float) -> Check:
    """Check that scores differ from the unedited model's by at most ``within``, as in tables."""

    def check(results: Results) -> Verdict:
        unedited, score = _place(results, key, (UNEDITED, {})), results.score(key)
        numbers, verdicts = [], []
        for editor in editors:
            difference = results.difference(key, _place(results, key, (editor, {})), unedited)
            low, high = (score.scale * bound for bound in difference.interval)
            outside = low > within or high < -within
            verdicts.append(
                False if outside else True if -within <= low <= high <= within else None
            )
            numbers.append(f"{editor} {_signed(difference, score.scale)}")
        return Verdict(_all(verdicts), f"{score.label} against unedited: {', '.join(numbers)}")

    return check


# ---------------------------------------------------------------- traces


def effect_above(
    first: Site, second: Site, *, late: bool = False, same_layer: bool = False
) -> Check:
    """Check that one largest average effect is above another, paired over facts.

    Args:
        first: Kind of site and role of its token.
        second: The same of the other effect.
        late: Consider only the upper half of the layers.
        same_layer: Take the other effect at the layer of the first, not at its own largest.
    """

    def check(results: Results) -> Verdict:
        layers, (ours, theirs, difference) = _peaks(
            results.traces[0], first, second, late=late, same_layer=same_layer
        )
        numbers = (
            f"{ours:.3f} (layer {layers[0]}) against {theirs:.3f} (layer {layers[1]}), "
            f"{_signed(difference)}"
        )
        return _verdict(difference, f"{_pair(first, second)}: {numbers}")

    return check


def effect_above_in_all(first: Site, second: Site) -> Check:
    """As :func:`effect_above`, in all traced settings; shows the smallest and largest numbers."""

    def check(results: Results) -> Verdict:
        differences = [_peaks(traces, first, second)[1][2] for traces in results.traces]
        holds = _all([_verdict(each, "").holds for each in differences])
        ordered = sorted(differences, key=lambda each: each.mean)
        ends = f"{_signed(ordered[0])} to {_signed(ordered[-1])}"
        return Verdict(holds, f"{_pair(first, second)}: {ends} in {len(ordered)} settings")

    return check


def grows_after(editor: str, kind: str, role: str) -> Check:
    """Check that the largest average effect grew with the edit, over facts traced both times."""

    def check(results: Results) -> Verdict:
        before = next((t for t in results.traces if t.after is None), None)
        after = next((t for t in results.traces if t.after == editor), None)
        if before is None or after is None:
            raise MissingResultsError(f"traces after {editor}")
        means = [each.mean for each in before.mean(kind, role)]
        layer = means.index(max(means))
        ours, theirs = after.effects(kind, role), before.effects(kind, role)
        both = sorted(ours.keys() & theirs.keys())
        changes = [ours[case][layer] - theirs[case][layer] for case in both]
        growth = mean_with_interval(changes).by_paper
        return _verdict(growth, f"{kind} at the {role}, layer {layer}: {_signed(growth)}")

    return check


def _peaks(
    traces: Traces, first: Site, second: Site, *, late: bool = False, same_layer: bool = False
) -> tuple[tuple[int, int], tuple[float, float, Estimate]]:
    """The layers with the largest averages; these averages, and their difference."""
    places: list[tuple[str, str, int]] = []
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


# ---------------------------------------------------------------- verdicts and numbers


def _place(results: Results, key: str | None, chosen: Chosen) -> int:
    editor, config = chosen
    places = results.cells(editor, **config)
    if not places:
        raise MissingResultsError(editor)
    return places[0] if key is None else results.best(key, places)


def _verdict(difference: Estimate, numbers: str) -> Verdict:
    low, high = difference.interval
    holds = True if low > 0 else False if high < 0 else None
    return Verdict(holds, numbers)


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """False if one fails, else None if one is open."""
    return False if False in verdicts else None if None in verdicts else True


def _comparison(results: Results, key: str, first: int, second: int) -> str:
    score, labels = results.score(key), results.section.labels
    difference = results.difference(key, first, second)
    means = [score.scale * results.estimate(key, place).mean for place in (first, second)]
    return (
        f"{score.label or key} {means[0]:.1f} ({labels[first]}) against {means[1]:.1f} "
        f"({labels[second]}), {_signed(difference, score.scale)}"
    )


def _mean(results: Results, key: str, place: int) -> str:
    score, mean = results.score(key), results.estimate(key, place)
    label = results.section.labels[place]
    return f"{score.label or key} {mean.printed('.1f', score.scale)} ({label})"


def _signed(difference: Estimate, scale: float = 1.0) -> str:
    return difference.printed("+.1f" if scale > 1 else "+.3f", scale)


def _failures(failures: Mapping[str, set[str]]) -> str:
    return "; ".join(
        f"{editor}: {', '.join(sorted(names)) or 'none'}" for editor, names in failures.items()
    )
