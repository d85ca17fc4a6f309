"""Where texts end, and that a batch may stop as soon as the end is certain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from editkit import ConfigError, EditedModels, LanguageModel
from editkit.editing import greedy
from editkit.editing.generation import text_after
from editkit.editing.greedy import Continuation, greedy_continuations
from editkit.editing.queries import GenerationQuery
from editkit.editing.stops import WILD, Stop, StopName
from editkit.models.running import forward
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import tiny

RULES: tuple[StopName, ...] = ("end", "line", "sentence", "tokens")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" Paris. It was built in", "Paris"),
        ("\n\nParis\nLondon", "Paris"),
        (" Paris", "Paris"),
        (" Paris.", "Paris"),
        ("  \n ", ""),
        ('. "Paris" is', '. "Paris" is'),
        (" ... Paris. It", "... Paris"),
        ("Paris... The", "Paris"),
        (" St. Louis, Missouri. The city", "St. Louis, Missouri"),
        (" No. 5 was. It", "No. 5 was"),
        (" the U.S. Senate. It", "the U.S. Senate"),
        (" the U.S. The country", "the U.S"),
        (" Washington, D.C. It was", "Washington, D.C"),
        (" J. R. R. Tolkien. He", "J. R. R. Tolkien"),
        (" Apple Inc. and Google. The", "Apple Inc. and Google"),
        (" Apple Inc. The", "Apple Inc"),
        (" 3.5 million. It", "3.5 million"),
        (" 42. It is", "42"),
        (" example.com. It", "example.com"),
        (" Yahoo! was first. It", "Yahoo! was first"),
        (' He said "Paris." Then', 'He said "Paris'),
        (" (in Paris.) Then", "(in Paris"),
        (" Paris? Yes", "Paris"),
        ("パリ。フランスの", "パリ"),
        ("पेरिस। यह", "पेरिस"),
        ("باريس؟ نعم", "باريس"),
        ("Paris.\u2028London", "Paris"),
    ],
)
def test_sentences(text: str, sentence: str) -> None:
    assert Stop("sentence").cut(text) == sentence


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n \n Paris. It was\r\nbuilt", "Paris. It was"),
        (" Paris", "Paris"),
        ("\n", ""),
        ("a\u2028b", "a"),
    ],
)
def test_lines(text: str, line: str) -> None:
    assert Stop("line").cut(text) == line
    assert Stop("end").cut(text) == Stop("tokens").cut(text) == text.strip()


def test_wild_removes_the_stop_that_ended_the_text() -> None:
    assert WILD.cut(" Paris.") == WILD.cut(" Paris\n") == WILD.cut(" Paris") == "Paris"
    assert WILD.cut(" 3.5") == "3.5"  # the stop was inside the token ".5"
    assert WILD.cut("Paris.\n") == "Paris."  # a full stop is removed before a line feed, not after
    assert WILD.reached(" St.")
    assert not WILD.reached(" St")
    assert str(WILD) == "wild-50"


_PIECES = st.sampled_from(
    [*" .!?…\n\"')。aB5", " The", " It ", "St", "U.S", " Inc", ". ", ".\n", "paris", "\ufffd"]
)


@given(st.lists(_PIECES, max_size=14).map("".join), st.sampled_from(RULES))
@settings(max_examples=400)
@example("U.S. The", "sentence")
@example("U.S. Theo", "sentence")
def test_nothing_that_follows_changes_a_reached_end(text: str, rule: StopName) -> None:
    stop = Stop(rule)
    reached = [n for n in range(len(text) + 1) if stop.reached(text[:n])]
    assert reached == list(range(reached[0], len(text) + 1)) if reached else True
    assert {stop.cut(text[:n]) for n in reached} <= {stop.cut(text)}
    cut = stop.cut(text)
    assert cut == cut.strip()
    assert text.strip().startswith(cut)
    assert not stop.reached(cut)


def _cut_afterwards(
    model: LanguageModel, query: GenerationQuery, full: Continuation, stop: Stop
) -> str:
    """The text of a stop, from what the model writes without one."""
    ids = full.ids
    before = () if query.chat else model.read([query.prompt], chat=False)[0].ids
    if stop.rule == "wild":
        texts = [text_after(model.tokenizer, before, ids[:n]) for n in range(1, len(ids) + 1)]
        ended = next((n for n, text in enumerate(texts, 1) if {".", "\n"} & {*text}), len(ids))
        ids = ids[:ended]
    return stop.cut(text_after(model.tokenizer, before, ids))


PROMPTS = ("Paris is", "The Space Needle is in the city of", "Zoë Müller works in the field of")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bloom"])
@given(seed=st.integers(0, 10_000), rule=st.sampled_from((*RULES, "wild")), n=st.integers(1, 24))
@settings(max_examples=4, deadline=None)
def test_a_batch_writes_what_cutting_the_full_text_gives(
    name: str, seed: int, rule: StopName, n: int
) -> None:
    model, stop = MODELS.setdefault(name, _with_stops(name)), Stop(rule, n)
    models = EditedModels(model, [delta_for(model, seed + edit) for edit in range(6)])
    asked = [
        GenerationQuery((edit + place) % 6, prompt, chat=edit == 0)
        for edit in range(6)
        for place, prompt in enumerate(PROMPTS)
    ]
    full = greedy_continuations(models, asked, new_tokens=n)
    cut = greedy_continuations(models, asked, new_tokens=n, stop=stop)
    for query, whole, short in zip(asked, full, cut, strict=True):
        assert short.text == _cut_afterwards(model, query, whole, stop)
        assert whole.ids[: len(short.ids)] == short.ids
        assert short.ended == (whole.ended and len(whole.ids) == len(short.ids))


MODELS: dict[str, LanguageModel] = {}


def _with_stops(name: str) -> LanguageModel:
    """A tiny model that likes to write marks, line breaks and capital letters."""
    model = tiny(name, begin=name == "llama", context_length=64)
    for text in (".", "\n", "?", " The", " "):
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        model.hf.get_output_embeddings().weight.data[ids[-1]] *= 2.5
    model.hf.generation_config.eos_token_id = list(range(0, 400, 7))  # rows end at other times
    return model


def test_rows_end_at_their_own_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished rows are dropped from the batch."""
    model = MODELS.setdefault("gpt2", _with_stops("gpt2"))
    models = EditedModels(model, [delta_for(model, seed) for seed in range(12)])
    asked = [GenerationQuery(edit, PROMPTS[0]) for edit in range(12)]
    sizes: list[int] = []

    def recorded(model: LanguageModel, ids: Tensor, **given: Any) -> Tensor:
        sizes.append(len(ids))
        return forward(model, ids, **given)

    monkeypatch.setattr(greedy, "forward", recorded)
    cut = greedy_continuations(models, asked, new_tokens=24, stop=Stop("wild", 24))
    lengths = sorted(len(each.ids) + each.ended for each in cut)
    assert lengths[0] < lengths[-1]
    assert len(sizes) == lengths[-1] - 1
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == len(asked) > sizes[-1]


@pytest.mark.parametrize(("rule", "tokens"), [("paragraph", 30), ("line", 0), ("line", True)])
def test_a_stop_that_does_not_exist_is_refused(rule: StopName, tokens: int) -> None:
    with pytest.raises(ConfigError):
        Stop(rule, tokens)
