"""Edits that put texts before prompts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from editkit import (
    Config,
    DeltaError,
    Dense,
    EditedModels,
    Editor,
    PromptContext,
    RequestError,
    WeightDelta,
    applied,
)
from editkit.editing.delta_effects import Effects
from editkit.editing.delta_files import load_delta, save_delta
from editkit.editing.deltas import stack
from editkit.editing.edited_models import CandidateQuery, GenerationQuery, TextQuery
from editkit.editing.generation import continued, draws
from editkit.editing.next_tokens import NextTokenQuery, most_likely_tokens
from editkit.editing.outcomes import Edit, outcomes_of
from tests.editkit.editing.test_deltas import REQUEST, delta_for
from tests.editkit.editing.test_edited_models import plain_nll
from tests.tiny import tiny

FACTS = ("Rome is in Seattle.", "Paris is in Rome.", "Mario Kart was created by Microsoft.")
PROMPT = "The Space Needle is in the city of"


def written(model: Any, *texts: str, **settings: Any) -> WeightDelta:
    """An edit that changes no weights."""
    context = PromptContext(texts, **settings)
    return WeightDelta({}, REQUEST, "test", {}, model.fingerprint, context=context)


# ---------------------------------------------------------------- which texts


@pytest.mark.parametrize(
    ("prompt", "most", "order", "expected"),
    [
        ("anything", None, "written", [0, 1, 2]),
        ("Who created Mario Kart?", 1, "written", [2]),  # rare words count more than "is in"
        ("Paris is in", 1, "written", [1]),
        ("Paris is in", 2, "written", [0, 1]),
        ("Rome is in", 1, "written", [1]),  # a tie: the later text
        ("rome IS in", 2, "closest_last", [0, 1]),
        ("Who created Mario Kart in Paris?", None, "closest_last", [0, 1, 2]),
        ("Is Seattle in Rome?", 3, "closest_last", [2, 1, 0]),
        ("a", 2, "written", [1, 2]),  # nothing shared: the latest
    ],
)
def test_a_prompt_gets_the_texts_that_share_most_words(prompt, most, order, expected) -> None:
    context = PromptContext(FACTS, most=most, order=order)
    assert context.chosen(prompt) == tuple(FACTS[i] for i in expected)


def test_words_of_scripts_without_spaces_are_characters() -> None:
    texts = ("法国的首都是罗马。", "日本的首都是北京。", "Rome is in Seattle.")
    assert PromptContext(texts, most=1).chosen("法国在哪里") == texts[:1]


def test_texts_are_followed_by_separators_and_what_precedes_the_prompt() -> None:
    context = PromptContext(("a", "b"), separator="; ", before_prompt="Q: ")
    assert context.before("anything") == "a; b; Q: "


# ---------------------------------------------------------------- edited models


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_prompt_is_scored_after_its_context(name: str, begin: bool) -> None:
    model = tiny(name, begin=begin)
    weights = delta_for(model, 1)
    deltas = [
        written(model, *FACTS[:2]),
        dataclasses.replace(weights, context=PromptContext(FACTS[2:], separator=" ")),
        weights,
        written(model, *FACTS, most=1),
    ]
    before = ["Rome is in Seattle.\nParis is in Rome.\n", f"{FACTS[2]} ", "", f"{FACTS[2]}\n"]
    prompts = [PROMPT, "Mario Kart was created by"]
    candidates = ("Seattle", "physics and São Paulo")
    queries = [CandidateQuery(e, p, candidates) for e in (3, 1, 0, 2) for p in prompts]
    scores = EditedModels(model, deltas).candidate_nll(queries)
    for query, row in zip(queries, scores, strict=True):
        begun = before[query.edit]
        if query.edit == 3 and query.prompt == PROMPT:
            begun = f"{FACTS[1]}\n"  # shares "is in" with it, as the first does
        with applied(model, deltas[query.edit].without_context()):
            expected = [plain_nll(model, f"{begun}{query.prompt}", c) for c in candidates]
        assert row == pytest.approx(expected, rel=1e-4)


def test_the_separator_depends_on_the_prompt_alone() -> None:
    model = tiny()
    models = EditedModels(model, [written(model, "法国的首都是罗马 “Rome", separator=" ")])
    usual = models.candidate_nll([CandidateQuery(0, "He is", ("Rome",))])
    assert usual == models.candidate_nll([CandidateQuery(0, "He is", ("Rome",), " ")])
    assert usual != models.candidate_nll([CandidateQuery(0, "He is", ("Rome",), "\n")])


def test_in_a_chat_the_context_is_part_of_the_users_turn() -> None:
    model = tiny("llama", begin=True)
    models = EditedModels(model, [written(model, *FACTS)])
    [row] = models.candidate_nll([CandidateQuery(0, PROMPT, ("Seattle",), None, True)])
    asked = CandidateQuery(0, "\n".join([*FACTS, PROMPT]), ("Seattle",), None, True)
    assert row == models.unedited().candidate_nll([asked])[0]
    query = GenerationQuery(0, PROMPT, chat=True)
    assert models.generate([query], tokens=110)[0].startswith(f"{PROMPT}\n")


@pytest.mark.parametrize("begin", [False, True])
def test_the_context_of_a_text_is_not_scored(begin: bool) -> None:
    model = tiny("llama", begin=begin)
    models = EditedModels(model, [written(model, *FACTS[:1]), written(model, *FACTS[1:])])
    texts = [f"{PROMPT} Seattle", "Zoë Müller works in the field of physics"]
    queries = [TextQuery(edit, text) for text in texts for edit in (0, 1)]
    rows = models.text_nll(queries)
    plain = models.unedited().text_nll([TextQuery(0, query.text) for query in queries])
    assert [len(row) for row in rows] == [len(row) for row in plain]
    for query, row in zip(queries, rows, strict=True):
        [whole] = models.unedited().text_nll([TextQuery(0, models.in_context(*_pair(query)))])
        assert row == pytest.approx(whole[-len(row) :], rel=1e-4)
    short = models.text_nll(queries, max_tokens=5)
    assert [len(row) for row in short] == [4] * 4
    for row, whole in zip(short, rows, strict=True):
        assert row == pytest.approx(whole[:4], rel=1e-4)


def _pair(query: TextQuery) -> tuple[int, str]:
    return query.edit, query.text


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_generated_text_begins_with_the_prompt_and_has_its_usual_draws(name: str) -> None:
    model = tiny(name)
    deltas = [written(model, *FACTS[:1]), delta_for(model, kinds=""), written(model, *FACTS[1:])]
    models = EditedModels(model, deltas)
    queries = [GenerationQuery(edit, PROMPT, f"case {edit}") for edit in (2, 1, 0)]
    texts = models.generate(queries, tokens=24)
    assert texts[1] == models.unedited().generate([queries[1]], tokens=24)[0]
    alone = len(model.encode([PROMPT])[0])
    for query, text in zip(queries, texts, strict=True):
        assert text.startswith(PROMPT)
        [read] = model.encode([models.in_context(query.edit, PROMPT)])
        before = len(read) - alone
        uniform = torch.zeros(1, before + 24)
        uniform[:, before:] = draws([(0, query.name, PROMPT)], 24)
        with torch.no_grad(), model.frozen():
            [ids] = continued(model, [read.ids], uniform, top_k=5)
        assert text == f"{PROMPT}{model.tokenizer.decode(ids).removeprefix(read.text)}"
        assert models.generate([query], tokens=24) == [text]  # alone as in a batch


def test_less_room_for_a_generated_text_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    most = model.context_length
    models = EditedModels(model, [written(model, *FACTS)])
    [text] = models.generate([GenerationQuery(0, PROMPT)], tokens=most)
    [alone, read] = model.encode([PROMPT, models.in_context(0, PROMPT)])
    room = most - (len(read) - len(alone))
    assert f"down to {room} tokens instead of {most}" in caplog.text
    assert text.startswith(PROMPT)


def test_a_context_that_does_not_fit_is_refused() -> None:
    model = tiny()
    models = EditedModels(model, [written(model, *FACTS * 30)])
    ask = [
        lambda: models.candidate_nll([CandidateQuery(0, PROMPT, ("Seattle",))]),
        lambda: models.text_nll([TextQuery(0, PROMPT)], max_tokens=4),
        lambda: models.generate([GenerationQuery(0, PROMPT)]),
    ]
    for act in ask:
        with pytest.raises(
            DeltaError, match="with the 90 texts that the edit puts before"
        ) as error:
            act()
        assert f"the context of {model.context_length} tokens" in str(error.value)
        assert "select fewer" in error.value.hint
    fewer = EditedModels(model, [written(model, *FACTS * 30, most=2)])
    assert fewer.candidate_nll([CandidateQuery(0, PROMPT, ("Seattle",))])


def test_special_tokens_in_a_context_are_refused() -> None:
    model = tiny()
    models = EditedModels(model, [written(model, f"a {model.tokenizer.eos_token} b")])
    with pytest.raises(RequestError, match="the context of prompts .* the special token"):
        models.candidate_nll([CandidateQuery(0, PROMPT, ("Seattle",))])


def test_token_ids_need_their_context() -> None:
    model = tiny()
    models = EditedModels(model, [written(model, *FACTS), delta_for(model, 1)])
    [plain, read] = model.encode([PROMPT, models.in_context(0, PROMPT)])
    for act in (
        lambda: models.rows([1, 0]).__enter__(),
        lambda: most_likely_tokens(models, [NextTokenQuery(0, plain.ids)]),
    ):
        with pytest.raises(DeltaError, match="edit 0 puts texts before prompts"):
            act()
    with torch.no_grad():
        expected = int(model.hf(input_ids=torch.tensor([read.ids])).logits[0, -1].argmax())
    assert most_likely_tokens(models, [NextTokenQuery(0, read.ids, in_context=True)]) == [expected]


def test_weights_that_cannot_share_a_batch_keep_their_context() -> None:
    model = tiny()
    values = torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) / 4
    changes = {"transformer.wte.weight": Dense(values)}
    tied = dataclasses.replace(written(model, *FACTS), changes=changes)
    [row] = EditedModels(model, [written(model, "x"), tied]).candidate_nll(
        [CandidateQuery(1, PROMPT, ("Seattle",))]
    )
    with applied(model, tied.without_context()):
        expected = plain_nll(model, "\n".join([*FACTS, PROMPT]), "Seattle")
    assert row == pytest.approx([expected], rel=1e-4)


# ---------------------------------------------------------------- edits as values


def test_weights_cannot_carry_a_context() -> None:
    model = tiny()
    delta = dataclasses.replace(delta_for(model), context=PromptContext(FACTS))
    before = model.fingerprint
    with pytest.raises(DeltaError, match="puts texts before prompts") as error:
        applied(model, [delta_for(model, 1), delta]).__enter__()
    assert "EditedModels" in error.value.hint
    assert model.fingerprint == before
    with applied(model, delta.without_context()):
        assert model.fingerprint != before


def test_a_sequence_of_both_kinds_is_merged_in_order() -> None:
    """Weights are edited on top of weights; texts are joined; the base answers for both."""
    model = tiny()
    first = delta_for(model, 1, kinds="l")
    total = stack([written(model, FACTS[0]), first, written(model, FACTS[1])])
    with applied(model, total.without_context()):
        on_top = delta_for(model, 2, kinds="l")
        later = written(model, FACTS[2])
    total = stack([total, on_top, later])
    assert total.context == PromptContext(FACTS)
    assert len(total.requests) == 5
    [row] = EditedModels(model, [total]).candidate_nll([CandidateQuery(0, PROMPT, ("Seattle",))])
    with applied(model, [first, on_top]):
        expected = plain_nll(model, "\n".join([*FACTS, PROMPT]), "Seattle")
    assert row == pytest.approx([expected], rel=1e-4)


class Teller(Editor[Config]):
    """A third party's editor of prompts, which writes one fact at a time."""

    name = "teller"

    def edit(self, model: Any, requests: Any) -> list[WeightDelta]:
        texts = (PromptContext((f"{request.statement}.",)) for request in requests)
        return [
            self.delta(model, request, {}, context=text)
            for request, text in zip(requests, texts, strict=True)
        ]


