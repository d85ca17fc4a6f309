"""Patches from one call, and the mistakes that people make in it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import editkit
from editkit import ConfigError, EditkitError, LanguageModel, Patch, RequestError, UsageError
from editkit.patches.making import edit_many, patches_for
from editkit.patches.requesting import given_prompts, request_of

KENYA = "The continent that holds Kenya is"
FACT: dict[str, Any] = {"subject": "Kenya", "to": "Europe"}


@pytest.fixture(scope="module")
def atlas() -> LanguageModel:
    return editkit.load_model("atlas")


def test_a_patch_knows_what_it_did(atlas: LanguageModel) -> None:
    before = atlas.fingerprint
    patch = editkit.edit(atlas, KENYA, **FACT, keep=["The capital of France is"])
    assert atlas.fingerprint == before
    [edited] = patch.of_role("edit")
    assert edited.question.answers == ("Europe", "Africa")
    assert edited.before.probabilities[1] > 0.9
    assert edited.after.probabilities[0] > 0.9
    [kept] = patch.of_role("neighbor")
    assert kept.question.prompt == "The capital of France is"
    nairobi = [check for check in patch.of_role("subject") if "Nairobi" in check.question.answers]
    assert nairobi
    assert patch.drift
    assert patch.size is not None


def test_editors_share_the_answers_and_one_that_fails_is_left_out(
    atlas: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    broken = editkit.make_editor("ft", atlas, layer=2)
    broken.config.__dict__["layer"] = 99
    editors = ["in-context", broken, "none"]
    with caplog.at_level(logging.WARNING):
        patches = editkit.edit(atlas, KENYA, **FACT, editor=editors)
    assert [patch.editor for patch in patches] == ["in-context", "none"]
    assert "ft made no patch and is left out" in caplog.text
    first, second = ([check.before for check in patch.checks] for patch in patches)
    assert first == second
    with pytest.raises(EditkitError):
        editkit.edit(atlas, KENYA, **FACT, editor=broken)


def test_settings_reach_the_editor(atlas: LanguageModel) -> None:
    request = request_of(KENYA, **FACT)
    patch = editkit.edit(atlas, KENYA, **FACT, editor="ft", config={"layer": 1, "steps": 1})
    assert patch.delta.config["layer"] == 1
    assert patch.requests[0].prompt == request.prompt


def test_many_facts_are_edited_like_one(atlas: LanguageModel) -> None:
    facts: list[Any] = [
        {"prompt": KENYA, **FACT, "from": "Africa", "keep": ["The capital of France is"]},
        request_of("The capital of France is", subject="France", to="Rome"),
    ]
    many = edit_many(atlas, facts, editor="in-context")
    one = editkit.edit(atlas, KENYA, **FACT, keep=["The capital of France is"], editor="in-context")
    assert [patch.requests[0].target_true for patch in many] == ["Africa", "Paris"]
    assert [check.question for check in many[0].checks] == [c.question for c in one.checks]
    assert many[0].delta.digest() == one.delta.digest()
    assert edit_many(atlas, []) == []


def test_remarks_travel_with_the_file(atlas: LanguageModel, tmp_path: Any) -> None:
    patch = editkit.edit(atlas, KENYA, subject="Kenya", to="Africa", editor="none")
    assert "already answers 'Africa'" in patch.remarks[0]
    assert Patch.load(patch.save(tmp_path / "a.safetensors")).remarks == patch.remarks


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("prompt", "fact", "message"),
    [
        ("The capital of Kenya is", {"subject": "kenya"}, "Did you mean 'Kenya'"),
        ("The capital of Kenya is", {"subject": "Kenia"}, "Did you mean 'Kenya'"),
        ("The Space Needle is in", {"subject": "Space Neddle"}, "Did you mean 'Space Needle'"),
        ("The capital of {} is", {"subject": "Kenya"}, "'The capital of Kenya is'"),
        ("The capital of Kenya is Paris", {"subject": "Kenya"}, "ends with the new object"),
        ("The capital of Kenya is", {"subject": "Kenya", "old": "paris"}, "nothing to change"),
        ("", {"subject": "Kenya"}, "prompt is ''"),
        ("The capital of Kenya is", {"subject": ""}, "subject is ''"),
        ("The capital of Kenya is", {"subject": "Kenya", "to": " "}, "to is ' '"),
        ("The capital of Kenya is", {"subject": "Kenya", "to": 3}, "to is 3"),
        ("The capital of Kenya is", {"subject": "Kenya", "keep": "Rome is in"}, "a list of texts"),
        ("The capital of Kenya is", {"subject": "Kenya", "keep": [""]}, "a prompt of keep"),
        (
            "The capital of Kenya is",
            {"subject": "Kenya", "keep": ["The capital of Kenya is"]},
            "the edited prompt",
        ),
        ("The capital of Kenya is", {"subject": "Kenya", "editor": []}, "editor is empty"),
        ("The capital of Kenya is", {"subject": "Kenya", "editor": 3}, "expected an Editor"),
        (
            "The capital of Kenya is",
            {"subject": "Kenya", "editor": ["rome", "rome"]},
            "given twice",
        ),
        ("The capital of Kenya is", {"subject": "Kenya", "editor": "roem"}, "rome"),
        ("The capital of Kenya is", {"subject": "Kenya", "config": "layer=3"}, "a mapping"),
        ("The capital of Kenya is", {"subject": "Kenya", "config": {"layr": 3}}, "layer"),
    ],
)
def test_mistakes_get_a_sentence(
    atlas: LanguageModel, prompt: str, fact: dict[str, Any], message: str
) -> None:
    with pytest.raises(EditkitError) as error:
        editkit.edit(atlas, prompt, **{"to": "Paris", **fact})
    assert message in str(error.value)


def test_settings_of_an_editor_that_has_its_own_are_refused(atlas: LanguageModel) -> None:
    editor = editkit.make_editor("none", atlas)
    with pytest.raises(ConfigError, match="has its own settings"):
        editkit.edit(atlas, KENYA, **FACT, editor=editor, config={"layer": 3})


def test_facts_in_a_list_are_named_by_number(atlas: LanguageModel) -> None:
    with pytest.raises(RequestError, match="fact 2 has the unknown key 'too'"):
        edit_many(atlas, [{"prompt": KENYA, **FACT}, {"prompt": KENYA, "too": "Asia"}])
    with pytest.raises(RequestError, match="fact 1: the subject 'Kenia'"):
        edit_many(atlas, [{"prompt": KENYA, "subject": "Kenia", "to": "Asia"}])
    with pytest.raises(UsageError, match="expected a list"):
        edit_many(atlas, {"prompt": KENYA, **FACT})


# ---------------------------------------------------------------- requests


def test_the_first_whole_word_is_the_subject() -> None:
    request = request_of(
        "Unlike Iranians, people in Iran or near Iran speak", subject="Iran", to="X"
    )
    assert request.prompt == "Unlike Iranians, people in {} or near Iran speak"


def test_prompts_are_asked_once() -> None:
    request = request_of(KENYA, **FACT)
    assert given_prompts(["a b ", "a b", "c"], "also", request) == ("a b", "c")


@given(st.text(), st.text(), st.text(min_size=1))
def test_any_text_around_a_subject_is_a_request_or_a_sentence(
    before: str, after: str, subject: str
) -> None:
    prompt = before + subject + after
    try:
        request = request_of(prompt, subject=subject, to="Paris")
    except RequestError:
        return
    assert request.sentence == prompt.rstrip() or request.sentence == prompt
    assert request.subject == subject.strip()


def test_patches_for_reports_failures_by_name(atlas: LanguageModel) -> None:
    broken = editkit.make_editor("ft", atlas, layer=2)
    broken.config.__dict__["layer"] = 99
    made = patches_for(atlas, request_of(KENYA, **FACT), [broken])
    assert made.patches == []
    assert list(made.failures) == ["ft"]
