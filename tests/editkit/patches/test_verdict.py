"""Verdicts on patches, each worked out by hand from the numbers in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import EditRequest, PromptContext, WeightDelta
from editkit.patches.content import (
    ROLES,
    Answer,
    Check,
    Movement,
    Origin,
    ParameterSize,
    PatchContent,
    Question,
    Role,
    Size,
)
from editkit.patches.files import read_patch, write_patch
from editkit.patches.judging import gives, judged
from editkit.patches.verdict import LARGE_DRIFT, SMALL_DRIFT, verdict_of

REQUEST = EditRequest("{} is located in", "Kenya", "Europe", target_true="Africa")


def check(
    role: Role,
    prompt: str,
    answers: tuple[str, ...],
    before: tuple[tuple[float, ...], str],
    after: tuple[tuple[float, ...], str],
    ranks: tuple[int, ...] = (),
) -> Check:
    return Check(Question(role, prompt, answers), Answer(*before), Answer(*after, ranks))


TAKEN = check(
    "edit",
    "Kenya is located in",
    ("Europe", "Africa"),
    ((0.002, 0.95), " Africa."),
    ((0.991, 0.004), " Europe, and"),
)
FAILED = dataclasses.replace(TAKEN, after=Answer((0.01, 0.9), " Africa."))
HALF = dataclasses.replace(TAKEN, after=Answer((0.3, 0.1), " a country"))


def wording(number: int, *, holds: bool) -> Check:
    after = ((0.9, 0.01), " Europe") if holds else ((0.1, 0.8), " Africa")
    prompt = f"In other words {number}, Kenya is in"
    return check("wording", prompt, ("Europe", "Africa"), ((0.0, 0.9), " Africa"), after)


def neighbor(number: int, *, kept: bool, after: float = 0.8) -> Check:
    text = " Africa, again" if kept else " Europe"
    number_and = (after if kept else after / 10, 0.1)
    prompt = f"Country {number} is located in"
    return check(
        "neighbor", prompt, ("Africa", "Europe"), ((0.9, 0.0), " Africa"), (number_and, text)
    )


NAIROBI = check(
    "subject",
    "The capital of Kenya is",
    ("Nairobi", "Europe"),
    ((0.454, 0.0), " Nairobi."),
    ((0.012, 0.3), " Berlin."),
    ranks=(7, 2),
)
KEPT_FACT = dataclasses.replace(NAIROBI, after=Answer((0.44, 0.0), " Nairobi, a city", (1, 90)))


def drift(mean: float, n: int = 4) -> tuple[Movement, ...]:
    """Movements with that mean, the first of them the largest."""
    rest = [Movement(f"prompt {i}", mean / 2, " a", " a") for i in range(1, n)]
    return (Movement("The heart pumps", mean * (n + 1) / 2, " blood", " oil"), *rest)


SIZE = Size((ParameterSize("h.2.mlp.c_proj.weight", 1.5, 50.0),), 0.0, 1.0)
ORIGIN = Origin("atlas", None, "gpt2", "float32", "cpu", "2026-01-01T00:00:00+00:00", 1.0, {})


def patch(
    *checks: Check,
    moved: float | None = 0.01,
    notes: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    size: Size | None = SIZE,
) -> PatchContent:
    delta = WeightDelta(
        {}, REQUEST, "rome", config or {}, "f" * 64, {"converged": True} if notes is None else notes
    )
    return PatchContent(delta, ORIGIN, checks, () if moved is None else drift(moved), size)


def test_an_edit_of_what_the_model_gave_anyway_is_not_good() -> None:
    before = dataclasses.replace(TAKEN, before=Answer((0.6, 0.2), " Europe."))
    verdict = verdict_of(patch(before, wording(0, holds=True), neighbor(0, kept=True), KEPT_FACT))
    assert verdict.level == "mixed"
    assert verdict.sentences[0] == "Mixed: the model gave the new object before the edit."
    assert not verdict.advice


def test_a_good_edit() -> None:
    verdict = verdict_of(
        patch(
            TAKEN,
            *(wording(i, holds=i != 3) for i in range(4)),
            *(neighbor(i, kept=True) for i in range(2)),
            KEPT_FACT,
        )
    )
    assert verdict.level == "good"
    assert verdict.sentences == (
        "Good: the edit took effect, and all related facts that were checked were kept.",
        '"Kenya is located in" -> "Europe" from 0.2% to 99.1%, "Africa" from 95% to 0.4%.',
        "It holds in 3 of 4 other wordings.",
        'Not in "In other words 3, Kenya is in": the model writes "Africa".',
        "Both neighbours keep their answers.",
        "1 of 1 other fact of the subject keeps its answer.",
        "Unrelated text barely moved: 0.010 nats on average over 4 prompts (KL divergence of the "
        "next word), and 1 of 4 next words changed.",
        'It moved most after "The heart pumps": 0.025 nats, from "blood" to "oil".',
        "The optimisation converged.",
        "The change has 3.0% of the norm of h.2.mlp.c_proj.weight.",
    )
    assert verdict.advice == ()


def test_a_lost_fact_is_named_with_its_probabilities() -> None:
    verdict = verdict_of(patch(TAKEN, NAIROBI, KEPT_FACT, config={"layer": 2}))
    assert verdict.level == "mixed"
    assert verdict.sentences[0] == (
        "Mixed: the edit took effect, but 1 of 2 other facts of the subject changed."
    )
    assert (
        'Lost: "The capital of Kenya is" -> "Nairobi" from 45% to 1.2%, below the top three '
        '(rank 7); the model now writes "Berlin".' in verdict.sentences
    )
    assert verdict.advice[0] == (
        "Edit another layer, such as a neighbouring one: --set layer=N (it was 2)."
    )


def test_the_worst_neighbour_is_named_and_so_is_one_that_only_weakened() -> None:
    lost = verdict_of(
        patch(
            TAKEN,
            neighbor(0, kept=True),
            neighbor(1, kept=False),
            neighbor(2, kept=False, after=0.2),
        )
    )
    assert lost.level == "bad"
    assert "1 of 3 neighbours keep their answers." in lost.sentences
    assert (
        'Worst: "Country 2 is located in" -> "Africa" from 90% to 2.0%; the model now writes '
        '"Europe".' in lost.sentences
    )
    weakened = verdict_of(patch(TAKEN, neighbor(0, kept=True), neighbor(1, kept=True, after=0.5)))
    assert weakened.level == "good"
    assert (
        'Weakened most: "Country 1 is located in" -> "Africa" from 90% to 50%.'
        in weakened.sentences
    )


def test_an_edit_without_effect_is_bad_whatever_else_it_kept() -> None:
    verdict = verdict_of(
        patch(
            FAILED,
            neighbor(0, kept=True),
            config={"steps": 20},
            notes={"converged": False},
        )
    )
    assert verdict.level == "bad"
    assert verdict.sentences[:2] == (
        "Bad: the edit did not take effect.",
        '"Kenya is located in" -> "Europe" from 0.2% to 1.0%, "Africa" from 95% to 90%; the '
        'edited model writes "Africa".',
    )
    assert "The optimisation stopped before it reached its goal." in verdict.sentences
    assert verdict.advice[0] == "Give it more steps: --set steps=40 (it had 20)."
    own = patch(FAILED, notes={"converged": False, "advice": "raise lr (0.1)"}, config={"steps": 9})
    assert verdict_of(own).advice[0] == "Raise lr (0.1)."
    assert not any("steps" in text for text in verdict_of(own).advice)


def test_more_probable_but_not_written_is_only_a_part() -> None:
    verdict = verdict_of(patch(HALF, KEPT_FACT))
    assert verdict.level == "mixed"
    assert verdict.sentences[0] == "Mixed: the edit took effect only in part."
    unequal = dataclasses.replace(TAKEN, after=Answer((0.3, 0.4), " Europe"))
    assert verdict_of(patch(unequal)).level == "mixed"


def test_more_damage_than_good_is_bad() -> None:
    other = dataclasses.replace(
        NAIROBI, question=dataclasses.replace(NAIROBI.question, prompt="Kenya is governed from")
    )
    verdict = verdict_of(patch(TAKEN, NAIROBI, other, KEPT_FACT, *[neighbor(0, kept=True)] * 8))
    assert verdict.level == "bad"
    assert verdict.sentences[0] == (
        "Bad: the edit does more damage than good: 2 of 3 other facts of the subject changed."
    )
    assert any("the rest is damage" in sentence for sentence in verdict.sentences)
    half = patch(TAKEN, NAIROBI, KEPT_FACT, neighbor(0, kept=False), neighbor(1, kept=True))
    assert verdict_of(half).level == "mixed"
    assert verdict_of(half).sentences[0] == (
        "Mixed: the edit took effect, but 1 of 2 neighbours changed; 1 of 2 other facts of the "
        "subject changed."
    )
    third = patch(TAKEN, NAIROBI, neighbor(0, kept=False), neighbor(1, kept=True))
    assert verdict_of(third).level == "bad"  # two of three, of both kinds
    assert verdict_of(patch(TAKEN, NAIROBI)).level == "mixed"  # one question is no majority


@pytest.mark.parametrize(
    ("moved", "level"),
    [
        (SMALL_DRIFT * 0.99, "good"),
        (SMALL_DRIFT * 1.01, "mixed"),
        (LARGE_DRIFT * 0.99, "mixed"),
        (LARGE_DRIFT * 1.01, "bad"),
    ],
)
def test_drift_has_two_thresholds(moved: float, level: str) -> None:
    assert verdict_of(patch(TAKEN, KEPT_FACT, moved=moved)).level == level


def test_few_other_wordings_make_it_mixed() -> None:
    checks = [TAKEN, KEPT_FACT, *(wording(i, holds=i < 2) for i in range(3))]
    verdict = verdict_of(patch(*checks))
    assert verdict.level == "mixed"
    assert verdict.sentences[0] == (
        "Mixed: the edit took effect, but it holds in 2 of 3 other wordings."
    )
    unknown = dataclasses.replace(wording(5, holds=False), before=Answer((0.0, 0.1), " hot"))
    assert any(
        'and the unedited model does not answer "Africa" there, either.' in sentence
        for sentence in verdict_of(patch(TAKEN, unknown)).sentences
    )


def test_an_unstable_edit_is_not_good() -> None:
    notes = {"unstable": "the update's norm is 24, the weight's 16.4", "advice": "raise ridge"}
    verdict = verdict_of(patch(TAKEN, KEPT_FACT, notes=notes))
    assert verdict.level == "mixed"
    assert verdict.sentences[0] == "Mixed: the edit took effect, but the edit is unstable."
    assert (
        "The editor marks the edit as unstable: the update's norm is 24, the weight's 16.4."
        in verdict.sentences
    )
    assert verdict.advice[0] == "Raise ridge."


def test_rounding_and_large_changes_are_reported() -> None:
    large = (ParameterSize("b.weight", 30.0, 50.0), ParameterSize("a.weight", 1.0, 0.0))
    lost = verdict_of(patch(TAKEN, size=Size(large, 0.8, 0.2)))
    assert lost.level == "mixed"
    assert (
        "The change has 60% of the norm of b.weight, the largest of 2 changes, which is a lot."
        in lost.sentences
    )
    assert "Rounding to float32 removes 80% of the change." in lost.sentences
    assert "Load the model in float32 (--dtype float32)." in lost.advice
    stored = verdict_of(patch(TAKEN, KEPT_FACT, size=Size(SIZE.parameters, 0.0, 0.3)))
    assert stored.level == "good"
    assert (
        "Stored in bfloat16, only 30% of the change would be left: ship it in float32."
        in stored.sentences
    )


def test_without_checks_the_verdict_is_that_nothing_was_checked() -> None:
    bare = verdict_of(patch(moved=None, notes={}, size=None))
    assert (bare.level, bare.sentences, bare.advice) == (
        "unknown",
        ("Nothing was checked when this edit was made, so there is no verdict.",),
        (),
    )
    free = check("free", "Hello", (), ((), " there"), ((), " you"))
    assert verdict_of(patch(free, moved=None)).level == "unknown"
    partly = verdict_of(patch(NAIROBI, moved=5.0))
    assert partly.level == "unknown"
    assert partly.sentences[0] == "The edited prompt was not checked, so there is no verdict."
    assert any(sentence.startswith("Lost:") for sentence in partly.sentences)


def test_an_edit_is_not_good_if_no_related_fact_was_checked() -> None:
    verdict = verdict_of(patch(TAKEN, wording(0, holds=True)))
    assert verdict.level == "mixed"
    assert verdict.sentences[0] == ("Mixed: the edit took effect, but no related fact was checked.")
    assert verdict.advice == (
        "Give prompts that should keep their answers: --keep PROMPT, or keep=[...].",
    )


def test_texts_before_prompts_are_named() -> None:
    content = patch(TAKEN, size=None)
    delta = dataclasses.replace(content.delta, context=PromptContext(("Kenya is in Europe.",)))
    verdict = verdict_of(dataclasses.replace(content, delta=delta))
    assert "It puts 1 text before every prompt, which weights cannot carry." in verdict.sentences


def test_many_facts_are_counted() -> None:
    facts = [TAKEN, *(dataclasses.replace(FAILED) for _ in range(2))]
    request = tuple(dataclasses.replace(REQUEST, subject=f"K{i}") for i in range(3))
    content = patch(*facts)
    content = dataclasses.replace(
        content, delta=dataclasses.replace(content.delta, request=request)
    )
    verdict = verdict_of(content)
    assert verdict.level == "bad"
    assert verdict.sentences[:2] == (
        "Bad: the edit did not take effect at 2 of 3 facts.",
        "1 of 3 edited prompts give the new object.",
    )
    some = dataclasses.replace(content, checks=(TAKEN, TAKEN, FAILED))
    assert verdict_of(some).level == "mixed"


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (" Paris, the capital", "Paris", True),
        ("\n“PARIS”", "paris", True),
        (" Parisian", "Paris", False),
        (" New  York City", "New York", True),
        (" 1962", "196", False),
        ("巴黎是", "巴黎", True),
        (" the city of Paris, France", "Paris", True),
        (" Paris", "the city of Paris", True),
        (" the city of Rome", "Paris", False),
        ("", "Paris", False),
        (" Paris", "", False),
    ],
)
def test_a_text_gives_an_answer_as_whole_words(text: str, answer: str, expected: bool) -> None:
    assert gives(text, answer) is expected


def test_other_facts_without_a_recorded_answer_keep_their_first_word() -> None:
    same = check("subject", "Kenya has", (), ((), " many lakes."), ((), " many people."))
    assert judged(same).good is True
    other = dataclasses.replace(same, after=Answer((), " few lakes."))
    assert judged(other).good is False
    assert verdict_of(patch(TAKEN, other)).level == "mixed"


probability = st.floats(0, 1)
texts = st.sampled_from([" Europe", " Africa.", " Nairobi", "", " a", "\x1b[31m"])


@st.composite
def checks(draw: st.DrawFn) -> Check:
    n = draw(st.integers(0, 2))
    answers = ("Europe", "Africa", "Nairobi")[:n]
    some = st.builds(
        Answer,
        st.tuples(*[probability] * n),
        texts,
        st.one_of(st.just(()), st.tuples(*[st.integers(1, 50_000)] * n)),
    )
    question = Question(draw(st.sampled_from(ROLES)), "Kenya is in", answers)
    return Check(question, draw(some), draw(some))


@given(st.lists(checks(), max_size=6), st.one_of(st.none(), st.floats(0, 40)))
def test_every_patch_has_a_verdict_and_more_damage_never_improves_it(
    some: list[Check], moved: float | None
) -> None:
    verdict = verdict_of(patch(*some, moved=moved))
    assert verdict.sentences
    assert all(sentence.endswith(".") for sentence in (*verdict.sentences, *verdict.advice))
    assert (verdict.level == "unknown") == (
        not any(c.question.role == "edit" and c.question.answers for c in some)
    )
    order = ("good", "mixed", "bad")
    if verdict.level != "unknown":
        damaged = verdict_of(patch(*some, NAIROBI, moved=moved))
        assert order.index(damaged.level) >= min(order.index(verdict.level), 1)
        assert damaged.level != "good"


def test_a_verdict_needs_only_the_file(tmp_path: Path) -> None:
    content = patch(TAKEN, NAIROBI, wording(0, holds=True), neighbor(0, kept=True))
    stored = read_patch(write_patch(content, tmp_path / "patch.safetensors"))
    assert verdict_of(stored) == verdict_of(content)
    assert verdict_of(stored).to_dict()["level"] == "mixed"