def test_facts_of_a_third_partys_editor_are_written_jointly() -> None:
    model = tiny()
    requests = [REQUEST, dataclasses.replace(REQUEST, subject="Paris")]
    delta = Teller(Config()).edit_jointly(model, requests)
    assert delta.context == PromptContext(("Rome is in Seattle.", "Paris is in Seattle."))
    assert delta.requests == tuple(requests)


@pytest.mark.parametrize(
    "settings", [{"most": 2}, {"order": "closest_last"}, {"separator": " "}, {"before_prompt": "Q"}]
)
def test_contexts_with_other_settings_are_not_joined(settings: Any) -> None:
    model = tiny()
    with pytest.raises(DeltaError, match=f"{next(iter(settings))} .* cannot be joined"):
        stack([written(model, FACTS[0]), written(model, FACTS[1], **settings)])


def test_the_digest_depends_on_the_context_and_is_otherwise_unchanged() -> None:
    model = tiny()
    plain = delta_for(model)
    context = PromptContext(FACTS[:2], most=1)
    variants = [
        context,
        *(
            dataclasses.replace(context, **each)
            for each in (
                {"texts": FACTS[1::-1]},
                {"texts": (FACTS[0] + "\n" + FACTS[1],)},
                {"most": None},
                {"order": "closest_last"},
                {"separator": " "},
                {"before_prompt": "Q"},
            )
        ),
    ]
    digests = {dataclasses.replace(plain, context=each).digest() for each in variants}
    assert len({plain.digest(), *digests}) == 8
    assert dataclasses.replace(plain, context=context).without_context().digest() == plain.digest()


