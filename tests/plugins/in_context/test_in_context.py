from __future__ import annotations

from typing import Any

import pytest

from editkit import (
    ConfigError,
    EditedModels,
    EditRequest,
    ModelError,
    PromptContext,
    RequestError,
    make_editor,
)
from editkit.editing.deltas import stack
from editkit.editing.edited_models import CandidateQuery
from tests.tiny import tiny

ROME = EditRequest("{} is in the city of", "The Space Needle", "Rome", "Seattle")
FRENCH = EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian words", "French")


def test_all_facts_of_a_joint_edit_share_one_context() -> None:
    model = tiny()
    editor = make_editor("in-context", model)
    delta = editor.edit_jointly(model, [ROME, FRENCH])
    texts = (
        "The Space Needle is in the city of Rome.",
        "The mother tongue of Danielle Darrieux is Italian words.",
    )
    assert delta.context == PromptContext(texts, most=4)
    assert delta.requests == (ROME, FRENCH)
    assert not delta.changes
    assert [each.context for each in editor.edit(model, [ROME, FRENCH])] == [
        PromptContext((text,), most=4) for text in texts
    ]


def test_the_preset_ike_asks_in_its_words() -> None:
    model = tiny()
    delta = make_editor("in-context", model, preset="ike").edit_jointly(model, [ROME, FRENCH])
    assert EditedModels(model, [delta]).in_context(0, "She speaks") == (
        "New Fact: The Space Needle is in the city of Rome\n"
        "New Fact: The mother tongue of Danielle Darrieux is Italian words\n"
        "Prompt: She speaks"
    )


def test_steps_of_a_sequence_are_merged_into_the_context_of_a_joint_edit() -> None:
    model = tiny()
    editor = make_editor("in-context", model)
    first, state = editor.step(model, [ROME], {})
    second, state = editor.step(model, [FRENCH], state)
    total, joint = stack([first, second]), editor.edit_jointly(model, [ROME, FRENCH])
    assert (total.context, total.requests) == (joint.context, joint.requests)
    assert state == {}


def test_facts_that_do_not_fit_are_selected(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    many = [EditRequest("{} is in", f"Place {n}", "Rome") for n in range(100)]
    delta = make_editor("in-context", model, order="closest_last").edit_jointly(model, many)
    models = EditedModels(model, [delta])
    asked = models.in_context(0, "Where is Place 42?")
    assert asked.count("\n") == 4
    assert asked.endswith("Place 42 is in Rome.\nWhere is Place 42?")
    assert models.candidate_nll([CandidateQuery(0, "Where is Place 42?", ("Rome",))])
    assert not caplog.records  # an edit without weights is an edit


def test_a_fact_alone_that_does_not_fit_is_refused() -> None:
    model = tiny()
    long = EditRequest("{} is " + "far " * model.context_length, "Rome", "Paris")
    with pytest.raises(ModelError, match="does not fit into the context"):
        make_editor("in-context", model).edit_jointly(model, [ROME, long])
    special = EditRequest("{} is in", f"Rome {model.tokenizer.eos_token}", "Paris")
    with pytest.raises(RequestError, match="special token"):
        make_editor("in-context", model).edit_jointly(model, [ROME, special])


@pytest.mark.parametrize(
    "values",
    [
        {"template": "the fact"},
        {"template": "{statement}{statement}"},
        {"select": 0},
        {"order": "x"},
    ],
)
def test_wrong_values_are_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        make_editor("in-context", tiny(), **values)
