"""From answers to odds: how much more often is one editor's text the better one?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from editkit.benchmark.aggregate import Z95
from editkit.report.generations import cells_by_label
from editkit.results import Rating, Run
from editkit_plugins.rating.questions import QUESTIONS


@dataclasses.dataclass(frozen=True)
class Odds:
    """How often each of two was the better one, and the odds for the first.

    Attributes:
        wins: For the first and for the second.
        ties: Neither was better; they are in no odds.
        odds: ``(wins of the first + 1/2) / (wins of the second + 1/2)``.
        ci_low, ci_high: 95% interval: 1.96 standard errors of the odds' logarithm.
    """

    wins: tuple[int, int]
    ties: int
    odds: float
    ci_low: float
    ci_high: float


def odds_of(first: int, second: int, ties: int = 0) -> Odds:
    """The odds from counts; the added halves (Haldane 1956) keep them finite for any counts."""
    a, b = first + 0.5, second + 0.5
    half = Z95 * math.sqrt(1 / a + 1 / b)
    center = math.log(a / b)
    return Odds((first, second), ties, a / b, math.exp(center - half), math.exp(center + half))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What people said about two editors of one run.

    Attributes:
        run: The run.
        labels: The two editors, in the run's order.
        ratings: Number of ratings.
        texts: Number of prompts that they are about.
        raters: Number of people.
        odds: By question, for the first editor.
    """

    run: Run
    labels: tuple[str, str]
    ratings: int
    texts: int
    raters: int
    odds: Mapping[str, Odds]


def judgements(runs: Iterable[Run], ratings: Iterable[Rating]) -> list[Judgement]:
    """Every two editors that were compared, run by run."""
    ratings = list(ratings)
    found = []
    for run in runs:
        label_of = {cell.fingerprint: label for label, cell in cells_by_label(run, ()).items()}
        order = list(label_of)
        groups: dict[tuple[str, str], list[Rating]] = {}
        for rating in ratings:
            if all(cell in label_of for cell in rating.cells):
                first, second = sorted(rating.cells, key=order.index)
                groups.setdefault((first, second), []).append(rating)
        for (first, second), group in groups.items():
            labels = (label_of[first], label_of[second])
            odds = {question: _count(question, first, group) for question in QUESTIONS}
            texts = len({(rating.case_id, rating.place) for rating in group})
            raters = len({rating.rater for rating in group})
            found.append(Judgement(run, labels, len(group), texts, raters, odds))
    return found


def _count(question: str, first: str, ratings: Iterable[Rating]) -> Odds:
    better = [rating.better(question) for rating in ratings if question in rating.answers]
    ties = better.count(None)
    wins = better.count(first)
    return odds_of(wins, len(better) - ties - wins, ties)


def report(found: Iterable[Judgement]) -> str:
    """The judgements as text."""
    return "\n".join(map(_section, found)) or "Nobody has rated anything yet.\n"


def _section(judgement: Judgement) -> str:
    first, second = judgement.labels
    run = judgement.run
    heads = ("question", f"{first} better", "the same", f"{second} better", f"odds for {first}")
    rows = [
        (
            question,
            str(odds.wins[0]),
            str(odds.ties),
            str(odds.wins[1]),
            f"{odds.odds:.2f} ({odds.ci_low:.2f} to {odds.ci_high:.2f})",
        )
        for question, odds in judgement.odds.items()
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in (heads, *rows)
    ]
    return (
        f"{first} against {second}, {run.benchmark} on {run.model['name']}: "
        f"{_counted(judgement.ratings, 'rating')} by {_counted(judgement.raters, 'person')} of "
        f"{_counted(judgement.texts, 'pair')} of texts; odds with 95% interval\n\n"
        + "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
        + "\n"
    )


def _counted(n: int, what: str) -> str:
    plural = {"person": "people"}.get(what, f"{what}s")
    return f"{n} {what if n == 1 else plural}"
