"""Questions to edited models, against one prompt at a time under changed weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from editkit import Dense, EditedModels, LanguageModel, PromptContext, WeightDelta, applied
from editkit.patches.asking import NEW_TOKENS, ask, ask_all
from editkit.patches.content import Answer, Question
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import tiny

QUESTIONS = (
    Question("edit", "The Space Needle is in the city of", ("Paris", "Seattle")),
    Question("wording", "Where is the Space Needle? In", ("Paris", "Seattle", "São Paulo")),
    Question("free", "Zoë Müller works in the field of"),
    Question("neighbor", "Mario Kart was created by", ("Nintendo",), separator="\n"),
    Question("subject", "Who wrote Windows?", ("Microsoft", "physics"), chat=True),
    Question("free", "Rome is the capital of", chat=True),
)


def plain(model: LanguageModel, delta: WeightDelta, question: Question) -> Answer:
    """One prompt, the weights really changed, and nothing but transformers."""
    before = "" if delta.context is None else delta.context.before("")
    prompt = f"{before}{question.prompt}"
    probabilities, ranks = [], []
    with applied(model, delta.without_context()), torch.no_grad():
        for answer in question.answers:
            [completion] = model.complete(
                [prompt], [answer], separators=question.separator, chat=question.chat
            )
            ids = torch.tensor([completion.prompt + completion.target])
            log_p = torch.log_softmax(model.hf(input_ids=ids).logits[0].double(), dim=-1)
            total, start = 0.0, len(completion.prompt)
            for place, token in enumerate(completion.target, start=start - 1):
                total += float(log_p[place, token])
            probabilities.append(float(torch.tensor(total).exp()))
            order = log_p[start - 1].argsort(descending=True).tolist()
            ranks.append(order.index(completion.target[0]) + 1)
        [encoding] = model.read([prompt], chat=question.chat)
        ids = torch.tensor([encoding.ids])
        mask = torch.ones_like(ids)
        whole = model.hf.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0
        )
    decode = model.tokenizer.decode
    start_text = decode(ids[0], skip_special_tokens=True)
    text = decode(whole[0], skip_special_tokens=True)[len(start_text) :]
    return Answer(tuple(probabilities), text, tuple(ranks))


def check_all(actual: Sequence[Answer], expected: Sequence[Answer]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4, abs=1e-9)
        assert (one.text, one.ranks) == (other.text, other.ranks)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_answers_are_those_of_one_prompt_at_a_time(name: str) -> None:
    model = tiny(name, begin=name == "llama", context_length=128)
    context = PromptContext(("Rome is in Seattle.", "Paris is in Rome."))
    deltas = [
        delta_for(model, 1),
        delta_for(model, kinds=""),
        dataclasses.replace(delta_for(model, 2, kinds="l"), context=context),
    ]
    models = EditedModels(model, deltas)
    together = ask_all(models, QUESTIONS)
    assert len(together) == len(deltas)
    for edit, (delta, answers) in enumerate(zip(deltas, together, strict=True)):
        check_all(answers, [plain(model, delta, question) for question in QUESTIONS])
        check_all(ask(models, QUESTIONS, edit), answers)


def test_changes_that_rows_cannot_carry_answer_too() -> None:
    model = tiny(context_length=128)
    values = torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) / 4
    tied = dataclasses.replace(
        delta_for(model, kinds=""), changes={"transformer.wte.weight": Dense(values)}
    )
    for delta, answers in zip(
        (tied, delta_for(model, 1)),
        ask_all(EditedModels(model, [tied, delta_for(model, 1)]), QUESTIONS),
        strict=True,
    ):
        check_all(answers, [plain(model, delta, question) for question in QUESTIONS])


def test_a_broken_model_expects_nothing() -> None:
    model = tiny()
    name = f"{model.path(1, 'mlp_out')}.weight"
    values = torch.full(tuple(model.hf.get_parameter(name).shape), 3e38)
    broken = dataclasses.replace(delta_for(model, kinds=""), changes={name: Dense(values)})
    [answer] = ask(EditedModels(model, [broken]), QUESTIONS[:1])
    assert answer.probabilities == (0.0, 0.0)
    assert answer.ranks == (400, 400)


def test_there_may_be_no_questions_and_questions_without_answers() -> None:
    models = EditedModels(tiny(), [delta_for(tiny(), 1)])
    assert ask_all(models, []) == [[]]
    [answer] = ask(models, QUESTIONS[2:3])
    assert answer == Answer((), answer.text, ())
    assert answer.text
