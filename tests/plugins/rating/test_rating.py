"""Which texts are compared, in which order, and what the answers add up to."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import UsageError
from editkit.benchmark.merge import merge
from editkit.benchmark.store import Store, keep_rating, ratings_in, runs_in
from editkit.results import STORE_FILE, Answer, Rating
from editkit_plugins.rating import command
from editkit_plugins.rating.comparisons import chosen_pair, comparisons
from editkit_plugins.rating.odds import judgements, odds_of, report
from tests.plugins.rating.rating_samples import cell, texts, written_run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    written_run(tmp_path, cell("none"), cell("rome"), cell("ft"))
    return tmp_path


def run_command(*arguments: object) -> int:
    parser = ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def rating(case: int, consistent: Answer, fluent: Answer = "same", **changes: Any) -> Rating:
    """A rating with rome on the left."""
    cells = (cell("rome").fingerprint, cell("ft").fingerprint)
    made = Rating(case, 0, cells, "me", {"consistent": consistent, "fluent": fluent}, 1.0)
    return dataclasses.replace(made, **changes)


# ---------------------------------------------------------------- comparisons


def test_two_editors_need_no_flag(out: Path) -> None:
    assert chosen_pair(out, []).labels == ("rome", "ft")
    assert chosen_pair(out, ["ft", "none"]).labels == ("ft", "none")


def test_every_case_comes_once_before_any_case_comes_twice(out: Path) -> None:
    order = comparisons(chosen_pair(out, []), limit=None, seed=0)
    assert [c.number for c in order] == list(range(6))
    assert {c.case_id for c in order[:3]} == {c.case_id for c in order[3:]} == {1, 2, 3}
    assert len({(c.case_id, c.place) for c in order}) == 6
    assert all("the same" not in c.texts for c in order)
    assert comparisons(chosen_pair(out, []), limit=2, seed=0) == order[:2]


def test_texts_match_the_cells_on_their_sides(out: Path) -> None:
    for c in comparisons(chosen_pair(out, []), limit=None, seed=3):
        for fingerprint, text in zip(c.cells, c.texts, strict=True):
            assert text == texts(fingerprint.partition("-")[0], c.case_id)[c.place]


def test_the_seed_draws_order_and_sides(out: Path) -> None:
    pair = chosen_pair(out, [])
    orders = [comparisons(pair, limit=None, seed=seed) for seed in range(60)]
    assert comparisons(pair, limit=None, seed=0) == orders[0]
    left = Counter(c.cells[0] for order in orders for c in order)
    assert all(120 < n < 240 for n in left.values())  # of 360
    assert len({tuple((c.case_id, c.place) for c in order) for order in orders}) > 30


def test_the_order_of_the_editors_changes_nothing_on_the_page(out: Path) -> None:
    one = comparisons(chosen_pair(out, ["rome", "ft"]), limit=None, seed=0)
    other = comparisons(chosen_pair(out, ["ft", "rome"]), limit=None, seed=0)
    assert [c.case_id for c in one] == [c.case_id for c in other]
    assert {frozenset(c.texts) for c in one} == {frozenset(c.texts) for c in other}


@pytest.mark.parametrize(
    ("editors", "message"),
    [
        (["rome"], "got 1 editors to compare"),
        (["rome", "rome"], "expected two"),
        (["rome", "rnoe"], "texts of rome"),
        (["x", "y"], "no texts of x and y"),
    ],
)
def test_an_ambiguous_pair_is_an_error(out: Path, editors: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen_pair(out, editors)


def test_cells_of_one_editor_are_chosen_by_label(tmp_path: Path) -> None:
    written_run(tmp_path, cell("rome"), cell("rome", seed=1), cell("ft"))
    with pytest.raises(UsageError, match=r"rome \(seed 0\), rome \(seed 1\), ft; expected two"):
        chosen_pair(tmp_path, [])
    labels = ["rome (seed 1)", "rome (seed 0)"]
    assert list(chosen_pair(tmp_path, labels).labels) == labels


def test_without_texts_or_edits_the_error_names_the_command_to_run(tmp_path: Path) -> None:
    run = written_run(tmp_path / "early", cell("rome"), cell("ft"), requests=None)
    with pytest.raises(UsageError, match="whose edit is in the store"):
        comparisons(chosen_pair(run.out, []), limit=None, seed=0)
    run = written_run(tmp_path / "empty", cell("rome"), cell("ft"))
    with Store(run.out / STORE_FILE) as store:
        for one in run.cells:
            store.discard(one.fingerprint, [1, 2, 3])
    with pytest.raises(UsageError, match="has no texts"):
        chosen_pair(run.out, [])


# ---------------------------------------------------------------- answers in the store


def test_a_later_answer_replaces_an_earlier_one(out: Path) -> None:
    keep_rating(out, rating(1, "left"))
    keep_rating(out, rating(2, "left"))
    keep_rating(out, rating(1, "right", rated_at=2.0))
    keep_rating(out, rating(1, "left", rater="you"))
    assert [(r.case_id, r.rater, r.answers["consistent"]) for r in ratings_in(out)] == [
        (1, "me", "right"),
        (2, "me", "left"),
        (1, "you", "left"),
    ]


def test_a_rating_does_not_depend_on_the_sides() -> None:
    one = rating(1, "left")
    other = dataclasses.replace(one, cells=one.cells[::-1], answers={"consistent": "right"})
    assert one.name == other.name
    assert one.better("consistent") == other.better("consistent") == "rome-0-f00d"
    assert one.better("fluent") is None


def test_damaged_ratings_are_skipped_with_a_warning(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep_rating(out, rating(1, "left"))
    keep_rating(out, rating(2, "left"))
    with sqlite3.connect(out / STORE_FILE) as connection:
        connection.execute(
            "UPDATE ratings SET payload = replace(payload, 'left', 'right') WHERE rowid = 1"
        )
    connection.close()
    assert [r.case_id for r in ratings_in(out)] == [2]
    assert "skipped 1 damaged ratings" in caplog.text


def test_merging_imports_ratings_and_keeps_existing_ones(out: Path, tmp_path: Path) -> None:
    keep_rating(out, rating(1, "left"))
    theirs = tmp_path / "theirs"
    keep_rating(theirs, rating(1, "right"))
    keep_rating(theirs, rating(2, "right"))
    with Store(out / STORE_FILE) as store, Store(theirs / STORE_FILE, read_only=True) as other:
        merge(store, other)
    assert [r.answers["consistent"] for r in ratings_in(out)] == ["left", "right"]


def test_a_store_from_before_ratings_can_be_rated(out: Path) -> None:
    with sqlite3.connect(out / STORE_FILE) as connection:
        connection.execute("DROP TABLE ratings")
        connection.execute("ALTER TABLE cells DROP COLUMN checksum")
        connection.execute("ALTER TABLE requests DROP COLUMN checksum")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert ratings_in(out) == []
    keep_rating(out, rating(1, "left"))
    assert len(ratings_in(out)) == 1


# ---------------------------------------------------------------- odds


def test_odds_and_their_interval() -> None:
    odds = odds_of(9, 2, ties=4)
    assert (odds.wins, odds.ties) == ((9, 2), 4)
    assert odds.odds == pytest.approx(9.5 / 2.5)
    half = 1.96 * math.sqrt(1 / 9.5 + 1 / 2.5)
    assert math.log(odds.ci_high / odds.odds) == pytest.approx(half)
    assert math.log(odds.odds / odds.ci_low) == pytest.approx(half)


@given(st.integers(0, 500), st.integers(0, 500))
def test_odds_are_finite_and_invert_with_the_sides(a: int, b: int) -> None:
    one, other = odds_of(a, b), odds_of(b, a)
    assert one.odds == pytest.approx(1 / other.odds)
    if a + b < 5:
        assert one.ci_low is one.ci_high is None
    else:
        assert 0 < one.ci_low < one.odds < one.ci_high < math.inf
        assert one.ci_low == pytest.approx(1 / other.ci_high)
    assert (one.odds > 1) == (a > b)


def test_judgements_count_for_the_first_editor_of_the_run(out: Path) -> None:
    swapped = rating(3, "right", "right")
    given_ratings = [
        rating(1, "left", "right"),
        rating(2, "left", "same"),
        dataclasses.replace(swapped, cells=swapped.cells[::-1], rater="you"),
        dataclasses.replace(swapped, cells=("gone", "rome-0-f00d")),
    ]
    [judgement] = judgements(runs_in(out), given_ratings)
    assert judgement.labels == ("rome", "ft")
    assert (judgement.ratings, judgement.texts, judgement.raters) == (3, 3, 2)
    assert (judgement.odds["consistent"].wins, judgement.odds["consistent"].ties) == ((3, 0), 0)
    assert (judgement.odds["fluent"].wins, judgement.odds["fluent"].ties) == ((1, 1), 1)
    text = report([judgement])
    assert "rome against ft, small on tiny: 3 ratings by 2 people of 3 pairs of texts" in text
    assert text.splitlines()[4].split()[:4] == ["consistent", "3", "0", "0"]
    assert text.splitlines()[4].endswith(" 7.00")  # of three ratings: no interval


def test_the_report_of_the_command(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(out, "--report") == 0
    assert capsys.readouterr().out == "There are no ratings yet.\n"
    keep_rating(out, rating(1, "left"))
    assert run_command(out, "--report", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    [judgement] = document["judgements"]
    assert judgement["editors"] == ["rome", "ft"]
    assert judgement["odds"]["consistent"]["wins"] == [1, 0]
