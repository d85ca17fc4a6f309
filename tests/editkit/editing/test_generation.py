"""Texts that edited models write: in batches as alone, under really changed weights, seeded."""

from __future__ import annotations

import dataclasses
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from editkit import Dense, EditedModels, LanguageModel, ModelError, applied, load_model
from editkit.editing.edited_models import CandidateQuery, GenerationQuery, TextQuery
from editkit.editing.generation import (
    continued,
    draws,
    in_published_form,
    sampled_contexts,
    text_of,
)
from editkit.models.encoding import padded
from editkit.models.running import forward
from editkit.storage.cache import cached_texts
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import EACH, tiny
from tests.tokenizers import FAMILIES, model_of

PROMPTS = ("Paris is", "The Space Needle is in the city of", "Zoë Müller works in the field of")
TOKENS = 24


def queries(n: int = 6, edits: int = 3) -> list[GenerationQuery]:
    return [GenerationQuery(i % edits, PROMPTS[i % 3], f"case/{i}") for i in range(n)]


def plain_text(model: LanguageModel, query: GenerationQuery, *, tokens: int, top_k: int) -> str:
    """By definition: one token after the other, the whole text each time, no cache."""
    ids = list(model.encode([query.prompt])[0].ids)
    uniform = draws([(0, query.name, query.prompt)], tokens)[0]
    while len(ids) < tokens:
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([ids])).logits[0, -1].float()
        best = sorted(logits.topk(top_k).indices.tolist())
        chances = torch.softmax(logits[best], dim=-1)
        below, number = float(uniform[len(ids)]), 0
        while number < top_k - 1 and below >= float(chances[: number + 1].sum()):
            number += 1
        ids.append(best[number])
    return text_of(model.tokenizer, ids)


@pytest.mark.parametrize("name", EACH)
def test_batches_write_what_each_model_writes_alone(name: str) -> None:
    model = tiny(name)
    deltas = [delta_for(model, 1), delta_for(model, 2, kinds="l"), delta_for(model, kinds="")]
    before, state = model.weights_digest(), torch.get_rng_state()
    actual = EditedModels(model, deltas).generate(queries(), tokens=TOKENS, top_k=3)
    assert model.weights_digest() == before
    assert torch.equal(torch.get_rng_state(), state)
    for query, text in zip(queries(), actual, strict=True):
        with applied(model, deltas[query.edit]):
            assert text == plain_text(model, query, tokens=TOKENS, top_k=3)


def test_a_text_does_not_depend_on_the_others_in_its_batch() -> None:
    model = tiny()
    deltas = [delta_for(model, seed) for seed in (1, 2, 3)]
    asked = queries(12)
    together = EditedModels(model, deltas).generate(asked, tokens=TOKENS)
    shuffled = random.Random(0).sample(asked, k=len(asked))
    other = dict(
        zip(shuffled, EditedModels(model, deltas).generate(shuffled, tokens=TOKENS), strict=True)
    )
    small = EditedModels(model, deltas, token_budget=TOKENS).generate(asked, tokens=TOKENS)
    assert together == [other[query] for query in asked] == small
    assert len(set(together)) == len(together)


def test_texts_depend_on_the_seed_and_the_edit() -> None:
    model = tiny()
    asked = queries(6)
    deltas = [delta_for(model, seed) for seed in (1, 2, 3)]
    first, again, other = (
        EditedModels(model, deltas, seed=seed).generate(asked) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first != EditedModels(model, deltas).unedited().generate(asked)


def test_texts_and_scores_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, 1)])
    [text] = models.generate([GenerationQuery(0, PROMPTS[0])], tokens=TOKENS)
    asked = CandidateQuery(0, PROMPTS[1], ("Seattle", "Paris"))
    [row] = models.candidate_scores([asked])
    monkeypatch.setattr(models, "rows", None)  # any further work fails
    assert models.generate([GenerationQuery(0, PROMPTS[0])] * 2, tokens=TOKENS) == [text, text]
    assert models.candidate_nll([asked]) == [[score.nll for score in row]]
    with pytest.raises(TypeError):
        models.generate([GenerationQuery(0, PROMPTS[0])], tokens=TOKENS, top_k=2)


def test_length_counts_the_prompt_and_keeps_to_the_context() -> None:
    model = tiny(context_length=16)
    models = EditedModels(model, [delta_for(model)])
    [text] = models.generate([GenerationQuery(0, PROMPTS[0])])
    assert text.startswith(PROMPTS[0])
    [whole] = models.generate([GenerationQuery(0, PROMPTS[1])], tokens=3)
    assert whole == PROMPTS[1]
    with pytest.raises(ModelError, match="does not fit into the context"):
        models.generate([GenerationQuery(0, "Paris " * 30)])


