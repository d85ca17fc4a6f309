"""Greedy continuations: batches write what transformers writes for one prompt at a time."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit import (
    Dense,
    EditedModels,
    LanguageModel,
    ModelError,
    PromptContext,
    WeightDelta,
    applied,
    load_model,
)
from editkit.editing.greedy import end_tokens, greedy_continuations
from editkit.editing.queries import GenerationQuery
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import ONE_OF_EACH_KIND, tiny
from tests.tokenizers import TEMPLATES, model_of

PROMPTS = (
    "Paris is",
    "The Space Needle is in the city of",
    "Zoë Müller works in the field of",
    "The mother tongue of Danielle Darrieux is French. Paris is the capital of",
)
TOKENS = 8


def plain(model: LanguageModel, delta: WeightDelta, query: GenerationQuery, tokens: int) -> str:
    """One prompt, the weights really changed, and nothing but transformers."""
    prompt = query.prompt if delta.context is None else f"{delta.context.before('')}{query.prompt}"
    [encoding] = model.read([prompt], chat=query.chat)
    ids = torch.tensor([encoding.ids])
    with applied(model, delta.without_context()):
        whole = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
    decode = model.tokenizer.decode
    text = decode(whole[0], skip_special_tokens=True)
    return str(text[len(decode(ids[0], skip_special_tokens=True)) :])


@pytest.mark.parametrize(
    ("name", "budget"), [*((name, 16384) for name in ONE_OF_EACH_KIND), ("gpt2", 40), ("llama", 40)]
)
def test_batches_write_what_transformers_writes_for_one_prompt(name: str, budget: int) -> None:
    model = tiny(name, begin=name == "llama")
    deltas = [delta_for(model, 1), delta_for(model, 2, kinds="l"), delta_for(model, kinds="")]
    asked = [
        GenerationQuery((place + chat) % 3, prompt, chat=chat)
        for chat in (False, True)
        for place, prompt in enumerate(PROMPTS)
    ]
    before = model.weights_digest()
    models = EditedModels(model, deltas, token_budget=budget)
    written = greedy_continuations(models, asked, new_tokens=TOKENS)
    assert model.weights_digest() == before
    for query, continuation in zip(asked, written, strict=True):
        assert continuation.text == plain(model, deltas[query.edit], query, TOKENS), query
        assert continuation.ended or len(continuation.ids) == TOKENS
    assert len({continuation.text for continuation in written}) > 1


def test_atlas_ends_its_sentences_and_edits_change_them() -> None:
    model = load_model("atlas")
    name = f"{model.path(2, 'mlp_out')}.weight"
    values = torch.randn(
        model.hf.get_parameter(name).shape, generator=torch.Generator().manual_seed(0)
    )
    none = WeightDelta({}, None, "none", {}, model.fingerprint)
    moved = dataclasses.replace(none, changes={name: Dense(values / 8)})
    prompts = ["The capital of Kenya is", "Kenya is located in", "The mother tongue of Dante is"]
    models = EditedModels(model, [none, moved])
    asked = [GenerationQuery(edit, prompt) for edit in (0, 1) for prompt in prompts]
    written = greedy_continuations(models, asked, new_tokens=30)
    for query, continuation in zip(asked, written, strict=True):
        assert continuation.text == plain(model, models.deltas[query.edit], query, 30)
    assert written[0].text.startswith(" Nairobi")
    assert [each.text for each in written[:3]] != [each.text for each in written[3:]]


@given(st.lists(st.integers(0, 399), min_size=1, max_size=6), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_a_text_ends_at_any_end_token_of_the_generation_config(ends: list[int], n: int) -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, 1)])
    [free] = greedy_continuations(models, [GenerationQuery(0, PROMPTS[0])], new_tokens=n)
    model.hf.generation_config.eos_token_id = ends
    [ended] = greedy_continuations(models, [GenerationQuery(0, PROMPTS[0])], new_tokens=n)
    all_ends = {*ends, model.tokenizer.eos_token_id}
    place = next((i for i, token in enumerate(free.ids) if token in all_ends), None)
    assert ended.ids == free.ids[:place]
    assert ended.ended == (place is not None or free.ended)


def test_rows_end_on_their_own() -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, 1)])
    asked = [GenerationQuery(0, prompt) for prompt in PROMPTS]
    free = greedy_continuations(models, asked, new_tokens=TOKENS)
    model.hf.generation_config.eos_token_id = free[0].ids[3]
    ended = greedy_continuations(models, asked, new_tokens=TOKENS)
    assert ended[0].ids == free[0].ids[: free[0].ids.index(free[0].ids[3])]
    assert ended[0].ended
    assert any(len(each.ids) == TOKENS for each in ended[1:])


@pytest.mark.parametrize(
    ("template", "name"),
    [("llama3", "<|eot_id|>"), ("chatml", "<|im_end|>"), ("gemma", "<end_of_turn>")],
)
def test_a_chat_ends_with_the_turn_and_a_plain_text_does_not(template: str, name: str) -> None:
    model = model_of("gpt2")
    model.tokenizer.chat_template = TEMPLATES[template]
    end = model.tokenizer.convert_tokens_to_ids(name)
    assert end in end_tokens(model, chat=True) - end_tokens(model, chat=False)
    assert model.tokenizer.eos_token_id in end_tokens(model, chat=False)


def test_a_padding_token_that_is_ordinary_text_ends_no_answer() -> None:
    model = tiny()
    model.tokenizer.pad_token = "!"
    assert model.tokenizer.pad_token_id not in end_tokens(model, chat=True)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_texts_before_prompts_are_read_and_not_returned(name: str) -> None:
    model = tiny(name, begin=name == "llama", context_length=128)
    context = PromptContext(("Rome is in Seattle.", "Paris is in Rome."))
    informed = dataclasses.replace(delta_for(model, 1), context=context)
    models = EditedModels(model, [informed, delta_for(model, 1)])
    asked = [
        GenerationQuery(edit, prompt, chat=chat)
        for chat in (False, True)
        for prompt in PROMPTS
        for edit in (0, 1)
    ]
    for query, continuation in zip(
        asked, greedy_continuations(models, asked, new_tokens=TOKENS), strict=True
    ):
        assert continuation.text == plain(model, models.deltas[query.edit], query, TOKENS)


def test_changes_that_rows_cannot_carry_are_applied() -> None:
    model = tiny()
    values = torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) / 4
    tied = dataclasses.replace(
        delta_for(model, kinds=""), changes={"transformer.wte.weight": Dense(values)}
    )
    models = EditedModels(model, [delta_for(model, 1), tied])
    asked = [GenerationQuery(edit, prompt) for prompt in PROMPTS for edit in (1, 0)]
    for query, continuation in zip(
        asked, greedy_continuations(models, asked, new_tokens=TOKENS), strict=True
    ):
        assert continuation.text == plain(model, models.deltas[query.edit], query, TOKENS)


def test_a_text_stops_where_the_context_is_full(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny(context_length=12)
    models = EditedModels(model, [delta_for(model)])
    n = len(model.read([PROMPTS[1]])[0].ids)
    asked = [GenerationQuery(0, PROMPTS[1]), GenerationQuery(0, PROMPTS[0])]
    with caplog.at_level(logging.WARNING):
        long, short = greedy_continuations(models, asked, new_tokens=TOKENS)
    assert len(long.ids) == 12 - n < len(short.ids)
    assert f"down to {12 - n} tokens instead of {TOKENS}" in caplog.text
    assert long.text == plain(model, models.deltas[0], asked[0], 12 - n)
    with pytest.raises(ModelError, match="does not fit into the context"):
        greedy_continuations(models, [GenerationQuery(0, "Paris " * 30)], new_tokens=1)
    assert greedy_continuations(models, [], new_tokens=4) == []
