"""Which questions are asked about an edit."""

from __future__ import annotations

import dataclasses
import time
import types

import pytest
import torch

import editkit
from editkit import LanguageModel, ModelError, ModelSpec, PluginError
from editkit.patches import knowledge
from editkit.patches.asking import ask
from editkit.patches.content import Question, Role
from editkit.patches.knowledge import Knowledge, knowledge_for, script_of
from editkit.patches.proposals import MOST, Proposal, propose, questions_about, unedited
from editkit.patches.requesting import request_of
from editkit.prompts import words
from editkit.records.relations import FactTable, Relation, RelationFact
from editkit_benchmarks.atlas.records import fact_table
from editkit_benchmarks.smollm2.locate import locate
from tests.tiny import tiny
from tests.tokenizers import model_of


@pytest.fixture(scope="module")
def atlas() -> LanguageModel:
    return editkit.load_model("atlas")


@pytest.fixture(scope="module")
def kenya(atlas: LanguageModel) -> Proposal:
    request = request_of("The continent that holds Kenya is", subject="Kenya", to="Europe")
    return propose(atlas, request)


def of_role(proposal: Proposal, role: Role) -> list[Question]:
    return [question for question in proposal.questions if question.role == role]


def test_the_old_object_and_the_relation_are_found(kenya: Proposal) -> None:
    assert kenya.request.target_true == "Africa"
    assert kenya.request.relation_id == "P30"
    assert kenya.questions[0] == Question("edit", kenya.request.sentence, ("Europe", "Africa"))


def test_the_capital_of_kenya_is_asked_when_its_continent_is_edited(kenya: Proposal) -> None:
    asked = of_role(kenya, "subject")
    assert ("Nairobi", "Europe") in {question.answers for question in asked}
    assert all("Kenya" in question.prompt and not question.given for question in asked)
    assert all("Africa" not in question.answers for question in asked)
    relations = [question.answers[0] for question in asked]
    assert max(map(relations.count, relations)) <= 2


def test_other_wordings_come_from_the_table_and_one_has_text_before_it(kenya: Proposal) -> None:
    *worded, opened = of_role(kenya, "wording")
    assert len(worded) == 3
    known = {w.format("Kenya") for w in fact_table().relations["P30"].wordings}
    assert {question.prompt for question in worded} < known - {kenya.request.sentence}
    assert opened.prompt.endswith(f". {kenya.request.sentence}")


def test_the_model_answers_neighbors_with_the_old_object(
    atlas: LanguageModel, kenya: Proposal
) -> None:
    neighbors = of_role(kenya, "neighbor")
    assert len(neighbors) == MOST
    assert any(question.prompt.startswith("The continent that holds") for question in neighbors)
    for question in neighbors:
        assert question.answers == ("Africa", "Europe")
        assert "Kenya" not in question.prompt
        [encoding] = atlas.read([question.prompt])
        logits = atlas.hf(input_ids=torch.tensor([encoding.ids])).logits[0, -1]
        assert atlas.tokenizer.decode([int(logits.argmax())]).strip() == "Africa"


def test_given_prompts_replace_proposals_but_the_subject_is_always_asked(
    atlas: LanguageModel, kenya: Proposal
) -> None:
    keep = ["The capital of France is", "The capital of Italy is"]
    given = propose(atlas, kenya.request, keep=keep, also=["Kenya, as all know, is in"])
    assert [(q.prompt, q.answers[0], q.given) for q in of_role(given, "neighbor")] == [
        ("The capital of France is", "Paris", True),
        ("The capital of Italy is", "Rome", True),
    ]
    assert [q.prompt for q in of_role(given, "wording")] == ["Kenya, as all know, is in"]
    assert of_role(given, "subject") == of_role(kenya, "subject")


