"""Texts that share beginnings as one row: each state equals that of its text alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.models.trees import TokenTree, forward_trees, longest_tree, trees_of
from tests.sliding_window_models import EACH_FAMILY, windowed
from tests.tiny import tiny

Row = tuple[int, ...]
FEW_TOKENS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1, unique=True
)


def text_at(tree: TokenTree, place: int) -> Row:
    """The tokens that the token at a place attends to, and itself."""
    return tuple(tree.ids[i] for i in range(place + 1) if place < tree.ends[i])


@given(texts=FEW_TOKENS, longest=st.integers(1, 12))
def test_every_text_is_read_after_its_own_tokens(texts: list[Row], longest: int) -> None:
    rows = trees_of(texts, longest)
    read = {n: text_at(row, place) for row in rows for n, place in row.read}
    assert [read[n] for n in range(len(texts))] == texts
    for row in rows:
        assert row.positions == [len(text_at(row, place)) - 1 for place in range(len(row))]
        assert row.is_one_text or len(row) <= longest
        beginnings = [text_at(row, place) for place in range(len(row))]
        assert len(set(beginnings)) == len(row)  # no token is repeated
    again = trees_of(texts[::-1], longest)
    assert [row.ids for row in again] == [row.ids for row in rows]


def test_rows_have_similar_sizes() -> None:
    texts = [(first, 1, 2, 3, 4) for first in range(30)]
    sizes = [len(row) for row in trees_of(texts, 64)]  # 150 tokens
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 10


def test_a_text_and_its_beginnings_may_be_longer_than_a_row() -> None:
    texts = [tuple(range(n)) for n in (3, 8, 9)]
    [row] = trees_of(texts, 4)
    assert row.ids == list(range(9))
    assert row.read == [(0, 2), (1, 7), (2, 8)]


@pytest.mark.parametrize("name", EACH_FAMILY)
@given(
    texts=st.lists(
        st.lists(st.sampled_from([7, 8, 9]), min_size=1, max_size=9).map(tuple),
        min_size=1, max_size=8, unique=True,
    ),
    attention=st.sampled_from(["sdpa", "eager"]),
)  # fmt: skip
@settings(max_examples=6, derandomize=True)
def test_states_are_those_of_each_text_alone(name: str, texts: list[Row], attention: str) -> None:
    model = windowed(name, 40)
    if attention == "eager" or model.hf._supports_sdpa:
        model.hf.set_attn_implementation(attention)
    longest = longest_tree(model, max(map(len, texts)))
    rows = trees_of(texts, longest)
    with torch.no_grad():
        kinds = [[r for r in rows if len(r) <= longest], [r for r in rows if len(r) > longest]]
        for some in filter(None, kinds):
            for row, states in zip(some, forward_trees(model, some), strict=True):
                for number, place in row.read:
                    ids = torch.tensor([texts[number]])
                    alone = model.hf.base_model(input_ids=ids, use_cache=False)
                    expected = alone.last_hidden_state[0, -1]
                    atol = 1e-5 * float(expected.abs().max())
                    torch.testing.assert_close(states[place], expected, rtol=1e-5, atol=atol)


def test_places_count_for_windows_and_distance_biases() -> None:
    assert longest_tree(windowed("mistral", 5), 9) == 5
    assert longest_tree(tiny("bloom"), 9) == longest_tree(tiny("mpt"), 9) == 1
    assert longest_tree(tiny("falcon", alibi=True), 9) == 1
    assert longest_tree(tiny("falcon"), 9) == longest_tree(tiny("gpt2"), 9) == 128


def test_a_long_common_beginning_is_read_once() -> None:
    texts = [(*range(600), last, 7) for last in range(20)]
    longest = longest_tree(tiny("gpt2"), 602)
    [row] = trees_of(texts, longest)
    assert len(row) == 600 + 2 * 20
    others = [tuple(range(first, first + 600)) for first in range(3)]
    assert [len(row) for row in trees_of(others, longest)] == [600] * 3
