from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import EditRequest, Fact, RequestError
from editkit.models.encoding import token_position, token_span
from editkit.models.language_model import LanguageModel
from editkit.prompts import fill
from tests.tiny import tiny, tokenizer

MODEL = tiny()
POSITIONS = ("subject_first", "subject_last", "subject_first_after_last", "last")
words = st.text(
    alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters="{}"),
    min_size=1,
    max_size=12,
).filter(lambda text: text.strip() == text and text != "")


@pytest.mark.parametrize("prompt", ["no place", "{} and {}", ""])
def test_a_prompt_has_exactly_one_place_for_the_subject(prompt: str) -> None:
    with pytest.raises(RequestError, match=r"'{}'|non-empty"):
        EditRequest(prompt, "Rome", "Italy")


@pytest.mark.parametrize("field", ["subject", "target_new"])
def test_empty_texts_are_refused_by_name(field: str) -> None:
    values = {"prompt": "{} is in", "subject": "Rome", "target_new": "Italy", field: "  "}
    with pytest.raises(RequestError, match=f"{field} is '  '"):
        EditRequest(**values)


def test_other_braces_are_kept() -> None:
    assert fill("f(x) = {x} of {} {", "A") == "f(x) = {x} of A {"


@given(before=st.text(max_size=8).filter(lambda t: "{}" not in t), subject=words)
def test_the_subject_span_holds_the_subject(before: str, subject: str) -> None:
    request = EditRequest(before.replace("{", "(") + "{} is", subject, "x")
    start, end = request.subject_span
    assert request.sentence[start:end] == subject


@given(before=words, subject=words, after=words)
def test_subject_tokens_cover_the_subject_and_touch_nothing_but_its_edges(
    before: str, subject: str, after: str
) -> None:
    """The found span decodes to text with the subject in it, and dropping either end loses it."""
    request = EditRequest(f"{before} {{}} {after}", subject, "x")
    encoding = MODEL.encode([request.sentence])[0]
    first, end = token_span(encoding.offsets, request.subject_span)
    assert subject in MODEL.tokenizer.decode(encoding.ids[first:end])
    if end - first > 1:
        assert subject not in MODEL.tokenizer.decode(encoding.ids[first + 1 : end])
        assert subject not in MODEL.tokenizer.decode(encoding.ids[first : end - 1])
    position = {p: token_position(encoding.offsets, request.subject_span, p) for p in POSITIONS}
    assert position["subject_first"] == first
    assert position["subject_last"] == end - 1
    assert position["subject_first_after_last"] == min(end, len(encoding) - 1)
    assert position["last"] == len(encoding) - 1


@pytest.mark.parametrize("prompt", ["{} is in", "In ({}) is", 'He said "{}" is', "Of {}"])
@pytest.mark.parametrize("subject", ["Space Needle", "São Paulo", "Zoë", "日本", "x"])
def test_positions_do_not_depend_on_the_padding_side(prompt: str, subject: str) -> None:
    request = EditRequest(prompt, subject, "x")
    result = []
    for side in ("right", "left"):
        model = LanguageModel(MODEL.hf, tokenizer(padding_side=side), name=side)
        encoding = model.encode([request.sentence, "a much longer sentence " * 3])[0]
        result.append([encoding.position(request.subject_span, p) for p in POSITIONS])
    assert result[0] == result[1]


def test_a_start_token_shifts_all_positions_by_one() -> None:
    request = EditRequest("In {} is", "Rome", "x")
    plain, begun = tiny(), tiny(begin=True)
    a, b = (m.encode([request.sentence])[0] for m in (plain, begun))
    for position in POSITIONS:
        assert b.position(request.subject_span, position) == 1 + a.position(
            request.subject_span, position
        )


def test_a_subject_that_tokenises_differently_after_a_space() -> None:
    """ "Paris" alone and " Paris" have different tokens; offsets find both."""
    for prompt in ("{} is", "The {} is"):
        request = EditRequest(prompt, "Paris", "x")
        encoding = MODEL.encode([request.sentence])[0]
        first, end = token_span(encoding.offsets, request.subject_span)
        assert MODEL.tokenizer.decode(encoding.ids[first:end]).strip() == "Paris"


def test_a_subject_that_was_cropped_is_an_error() -> None:
    encoding = MODEL.encode(["In Rome"])[0]
    with pytest.raises(RequestError, match="no token covers characters 40 to 44"):
        token_position(encoding.offsets, (40, 44), "subject_last")


@pytest.mark.parametrize(
    ("prompt", "subject", "message"),
    [
        ("Paris is in", "Rome", "is not in the prompt"),
        ("", "", "expected a non-empty text"),
        ("a b", " ", "expected a non-empty text"),
        ("a b", " b", "begins or ends with white space"),
    ],
)
def test_the_prompt_of_a_fact_contains_its_subject(prompt: str, subject: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Fact(prompt, subject)