def test_an_unknown_relation_gets_text_before_the_prompt(atlas: LanguageModel) -> None:
    request = request_of("Zorbla is a thing of", subject="Zorbla", to="Rome")
    wordings = of_role(propose(atlas, request), "wording")
    assert len(wordings) == 3
    assert all(q.prompt.endswith(". Zorbla is a thing of") for q in wordings)


def test_proposals_leave_room_for_an_answer(atlas: LanguageModel) -> None:
    prompt = "The capital of Kenya is" + " a city, and the capital of France is" * 12
    request = request_of(prompt, subject="Kenya", to="Rome")
    [length] = map(len, atlas.read([prompt]))
    assert length < atlas.context_length  # the edited prompt itself can be asked
    assert length + 24 > atlas.context_length
    proposal = propose(atlas, request)
    assert [question.prompt for question in proposal.questions if len(question.prompt) > 200] == [
        prompt
    ]


def test_a_question_outside_a_chat_is_remarked(atlas: LanguageModel) -> None:
    proposal = propose(atlas, request_of("Where is Louvre?", subject="Louvre", to="Paris"))
    assert any("is a question" in remark for remark in proposal.remarks)


def test_another_script_gets_fewer_questions_and_remarks(atlas: LanguageModel) -> None:
    proposal = propose(atlas, request_of("肯尼亚的首都是", subject="肯尼亚", to="巴黎"))
    assert {question.role for question in proposal.questions} == {"edit", "wording"}
    assert len(proposal.remarks) == 2
    assert all("for this language" in remark for remark in proposal.remarks)


def test_a_tiny_random_model_of_another_script_is_asked_without_errors() -> None:
    for prompt, subject, to in (
        ("Столица Кении —", "Кении", "Париж"),
        ("케냐의 수도는", "케냐", "파리"),
        ("The Space Needle is in", "Space Needle", "Rome"),
    ):
        questions = questions_about(tiny(), request_of(prompt, subject=subject, to=to))
        assert questions[0].role == "edit"


@pytest.mark.parametrize("family", ["llama3+eos", "metaspace", "lower"])
def test_any_tokenizer_can_be_asked_what_is_proposed(family: str) -> None:
    model = model_of(family, template="chatml", context_length=256)
    for prompt, chat in (
        ("The Space Needle is in the city of", False),
        ("Where is the Space Needle?", True),
    ):
        request = request_of(prompt, subject="Space Needle", to="Rome", chat=chat)
        proposal = propose(model, request, keep=["Rome is in"])
        answers = ask(unedited(model), proposal.questions)
        assert len(answers) == len(proposal.questions)
        assert [q.prompt for q in of_role(proposal, "neighbor")] == ["Rome is in"]
        none_given = ask(unedited(model), questions_about(model, request))
        assert len(none_given) >= 2


def test_chats_are_asked_questions() -> None:
    request = request_of("What is the capital of Kenya?", subject="Kenya", to="Rome", chat=True)
    questions = questions_about(tiny(), request)
    assert all(question.chat for question in questions)
    table = knowledge_for(tiny())
    own, _ = table.about(request.prompt, "Kenya", None, chat=True)
    assert own
    assert all("?" in prompt.text for prompt in own)
    plain, _ = table.about("The capital of {} is", "Kenya", None, chat=False)
    assert plain
    assert not any("?" in prompt.text for prompt in plain)


def test_a_chat_needs_a_template(atlas: LanguageModel) -> None:
    request = request_of("What is the capital of Kenya?", subject="Kenya", to="Rome", chat=True)
    with pytest.raises(ModelError, match="no chat template"):
        propose(atlas, request)


def test_a_model_that_gives_the_new_object_already_is_remarked(atlas: LanguageModel) -> None:
    request = request_of("The continent that holds Kenya is", subject="Kenya", to="Africa")
    proposal = propose(atlas, request)
    assert "already answers 'Africa'" in proposal.remarks[0]
    assert proposal.request.target_true is None