@pytest.mark.parametrize("kinds", ["", "lrd"])
def test_a_context_is_saved_and_loaded(kinds: str, tmp_path: Path) -> None:
    model = tiny()
    context = PromptContext((*FACTS, '{}法国 "\\ \n'), 2, "closest_last", " ", "Prompt: ")
    delta = dataclasses.replace(delta_for(model, kinds=kinds), context=context)
    save_delta(delta, tmp_path / "d")
    again = load_delta(tmp_path / "d")
    assert again.context == context
    assert again.digest() == delta.digest()


def test_a_delta_without_a_context_is_saved_as_before(tmp_path: Path) -> None:
    save_delta(delta_for(tiny()), tmp_path / "d")
    with safe_open(tmp_path / "d", framework="pt") as file:
        description = json.loads(file.metadata()["editkit"])
    assert description["format"] == 1
    assert "context" not in description


def test_an_edit_of_prompts_alone_is_an_edit() -> None:
    model = tiny()
    delta = written(model, *FACTS)
    assert (delta.norm(), delta.is_finite()) == (0.0, True)
    notes = Effects(model).of(delta)
    assert notes == {"delta_norm": 0.0, "context_texts": 3}
    assert not outcomes_of([Edit("it", notes, taken=1.0)])
    assert outcomes_of([Edit("it", notes, taken=0.0)]).untaken == 1
    assert outcomes_of([Edit("it", Effects(model).of(delta.without_context()))]).unchanged == 1
