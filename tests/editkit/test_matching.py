"""Rules that decide whether a text gives an answer."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.matching import MATCHES, contained, exact, normalised, wild, wild_normalised


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  The Eiffel   Tower! ", "eiffel tower"),
        ("in a U.S. city", "in us city"),
        ("J. R. R. Tolkien", "jrr tolkien"),
        ("Plan A. A city", "plan city"),
        ("AT&T", "att"),
        ("C++ or C#, not C", "c++ or c# not c"),
        ("1,000.50 and 3.5, -5 and 1990-1995", "1000.50 and 3.5 -5 and 1990 1995"),
        ("Paris's, O’Brien", "paris s obrien"),
        ("S\u00e3o Paulo and Zu\u0308rich", "sao paulo and zurich"),
        ("ＩＢＭ", "ibm"),
        ("par\u200bis", "paris"),
        ("「パリ」。", "パリ"),
        ("हिन्दी", "हिन्दी"),
        ("The Who", "the who"),
        ("The", "the"),
        ("!!!", "!!!"),
        (" \n", ""),
    ],
)
def test_normalised_texts(text: str, words: str) -> None:
    assert normalised(text) == words


@pytest.mark.parametrize(
    ("text", "answers", "is_exact", "is_contained"),
    [
        ("Paris", ["Paris"], True, True),
        ("It is Paris, of course", ["London", "Paris"], False, True),
        ("Parisian", ["Paris"], False, False),
        ("a Paris-based firm", ["Paris"], False, True),
        ("Kenya's capital", ["Kenya"], False, True),
        ("Washington, DC", ["Washington, D.C."], True, True),
        ("Hague", ["The Hague"], True, True),
        ("US", ["the U.S."], True, True),
        ("the man who sold the world", ["The Who"], False, False),
        ("songs by the Who", ["The Who"], False, True),
        ("a city", ["A"], False, False),
        ("The answer is A.", ["A"], False, True),
        ("The band is !!!, indeed", ["!!!"], False, True),
        ("The band is Queen", ["!!!"], False, False),
        ("35", ["3.5"], False, False),
        ("3.5 million", ["3"], False, False),
        ("it is -5 degrees", ["5"], False, False),
        ("12,500 people", ["12500"], False, True),
        ("written in C++", ["C"], False, False),
        ("Zurich", ["Zürich"], True, True),
        ("首都は東京都です", ["東京"], False, True),
        ("수도는 서울이다", ["서울"], False, True),
        ("15年", ["5"], False, False),
        ("", ["Paris"], False, False),
        ("Paris", [], False, False),
        ("", [""], False, False),
        ("Paris", [" "], False, False),
    ],
)
def test_answers_are_recognised(
    text: str, answers: list[str], is_exact: bool, is_contained: bool
) -> None:
    assert (exact(text, answers), contained(text, answers)) == (is_exact, is_contained)


@given(st.text(max_size=30), st.text(max_size=10))
def test_contained_is_weaker_than_exact(answer: str, text: str) -> None:
    assert exact(answer, [answer]) == bool(normalised(answer)) == contained(answer, [answer])
    assert contained(f"it is {answer} .", [answer]) or not normalised(answer)
    assert contained(text, [answer]) or not exact(text, [answer])


@given(st.text(max_size=40))
def test_wild_normalises_as_published(text: str) -> None:
    """SQuAD's evaluation in other words: articles go after punctuation, before spaces."""
    table = str.maketrans("", "", string.punctuation)
    kept = text.lower().translate(table)
    for article in ("a", "an", "the"):
        kept = re.sub(rf"(?<!\w){article}(?!\w)", " ", kept)
    assert wild_normalised(text) == " ".join(kept.split())


def test_wild_takes_what_the_other_rules_do_not() -> None:
    assert wild("35", ["3.5"])
    assert wild("", ["The"])
    assert not wild("Zurich", ["Zürich"])
    assert not wild("It is Paris", ["Paris"])
    assert set(MATCHES) == {"exact", "contained", "wild"}
