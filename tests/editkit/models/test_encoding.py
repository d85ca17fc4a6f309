from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import ModelError
from editkit.models.encoding import chunks_by_tokens, padded
from tests.tiny import tiny


@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    budget=st.integers(1, 500),
    rows=st.integers(1, 5),
)
def test_batches_hold_every_item_once_within_the_budget(lengths, budget, rows) -> None:
    batches = chunks_by_tokens(lengths, budget, rows=rows)
    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[item] for item in batch)
        assert len(batch) == 1 or len(batch) * rows * width <= budget
    widest = [max(lengths[item] for item in batch) for batch in batches]
    assert widest == sorted(widest)


def test_a_few_long_rows_do_not_make_all_rows_long() -> None:
    lengths = [5] * 200 + [50] * 4
    batches = chunks_by_tokens(lengths, 10**6)
    assert [len(batch) for batch in batches] == [200, 4]


def test_similar_rows_stay_together() -> None:
    assert len(chunks_by_tokens([5, 6, 7, 5, 6], 10**6)) == 1


def test_padding_repeats_the_last_token() -> None:
    assert padded([(1, 2, 3), (4,)], "cpu").tolist() == [[1, 2, 3], [4, 4, 4]]


@pytest.mark.parametrize("begin", [False, True])
def test_completions_are_cut_where_the_target_begins(begin: bool) -> None:
    model = tiny(begin=begin)
    prompts, targets = ["Paris is in", "Zoë lives in"], ["France", "São Paulo"]
    for completion, prompt, target in zip(
        model.complete(prompts, targets), prompts, targets, strict=True
    ):
        whole = model.tokenizer.decode(completion.prompt + completion.target)
        assert whole.removeprefix("<|endoftext|>") == f"{prompt} {target}"
        assert model.tokenizer.decode(completion.target) == f" {target}"


def test_texts_longer_than_the_context_are_refused() -> None:
    with pytest.raises(ModelError, match="context of 64 tokens"):
        tiny().complete(["word " * 80], ["x"])
