"""Open questions to edited models, and tests of consequences with conditions."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit import Consequence, EditedModels, OpenQuestion, PromptContext, WeightDelta, applied
from editkit.editing import open_questions
from editkit.editing.open_questions import Outcome, free_answers, outcomes, unedited_answers
from editkit.editing.queries import GenerationQuery
from editkit.editing.stops import Stop
from editkit.matching import contained
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import tiny

STOP = Stop("tokens", 5)
PROMPTS = ("Paris is", "The Space Needle is in the city of", "Microsoft", "Rome and")
ANSWERS = ("Zoë", "Rome", "zebra")

Asked = list[tuple[EditedModels, GenerationQuery]]


@pytest.fixture(scope="module")
def models() -> EditedModels:
    """Two edited models, one in context, one without an edit, and a joint edit of two."""
    model = tiny("gpt2")
    none = delta_for(model, kinds="")
    in_context = dataclasses.replace(none, context=PromptContext(("Rome is in Seattle.",)))
    joint = delta_for(model, 3, kinds="l")
    return EditedModels(model, [delta_for(model, 1), in_context, none, joint, joint])


@pytest.fixture(scope="module")
def right(models: EditedModels) -> dict[str, str]:
    """What the unedited model answers."""
    asked = [OpenQuestion(prompt, (("any",),)) for prompt in PROMPTS]
    return dict(zip(PROMPTS, unedited_answers(models, asked, STOP), strict=True))


@contextlib.contextmanager
def logged() -> Iterator[Asked]:
    """Inside, no answer is known in advance, and every question that a model is asked is listed."""
    log: Asked = []
    original = open_questions.greedy_continuations

    def ask(models: EditedModels, queries: Sequence[GenerationQuery], **settings: Any) -> list[Any]:
        log.extend((models, query) for query in queries)
        return original(models, queries, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_questions, "greedy_continuations", ask)
        patch.setattr(open_questions, "_known", type(open_questions._known)())
        yield log


@pytest.fixture
def asked() -> Iterator[Asked]:
    """The questions that models are asked during a test."""
    with logged() as log:
        yield log


def edited(log: Asked) -> list[tuple[int, str]]:
    """The questions to models with an edit."""
    return [
        (query.edit, query.prompt)
        for models, query in log
        if models.deltas[query.edit].changes or models.deltas[query.edit].context
    ]


@st.composite
def groups_of_tests(draw: st.DrawFn) -> dict[str, list[Consequence]]:
    questions = st.builds(
        lambda prompt, answer, chat: OpenQuestion(prompt, ((answer,),), chat=chat),
        st.sampled_from(PROMPTS),
        st.sampled_from(ANSWERS),
        st.booleans(),
    )
    test = st.builds(
        Consequence,
        st.lists(questions, min_size=1, max_size=2).map(tuple),
        st.sampled_from(("any", "all")),
        st.lists(questions, max_size=2).map(tuple),
    )
    return draw(st.dictionaries(st.sampled_from(("aliases", "own")), st.lists(test, max_size=2)))


@given(st.lists(groups_of_tests(), min_size=5, max_size=5))
@settings(max_examples=15)
def test_a_batch_answers_as_every_model_alone(
    models: EditedModels, tests: list[dict[str, list[Consequence]]]
) -> None:
    together = outcomes(models, tests, match="contained", stop=STOP)
    for delta, own, outcome in zip(models.deltas, tests, together, strict=True):
        alone = EditedModels(models.model, [delta])
        for name, group in own.items():
            assert outcome[name] == [
                outcomes(alone, [{name: [test]}], match="contained", stop=STOP)[0][name][0]
                for test in group
            ]


@given(known=st.lists(st.booleans(), max_size=3), needs=st.sampled_from(("any", "all")))
@settings(max_examples=25)
def test_a_test_with_a_failed_condition_is_never_executed(
    models: EditedModels, right: dict[str, str], known: list[bool], needs: Literal["any", "all"]
) -> None:
    conditions = tuple(
        OpenQuestion(prompt, ((right[prompt] if is_known else "zebra",),))
        for prompt, is_known in zip(PROMPTS, known, strict=False)
    )
    question = OpenQuestion("The mother tongue of Danielle Darrieux is", (("French",),))
    test = Consequence((question, question), needs, conditions)
    with logged() as log:
        [outcome, *_] = outcomes(
            models, [{"own": [test]}, *[{}] * (len(models) - 1)], match="exact", stop=STOP
        )
    if all(known):
        assert outcome["own"][0].passed is not None
        assert len(outcome["own"][0].texts) == 2
        assert edited(log) == [(0, question.prompt)] * 2
    else:
        assert outcome == {"own": [Outcome(None)]}
        assert edited(log) == []


@pytest.mark.parametrize(
    ("needs", "answers", "passed"),
    [
        ("any", ("yes", "no"), True),
        ("all", ("yes", "no"), False),
        ("all", ("yes", "yes"), True),
        ("any", ("no", "no"), False),
    ],
)
def test_any_or_all_of_the_questions_must_be_answered(
    models: EditedModels, needs: Any, answers: tuple[str, ...], passed: bool
) -> None:
    asked = [OpenQuestion(prompt, (("any",),)) for prompt in PROMPTS[:2]]
    texts = free_answers(models, [(0, each) for each in asked], STOP)
    questions = tuple(
        OpenQuestion(question.prompt, ((text if answer == "yes" else "zebra",),))
        for question, text, answer in zip(asked, texts, answers, strict=True)
    )
    tests = [{"own": [Consequence(questions, needs)]}, *[{}] * (len(models) - 1)]
    [outcome, *_] = outcomes(models, tests, match="exact", stop=STOP)
    assert outcome == {"own": [Outcome(passed, tuple(texts))]}


def test_the_unedited_model_answers_each_question_once(asked: Asked, models: EditedModels) -> None:
    condition = OpenQuestion("Paris is", (("zebra",),))
    tests = [{"own": [Consequence((condition,), conditions=(condition,))] * 2}] * len(models)
    other_answer = dataclasses.replace(condition, answers=(("lion",),))
    for _ in range(2):
        outcomes(models, tests, match="contained", stop=STOP)
        outcomes(models.unedited(), tests, match="contained", stop=STOP)
        outcomes(EditedModels(models.model, models.deltas[:1]), tests[:1], match="exact", stop=STOP)
        unedited_answers(models, [other_answer], STOP)
    assert [query.prompt for _, query in asked] == ["Paris is"]


def test_models_of_a_joint_edit_share_their_answers(
    models: EditedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = EditedModels.rows

    def counted(self: EditedModels, edits: Sequence[int], **settings: Any) -> Any:
        rows.append(len(edits))
        return original(self, edits, **settings)

    monkeypatch.setattr(EditedModels, "rows", counted)
    question = OpenQuestion("Paris is", (("Rome",),))
    first, second = free_answers(models, [(3, question), (4, question)], STOP)
    assert first == second
    assert rows == [1]


def test_other_stops_end_tokens_and_weights_are_asked_again(asked: Asked) -> None:
    model = tiny("gpt2")
    models = EditedModels(model, [delta_for(model, 1)])
    question = OpenQuestion("Paris is", (("Rome",),))
    for stop in (STOP, Stop("tokens", 6), STOP):
        unedited_answers(models, [question], stop)
    assert len(asked) == 2
    model.hf.generation_config.eos_token_id = 7
    unedited_answers(models, [question], STOP)
    assert len(asked) == 3
    with applied(model, delta_for(model, 2)):
        unedited_answers(models, [question], STOP)
    assert len(asked) == 4


def test_only_so_many_answers_are_kept(
    asked: Asked, models: EditedModels, monkeypatch: pytest.MonkeyPatch, right: dict[str, str]
) -> None:
    monkeypatch.setattr(open_questions, "_KEPT", 2)
    questions = [OpenQuestion(prompt, (("any",),)) for prompt in PROMPTS]
    assert unedited_answers(models, questions, STOP) == list(right.values())
    assert len(open_questions._known) == 2
    unedited_answers(models, questions[2:], STOP)
    assert len(asked) == 4
    unedited_answers(models, questions[:1], STOP)
    assert len(asked) == 5


def test_an_answer_of_several_parts_needs_one_spelling_of_each() -> None:
    question = OpenQuestion("Its colours are", (("red", "crimson"), ("white",)))
    assert open_questions.passes("crimson and white", question, "contained")
    assert not open_questions.passes("crimson and red", question, "contained")
    assert contained("crimson and red", question.answers[0])


def test_no_models_and_no_tests_need_no_model(asked: Asked, models: EditedModels) -> None:
    assert outcomes(models, [{}] * len(models), match="exact", stop=STOP) == [{}] * len(models)
    assert outcomes(EditedModels(models.model, []), [], match="exact", stop=STOP) == []
    assert asked == []


def test_the_model_is_left_as_it_was(models: EditedModels) -> None:
    before = models.model.weights_digest()
    delta: WeightDelta
    for edit, delta in enumerate(models.deltas):
        free_answers(models, [(edit, OpenQuestion("Rome and", (("Paris",),)))], STOP)
        assert delta is models.deltas[edit]
    assert models.model.weights_digest() == before
