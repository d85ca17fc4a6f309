from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from editkit import Dense, EditedModels, ModelError, applied
from editkit.editing.edited_models import CandidateQuery
from editkit.editing.next_tokens import NextTokenQuery, most_likely_tokens
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import tiny

TEXTS = ["The Space Needle is in the city of", "Paris is", "Zoë Müller works in the field of"]


def plain(models: EditedModels, query: NextTokenQuery) -> int:
    """Alone, under really changed weights: the definition."""
    with applied(models.model, models.deltas[query.edit]), torch.no_grad():
        logits = models.model.hf(input_ids=torch.tensor([query.ids])).logits
    return int(logits[0, -1].argmax())


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("budget", [8, 16384])
def test_tokens_are_those_of_each_text_alone(name: str, budget: int) -> None:
    model = tiny(name, begin=name == "llama")
    deltas = [delta_for(model, 1), delta_for(model, 2, kinds="l"), delta_for(model, kinds="")]
    models = EditedModels(model, deltas, token_budget=budget)
    rows = [encoding.ids for encoding in model.encode(TEXTS)]
    queries = [
        NextTokenQuery(edit, row[:end])
        for edit in (2, 0, 1)
        for row in rows
        for end in (len(row), 2, 3)
    ]
    actual = most_likely_tokens(models, queries)
    assert actual == [plain(models, query) for query in queries]
    assert most_likely_tokens(models, queries[::-1]) == actual[::-1]


def test_changes_of_tied_embeddings_are_asked_one_model_at_a_time() -> None:
    model = tiny()
    values = torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) / 4
    delta = dataclasses.replace(
        delta_for(model, kinds=""), changes={"transformer.wte.weight": Dense(values)}
    )
    models = EditedModels(model, [delta_for(model, 1), delta, delta_for(model, 2)])
    assert not models._batchable
    [encoding] = model.encode(TEXTS[:1])
    queries = [NextTokenQuery(edit, encoding.ids) for edit in (1, 0)]
    before = model.weights_digest()
    assert most_likely_tokens(models, queries) == [plain(models, query) for query in queries]
    assert model.weights_digest() == before


def test_no_queries_give_no_tokens() -> None:
    assert most_likely_tokens(EditedModels(tiny(), []), []) == []


# ---------------------------------------------------------------- texts that are too long


@pytest.mark.parametrize("begin", [False, True])
def test_a_long_prompt_is_cropped_with_one_warning(
    begin: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny(begin=begin)
    long = "far away " * 60 + TEXTS[0]
    with caplog.at_level(logging.WARNING):
        [kept] = model.complete([long], ["Seattle"], crop=True)
        assert model.complete([long], ["Seattle"], crop=True) == [kept]
    [message] = [record.getMessage() for record in caplog.records]
    assert "context of 64 tokens" in message
    assert "far away" in message
    assert len(kept.prompt) + len(kept.target) == model.context_length
    [whole] = model.encode([f"{long} Seattle"])
    special = int(begin)
    assert kept.prompt[:special] == whole.ids[:special]
    cut = whole.ids[-(model.context_length - special) :]
    assert kept.prompt[special:] + kept.target == cut


def test_a_short_prompt_is_kept_whole(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    assert model.complete(TEXTS, ["Rome"] * 3, crop=True) == model.complete(TEXTS, ["Rome"] * 3)
    assert not caplog.records


def test_a_target_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="context of 64 tokens"):
        tiny().complete(["It is"], ["far away " * 60], crop=True)


def test_candidates_are_scored_after_a_cropped_prompt() -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, 1)])
    long = "far away " * 60 + TEXTS[0]
    [kept] = model.complete([long], ["Seattle"], crop=True)
    ids = torch.tensor([kept.prompt + kept.target])
    with applied(model, models.deltas[0]), torch.no_grad():
        log_p = torch.log_softmax(model.hf(input_ids=ids).logits[0], dim=-1)
    at = range(len(kept.prompt) - 1, ids.shape[1] - 1)
    expected = -float(log_p[list(at), list(kept.target)].mean())
    [[actual]] = models.candidate_nll([CandidateQuery(0, long, ("Seattle",))])
    assert actual == pytest.approx(expected, rel=1e-4)
