"""Predicted interference, and conflicts, between patches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editkit import DeltaError, Dense, EditRequest, LowRank, Patch, PromptContext, Rows
from editkit.editing.change_products import inner_product
from editkit.editing.changes import Change
from editkit.models.checksums import chained
from editkit.models.running import forward, recording
from editkit.patches.interference import conflicts, interference, overlap, overlaps
from tests.editkit.patches.made import NAME, dense, low_rank, patch_with, rows
from tests.tiny import tiny

changes = st.one_of(
    st.builds(low_rank, st.integers(0, 99), rank=st.integers(1, 7)),
    st.builds(rows, st.integers(0, 99), n=st.integers(1, 6)),
    st.builds(low_rank, st.integers(0, 99)).map(dense),
)


def by_definition(a: Change, b: Change) -> float:
    """The formula with whole matrices."""
    gram_a, gram_b = (c.dense().double() @ c.dense().double().T for c in (a, b))
    return math.sqrt(float((gram_a * gram_b).sum() / (gram_a.norm() * gram_b.norm())))


# ---------------------------------------------------------------- overlap


@given(a=changes, b=changes)
def test_overlap_is_the_formula_whatever_the_form_of_the_change(a: Change, b: Change) -> None:
    expected = by_definition(a, b)
    for one, other in [(a, b), (b, a), (dense(a), b), (a, dense(b)), (dense(a), dense(b))]:
        value = overlap(patch_with({NAME: one}), patch_with({NAME: other}))
        assert value == pytest.approx(expected, abs=1e-5)
        assert 0 <= value <= 1
        product = float((a.dense().double() * b.dense().double()).sum())
        assert inner_product(one, other) == pytest.approx(product, abs=1e-4)


@given(a=changes, b=changes, size=st.sampled_from([1e-18, 1e-3, 7.0, 1e15]))
def test_overlap_with_itself_is_one_and_sizes_do_not_count(
    a: Change, b: Change, size: float
) -> None:
    one, other = patch_with({NAME: a}), patch_with({NAME: b})
    assert overlap(one, one) == pytest.approx(1)
    scaled = patch_with({NAME: Dense(b.dense() * size)})
    assert overlap(one, scaled) == pytest.approx(overlap(one, other), abs=1e-5)


def test_overlap_of_rank_one_edits_is_the_cosine_of_their_keys() -> None:
    keys = torch.tensor([[1.0, 0.0, 0.0], [-0.6, 0.8, 0.0]])
    values = torch.tensor([[1.0, 2.0], [-5.0, 0.5]])
    one, other = (
        patch_with({NAME: LowRank(k[:, None], v[None])}) for k, v in zip(keys, values, strict=True)
    )
    assert overlap(one, other) == pytest.approx(0.6)


def test_parameters_that_only_one_patch_changes_reduce_the_overlap() -> None:
    change = low_rank(0)
    both = patch_with({NAME: change, "other.weight": change})
    assert overlap(patch_with({NAME: change}), both) == pytest.approx(2**-0.25)
    assert overlap(patch_with({NAME: change}), patch_with({"other.weight": change})) == 0
    assert overlap(patch_with({NAME: change}), patch_with({NAME: low_rank(1, d=5)})) == 0


def test_biases_react_to_every_input_and_empty_patches_to_none() -> None:
    one, other = (patch_with({"x.bias": Dense(torch.tensor(v))}) for v in ([1.0, 2], [3.0, -9]))
    assert overlap(one, other) == pytest.approx(1)
    none = patch_with({})
    zero = patch_with({NAME: Dense(torch.zeros(6, 4))})
    assert overlap(none, none) == overlap(none, one) == overlap(zero, zero) == 0


def test_the_table_has_each_pair() -> None:
    patches = [patch_with({NAME: change}) for change in (low_rank(0), rows(1), dense(rows(2)))]
    table = overlaps(patches)
    for i, a in enumerate(patches):
        for j, b in enumerate(patches):
            assert table[i][j] == pytest.approx(overlap(a, b), abs=1e-12)


# ---------------------------------------------------------------- interference


def test_interference_is_what_the_other_adds_at_the_edited_prompt() -> None:
    model = tiny()
    path = model.path(1, "mlp_out")
    d, h = model.hf.get_parameter(f"{path}.weight").shape
    a, b = low_rank(0, d, h), dense(rows(1, d, h, n=7))
    request = EditRequest("{} is in the", "Rome", "Seattle")
    one, other = (
        patch_with({f"{path}.weight": change}, request, base=model.fingerprint) for change in (a, b)
    )
    [prompt] = model.read(["Rome is in the"])
    with torch.no_grad(), recording(model, [path]) as seen:
        forward(model, torch.tensor([prompt.ids]))
    x = seen[path].inputs[0]
    expected = float((x @ b.dense()).norm() / (x @ a.dense()).norm())
    assert interference(model, one, other) == pytest.approx(expected, rel=1e-4)
    assert one.interference(model, one) == pytest.approx(1)
    none = patch_with({}, request, base=model.fingerprint)
    assert interference(model, one, none) == 0
    assert interference(model, none, one) == math.inf
    assert math.isnan(interference(model, none, none))


def test_interference_counts_every_kind_of_module_and_the_head() -> None:
    model = tiny("llama", tie_word_embeddings=False)
    request = EditRequest("{} is in the", "Rome", "Seattle")
    weights = dict(model.hf.named_parameters())
    for name in ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"):
        change = Dense(torch.randn(weights[name].shape) / 9)
        twice = Dense(2 * change.values)
        one, two = (patch_with({name: c}, request, base=model.fingerprint) for c in (change, twice))
        assert interference(model, one, two) == pytest.approx(2, rel=1e-3)
    head = torch.randn(weights["lm_head.weight"].shape).T / 9
    one, two = (
        patch_with({"lm_head.weight": Dense(c)}, request, base=model.fingerprint)
        for c in (head, 3 * head)
    )
    assert interference(model, one, two) == pytest.approx(3, rel=1e-3)


def test_interference_refuses_a_patch_of_another_model() -> None:
    model = tiny()
    with pytest.raises(DeltaError, match="made for the model"):
        interference(model, patch_with({NAME: low_rank(0)}), patch_with({}))


# ---------------------------------------------------------------- conflicts

FACT = EditRequest("{} is in", "Rome", "Seattle", relation_id=None)
words = st.sampled_from(["Rome", "rome ", "ROME", "Paris", "São Paulo", "Sa\u0303o  Paulo"])
prompts = st.sampled_from(["{} is in", "{}  is In", "{} lies near"])
facts = st.builds(
    lambda prompt, subject, to, relation: EditRequest(
        prompt, subject.strip(), to, relation_id=relation
    ),
    prompts,
    words,
    words,
    st.sampled_from([None, "P17", "P36"]),
)


def kinds(*patches: Patch) -> list[str]:
    return [conflict.kind for conflict in conflicts(patches)]


def equal(a: str, b: str) -> bool:
    def plain(text: str) -> str:
        return " ".join(text.replace("a\u0303", "ã").casefold().split())

    return plain(a) == plain(b)


@given(a=st.lists(facts, min_size=1, max_size=4), b=st.lists(facts, min_size=1, max_size=4))
def test_the_same_fact_and_contradictions_are_recognised_among_all_pairs(
    a: list[EditRequest], b: list[EditRequest]
) -> None:
    expected = set()
    for one in a:
        for other in b:
            ids = one.relation_id and other.relation_id
            same = one.relation_id == other.relation_id if ids else equal(one.prompt, other.prompt)
            if same and equal(one.subject, other.subject):
                agree = equal(one.target_new, other.target_new)
                expected.add("same fact" if agree else "contradiction")
    one, other = patch_with({NAME: low_rank(0)}, *a), patch_with({NAME: low_rank(1)}, *b)
    assert kinds(one, other) == sorted(expected, reverse=True)
    assert kinds(other, one) == sorted(expected, reverse=True)


def test_a_conflict_is_a_sentence_with_the_names_of_the_patches() -> None:
    opposite = EditRequest("{} is in", "Rome", "Oslo")
    patches = [patch_with({}), patch_with(None, FACT), patch_with(None, opposite)]
    [conflict] = conflicts(patches[1:])
    assert conflict.sentence(["a.patch", "b.patch"]) == (
        "a.patch and b.patch: 'Rome is in' is to be 'Seattle' and 'Oslo'."
    )
    assert {c.patches for c in conflicts(patches)} == {(0, 1), (0, 2), (1, 2)}


def test_the_same_edit_twice_is_one_conflict() -> None:
    assert kinds(patch_with({NAME: low_rank(3)}), patch_with({NAME: low_rank(3)})) == ["same patch"]
    assert kinds(patch_with({NAME: low_rank(3)}), patch_with({NAME: low_rank(4)}, FACT)) == [
        "same fact"
    ]


def test_edits_on_top_of_others_need_them_first_and_in_order() -> None:
    cities = [EditRequest("{} is in", city, "Seattle") for city in ("Rome", "Oslo", "Bonn")]
    first = patch_with({NAME: low_rank(0)}, cities[0])
    second = patch_with({NAME: low_rank(1)}, cities[1])
    below = (first.delta.digest(), second.delta.digest())
    identity = chained(chained("base", below[0]), below[1])
    third = patch_with({NAME: low_rank(2)}, cities[2], base=identity, made_on=("base", *below))
    assert kinds(first, second, third) == []
    context = patch_with({}, EditRequest("{} is", "x", "y"), context=PromptContext(("text",)))
    assert kinds(first, context, second, third) == []
    assert kinds(second, first, third) == ["order"]
    [conflict] = conflicts([first, third, second])
    assert (conflict.kind, conflict.patches) == ("order", (1, 0, 2))
    [conflict] = conflicts([first, third])
    assert (conflict.kind, conflict.patches) == ("order", (1,))
    assert below[1][:12] in conflict.sentence(["a", "b"])


def test_patches_of_two_models_and_contexts_with_other_settings() -> None:
    one = patch_with({}, EditRequest("{} is", "x", "y"), context=PromptContext(("text",)))
    other = patch_with({}, FACT, context=PromptContext(("other",), separator=" "))
    assert kinds(one, other) == ["context"]
    assert kinds(
        patch_with(None, FACT), patch_with({}, EditRequest("{} is", "x", "y"), base="c")
    ) == ["other model"]


def test_rows_without_common_indices_do_not_overlap() -> None:
    one = Rows(torch.tensor([0, 2]), torch.ones(2, 4), 6)
    other = Rows(torch.tensor([1, 3]), torch.ones(2, 4), 6)
    assert overlap(patch_with({NAME: one}), patch_with({NAME: other})) == 0
