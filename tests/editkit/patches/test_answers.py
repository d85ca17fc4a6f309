"""Reading the object in a model's answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.patches.answers import is_name_or_number, same_object, spoken_object


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" Seattle", "Seattle"),
        (" the city of Seattle, Washington. It is", "Seattle"),
        (" St. Louis, Missouri", "St. Louis"),
        (" J. R. R. Tolkien.", "J. R. R. Tolkien"),
        (" the U.S. Navy.", "U.S. Navy"),
        (" the United States of America.", "United States of America"),
        (" University of Washington in Seattle", "University of Washington"),
        (" Leonardo da Vinci, who", "Leonardo da Vinci"),
        (" Côte d'Ivoire, a country", "Côte d'Ivoire"),
        (" The Hague.", "The Hague"),
        (" Paris (France)", "Paris"),
        (' "Nairobi".', "Nairobi"),
        ("**Nairobi**", "Nairobi"),
        ("\n\nNairobi\nMombasa", "Nairobi"),
        (" 1962 and is", "1962"),
        (" 3.5 million people", "3.5 million"),
        (" 1,234,567.", "1,234,567"),
        (" the 19th century", "19th century"),
        (" shilling.", "shilling"),
        (" the Kenyan shilling, which", "Kenyan shilling"),
        (" electronics company in Tokyo", "electronics company"),
        (" Найроби, который", "Найроби"),
        ("内罗毕。它是", "内罗毕"),
        ("内罗毕，肯尼亚", "内罗毕"),
        (" نيروبي، وهي", "نيروبي"),
    ],
)
def test_the_object_of_a_continuation(answer: str, expected: str) -> None:
    spoken = spoken_object(answer)
    assert spoken is not None
    assert spoken.object == expected


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("What is the capital of Kenya?", "The capital of Kenya is Nairobi.", "Nairobi"),
        ("On which continent is Kenya?", "Kenya is located in Africa.", "Africa"),
        (
            "What is the official language in Kenya?",
            "In Kenya, the official language is Swahili.",
            "Swahili",
        ),
        ("What is it?", "The answer is Paris.", "Paris"),
        ("Which continent is Kenya on?", "Kenya is on a continent called Africa.", "Africa"),
        ("Which city is it in?", "It is in a city near Rome.", "Rome"),
        ("New York University is in the city of", " New York City.", "New York City"),
        ("Mexico City is in", " Mexico.", "Mexico"),
    ],
)
def test_what_the_answer_repeats_from_the_prompt_is_not_the_object(
    prompt: str, answer: str, expected: str
) -> None:
    spoken = spoken_object(answer, prompt)
    assert spoken is not None
    assert spoken.object == expected


@pytest.mark.parametrize("answer", ["", " ", "...", "\n", " the", " the\n", "“”"])
def test_an_answer_without_an_object(answer: str) -> None:
    assert spoken_object(answer) is None


def test_another_object_in_the_same_words() -> None:
    spoken = spoken_object(" the city of Seattle, Washington")
    assert spoken is not None
    assert spoken.text == "the city of Seattle"
    assert spoken.with_object("Paris") == "the city of Paris"


@given(st.text(), st.text())
def test_any_text_is_read_without_errors(answer: str, prompt: str) -> None:
    spoken = spoken_object(answer, prompt)
    if spoken is not None:
        assert spoken.object
        assert spoken.text.endswith(spoken.object)
        assert spoken.text in answer
        assert spoken.object == spoken.object.strip()


def test_objects_are_compared_without_case_article_and_punctuation() -> None:
    assert same_object("The Hague", "hague.")
    assert same_object("Côte", "Co\N{COMBINING CIRCUMFLEX ACCENT}te")
    assert not same_object("Paris", "Paris, Texas")


def test_names_and_numbers() -> None:
    assert all(map(is_name_or_number, ["Paris", "1962", "内罗毕", "نيروبي"]))
    assert not any(map(is_name_or_number, ["shilling", "", "-"]))