def test_prompts_of_any_length_share_a_batch() -> None:
    model = tiny()
    prompts = [(5,), tuple(range(10, 22)), (7, 8, 9)]
    with model.frozen(), torch.no_grad():
        texts = continued(model, prompts, draws([(i,) for i in range(3)], 8), top_k=2)
    assert [len(text) for text in texts] == [8, 12, 8]
    assert all(
        tuple(text[: len(prompt)]) == prompt for text, prompt in zip(texts, prompts, strict=True)
    )


def test_only_the_k_most_likely_tokens_are_drawn_at_their_rates() -> None:
    model = tiny()
    n = 4000
    prompt = model.encode([PROMPTS[1]])[0].ids
    with model.frozen(), torch.no_grad():
        uniform = draws([(i,) for i in range(n)], len(prompt) + 1)
        texts = continued(model, [prompt] * n, uniform, top_k=4)
        logits = model.head(forward(model, padded([prompt], "cpu"))[:, -1])[0]
    top = logits.topk(4)
    chances = torch.softmax(top.values, dim=-1)
    drawn = torch.tensor([text[-1] for text in texts])
    shares = torch.stack([(drawn == token).float().mean() for token in top.indices])
    assert float(shares.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(shares, chances, atol=0.03, rtol=0)


def test_changes_of_tied_embeddings_write_and_score_texts_too() -> None:
    model = tiny()
    values = torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) / 4
    delta = dataclasses.replace(
        delta_for(model, kinds=""), changes={"transformer.wte.weight": Dense(values)}
    )
    models = EditedModels(model, [delta_for(model, 1), delta])
    asked = [GenerationQuery(edit, PROMPTS[0]) for edit in (1, 0)]
    actual = models.generate(asked, tokens=TOKENS, top_k=3)
    nll = models.text_nll([TextQuery(edit, PROMPTS[1]) for edit in (1, 0)])
    for query, text, values_of in zip(asked, actual, nll, strict=True):
        with applied(model, models.deltas[query.edit]):
            assert text == plain_text(model, query, tokens=TOKENS, top_k=3)
            assert values_of == pytest.approx(plain_text_nll(model, PROMPTS[1]), rel=1e-4)


def plain_text_nll(model: LanguageModel, text: str, max_tokens: int | None = None) -> list[float]:
    ids = torch.tensor([model.encode([text])[0].ids[:max_tokens]])
    with torch.no_grad():
        log_p = torch.log_softmax(model.hf(input_ids=ids).logits[0, :-1].float(), dim=-1)
    return (-log_p.gather(1, ids[0, 1:, None])[:, 0]).tolist()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("budget", [8, 16384])
def test_texts_score_as_defined(name: str, budget: int) -> None:
    model = tiny(name, begin=name == "llama")
    models = EditedModels(model, [delta_for(model, 1), delta_for(model, 2)], token_budget=budget)
    asked = [TextQuery(edit, text) for edit in (1, 0) for text in PROMPTS]
    for limit in (None, 4, 1):
        actual = models.text_nll(asked, max_tokens=limit)
        for query, values in zip(asked, actual, strict=True):
            with applied(model, models.deltas[query.edit]):
                expected = plain_text_nll(model, query.text, limit)
            assert values == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_argmax_is_the_share_of_tokens_that_greedy_decoding_hits() -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, 1)])
    prompt = PROMPTS[1]
    candidates = ("Seattle", "physics and São Paulo")
    [row] = models.candidate_scores([CandidateQuery(0, prompt, candidates)])
    for candidate, score in zip(candidates, row, strict=True):
        [completion] = model.complete([prompt], [candidate])
        ids = torch.tensor([completion.prompt + completion.target])
        with applied(model, models.deltas[0]), torch.no_grad():
            best = model.hf(input_ids=ids).logits[0, :-1].argmax(dim=-1).tolist()
        n = len(completion.target)
        hits = [a == b for a, b in zip(best[-n:], completion.target, strict=True)]
        assert score.argmax == pytest.approx(sum(hits) / n)
    assert min(score.argmax for score in row) >= 0


def test_no_queries_give_no_texts() -> None:
    models = EditedModels(tiny(), [])
    assert models.generate([]) == models.text_nll([]) == models.candidate_scores([]) == []


