"""From answers to odds: how many times as often is one editor's text the better one?"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping

from editkit.benchmark.aggregate import FEWEST, Z95
from editkit.report.generations import cells_by_label
from editkit.report.tables import Entry, Line, Table
from editkit.report.text import text_table
from editkit.results import Rating, Run
from editkit.safe_text import one_line
from editkit_plugins.rating.comparisons import QUESTIONS


@dataclasses.dataclass(frozen=True)
class Odds:
    """How often each of two editors was better, and the odds for the first.

    Attributes:
        wins: Wins of the first and of the second.
        ties: How often neither was better; the odds ignore ties.
        odds: ``(wins of the first + 1/2) / (wins of the second + 1/2)``.
        ci_low, ci_high: 95% interval: 1.96 standard errors of the logarithm of the odds; None below
            five wins in all.
    """

    wins: tuple[int, int]
    ties: int
    odds: float
    ci_low: float | None
    ci_high: float | None


def odds_of(first: int, second: int, ties: int = 0) -> Odds:
    """Odds from counts; adding 1/2 to each (Haldane 1956) keeps them finite for all counts."""
    a, b = first + 0.5, second + 0.5
    if first + second < FEWEST:
        return Odds((first, second), ties, a / b, None, None)
    half = Z95 * math.sqrt(1 / a + 1 / b)
    center = math.log(a / b)
    return Odds((first, second), ties, a / b, math.exp(center - half), math.exp(center + half))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The ratings of two editors of one run.

    Attributes:
        run: The run.
        labels: The two editors, in the run's order.
        ratings: Number of ratings.
        texts: Number of distinct pairs of texts.
        raters: Number of people.
        odds: By question, the odds for the first editor.
    """

    run: Run
    labels: tuple[str, str]
    ratings: int
    texts: int
    raters: int
    odds: Mapping[str, Odds]


def judgements(runs: Iterable[Run], ratings: Iterable[Rating]) -> list[Judgement]:
    """One judgement for each two editors that were compared, run by run.

    Args:
        runs: The runs of a store.
        ratings: All ratings of the store; those of cells that no run has are ignored.
    """
    ratings = list(ratings)
    results = []
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
            results.append(Judgement(run, labels, len(group), texts, raters, odds))
    return results


def _count(question: str, first: str, ratings: Iterable[Rating]) -> Odds:
    better = [rating.better(question) for rating in ratings if question in rating.answers]
    ties = better.count(None)
    wins = better.count(first)
    return odds_of(wins, len(better) - ties - wins, ties)


def report(results: Iterable[Judgement]) -> str:
    """A table of the odds for every two editors that were compared."""
    return "\n".join(map(_section, results)) or "There are no ratings yet.\n"


def _section(judgement: Judgement) -> str:
    first, second = judgement.labels
    run = judgement.run
    title = (
        f"{first} against {second}, {run.benchmark} on {run.model['name']}: "
        f"{_counted(judgement.ratings, 'rating')} by {_counted(judgement.raters, 'person')} of "
        f"{_counted(judgement.texts, 'pair')} of texts; odds with 95% interval"
    )
    head = ("question", f"{first} better", "the same", f"{second} better", f"odds for {first}")
    lines = []
    for question, odds in judgement.odds.items():
        numbers = (odds.wins[0], odds.ties, odds.wins[1])
        lines.append(Line(tuple(map(Entry, (question, *map(str, numbers), _printed(odds))))))
    table = text_table(Table("odds", title, head, tuple(lines)), terminal=sys.stdout.isatty())
    return f"{one_line(title)}\n\n{table}"


def _printed(odds: Odds) -> str:
    if odds.ci_low is None or odds.ci_high is None:
        return f"{odds.odds:.2f}"
    return f"{odds.odds:.2f} ({odds.ci_low:.2f} to {odds.ci_high:.2f})"


def _counted(n: int, noun: str) -> str:
    plural = {"person": "people"}.get(noun, f"{noun}s")
    return f"{n} {noun if n == 1 else plural}"