def test_an_old_object_that_the_model_does_not_give_is_remarked(atlas: LanguageModel) -> None:
    request = request_of(
        "The continent that holds Kenya is", subject="Kenya", to="Europe", old="Asia"
    )
    proposal = propose(atlas, request)
    assert proposal.remarks[0] == "The old object is 'Asia', but the model answers 'Africa'."
    assert proposal.request.target_true == "Asia"


# ---------------------------------------------------------------- tables


def test_the_general_table_is_sound() -> None:
    table = knowledge_for(tiny()).table
    assert len(table.relations) >= 15
    for relation in table.relations.values():
        plain = [wording for wording in relation.wordings if "?" not in wording]
        assert 3 <= len(plain) < len(relation.wordings)
    facts = [(fact.subject.casefold(), fact.relation) for fact in table.facts]
    several = {each for each in facts if facts.count(each) > 1}
    assert not several  # every relation has a single object
    for fact in table.facts:
        assert not words(fact.object) <= words(fact.subject)


def test_articles_follow_the_subject() -> None:
    facts = (
        RelationFact("the Louvre", "P131", "Paris", 0, "landmark"),
        RelationFact("Big Ben", "P131", "Paris", 1, "landmark"),
    )
    wordings = ("{} is in the city of", "To see {}, go to")
    table = Knowledge(FactTable({"P131": Relation("P131", wordings)}, facts))
    relation = table.relation_of("The {} is in the city of", "Space Needle", ["Paris"])
    assert relation is not None
    filled, known = table.neighbors(
        "The {} is in the city of", "Space Needle", "Paris", relation, chat=False
    )
    assert [prompt.text for prompt in filled] == [
        "The Louvre is in the city of",
        "Big Ben is in the city of",
    ]
    assert [prompt.text for prompt in known] == [
        "To see the Louvre, go to",
        "To see Big Ben, go to",
    ]


def test_scripts() -> None:
    texts = {"Kenya {}": "LATIN", "Кения": "CYRILLIC", "内罗毕": "CJK", "日本の": "KANA", "12": ""}
    assert {text: script_of(text) for text in texts} == texts


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("os:getcwd", "expected a FactTable"),
        ("os:getlogin_", "getlogin_"),
        ("math:sqrt", "failed: TypeError"),
        ("editkit:py.typed", "cannot be read"),
        ("editkit:gone.json", "gone.json"),
    ],
)
def test_a_table_that_cannot_be_read_names_its_model(
    facts: str, message: str, monkeypatch: pytest.MonkeyPatch, atlas: LanguageModel
) -> None:
    offer = knowledge.default_registry().get("model", "atlas")
    spec = ModelSpec("atlas", folder="editkit:models", facts=facts)
    changed = dataclasses.replace(offer, spec=spec)
    registry = types.SimpleNamespace(get=lambda *_: changed)
    monkeypatch.setattr(knowledge, "default_registry", lambda: registry)
    with pytest.raises(PluginError, match="model 'atlas'") as error:
        knowledge_for(atlas)
    assert message in str(error.value)


@pytest.mark.slow
def test_a_pretrained_model_is_asked_about_nairobi() -> None:
    try:
        locate()
    except ModelError as error:
        pytest.skip(str(error))
    model = editkit.load_model("smollm2")
    prompt = "Kenya is a country on the continent of"
    start = time.process_time()
    proposal = propose(model, request_of(prompt, subject="Kenya", to="Europe"))
    assert time.process_time() - start < 60
    assert proposal.request.target_true == "Africa"
    assert ("Nairobi", "Europe") in {q.answers for q in of_role(proposal, "subject")}
    assert len(of_role(proposal, "neighbor")) >= 3
    chat = dataclasses.replace(
        request_of("What is the capital of Kenya?", subject="Kenya", to="Mombasa"), chat=True
    )
    proposal = propose(model, chat)
    assert proposal.request.target_true == "Nairobi"
    assert of_role(proposal, "subject")