class Spelled:
    """A tokenizer of whole pieces: 0 and 1 are special, and 5 and 6 spell a special token."""

    pieces = (
        "<|endoftext|>",
        "[PAD]",
        "made by Honda.",
        "The continent",
        " of",
        "<|end",
        "oftext|>",
    )
    all_special_ids = (0,)
    all_special_tokens = ("<|endoftext|>", "!")
    added_tokens_decoder = {
        0: SimpleNamespace(content="<|endoftext|>", special=True),
        1: SimpleNamespace(content="[PAD]", special=True),
        2: SimpleNamespace(content="made by Honda.", special=False),
    }

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[token] for token in ids)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ((2, 0, 3, 4), "made by Honda. The continent of"),
        ((0, 2, 1, 0, 3), "made by Honda. The continent"),
        ((2, 5, 6, 3), "made by Honda. The continent"),  # spelled out in ordinary tokens
        ((2, 0, 4), "made by Honda. of"),  # there is a space already
        ((3, 0, 1), "The continent"),
        ((0, 0), ""),
        ((), ""),
    ],
)
def test_special_tokens_leave_a_space_between_texts(ids: tuple[int, ...], text: str) -> None:
    assert text_of(Spelled(), ids) == text


@pytest.mark.parametrize("name", EACH)
def test_without_special_tokens_a_text_is_what_the_tokenizer_decodes(name: str) -> None:
    tokenizer = tiny(name).tokenizer
    for sentence in (*PROMPTS, "Hello! It is 5 < 6, [sic] | indeed.", "東京 is\n\nthe  capital"):
        ids = tokenizer(sentence)["input_ids"]
        assert text_of(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_generated_texts_have_the_published_form() -> None:
    assert in_published_form("Zoë\n\nwas ﬁne") == "Zoe\u0308 was fine"
    assert in_published_form("a\n \t\nb\nc\r\n\r\nd") == "a b\nc\r d"
    assert in_published_form("Zoë\n\nx", form=None) == "Zoë x"


def test_sampled_contexts_contain_no_special_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Atlas ends many of its short texts: written literally, that was in a fifth of them."""
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    texts = sampled_contexts(load_model("atlas"), [(60, 9), (60, 19)], top_k=5, seed=0)
    assert len(texts) == 120
    assert not [text for text in texts if "<|" in text or "endoftext" in text]
    assert all(text.endswith(". ") and text[:-2].strip() for text in texts)
    assert texts == [unicodedata.normalize("NFKD", text) for text in texts]


def test_empty_samples_are_drawn_again_or_dropped_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    model = tiny()
    end, word = model.tokenizer.eos_token_id, model.tokenizer(" Paris")["input_ids"]
    calls: list[int] = []

    def fake(writes: int) -> Callable[..., list[list[int]]]:
        """The first sample has a text, and from call ``writes`` on the others, too."""

        def sample(*_: object, n: int, **__: object) -> list[list[int]]:
            calls.append(n)
            if len(calls) == 1:
                return [word, *([[end]] * (n - 1))]
            return [word if len(calls) >= writes else [end]] * n

        return sample

    monkeypatch.setattr("editkit.editing.generation.sample", fake(writes=4))
    assert sampled_contexts(model, [(3, 4)], top_k=5, seed=1) == [" Paris. "] * 3
    assert not caplog.records

    calls.clear()
    monkeypatch.setattr("editkit.editing.generation.sample", fake(writes=10_000))
    assert sampled_contexts(model, [(3, 4)], top_k=5, seed=2) == [" Paris. "]
    assert "2 of 3 contexts" in caplog.text

    monkeypatch.setattr("editkit.editing.generation.sample", lambda *_, n, **__: [[end]] * n)
    with pytest.raises(ModelError, match="only special tokens"):
        sampled_contexts(model, [(3, 4)], top_k=5, seed=3)


def test_contexts_of_an_older_form_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    model = tiny()
    description = {
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "lengths": [(2, 3)],
        "top_k": 5,
        "seed": 0,
    }
    cached_texts("contexts", description, lambda: ["old<|endoftext|>. "])
    assert "old<|endoftext|>. " not in sampled_contexts(model, [(2, 3)], top_k=5, seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tokenizers_special_tokens_reach_contexts(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    model = model_of(family)
    tokenizer = model.tokenizer
    special = {str(name) for name in tokenizer.all_special_tokens} | {"<|user|>", "<|end|>"}
    for sentence in PROMPTS:
        ids = tokenizer(sentence)["input_ids"]
        assert text_of(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)
        end = tokenizer.convert_tokens_to_ids("<|end|>")
        joined = text_of(tokenizer, [*ids, end, tokenizer.eos_token_id, *ids])
        assert not [name for name in special if name in joined]
        whole = text_of(tokenizer, ids)
        assert joined.split() == [*whole.split(), *whole.split()]
    # A model that knows nothing draws special tokens as often as any others.
    for text in sampled_contexts(model, [(20, 6)], top_k=400, seed=0):
        assert not [name for name in special if name in text]
        assert text.removesuffix(". ").strip()
