"""Configs that change how the blocks of a family work, and configs that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from editkit import LanguageModel, ModelError
from editkit.models import architecture_of
from editkit.models.blocks import RecordedPass
from editkit.models.encoding import padded
from editkit.models.running import Tail, forward, recording, run_prefix
from editkit.models.shape import shape_of
from tests.slow_cases import by_default
from tests.tiny import tiny

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-7b": ("falcon", {}),
    "falcon-40b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-rw": (
        "falcon",
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "falcon-rw-eager": (
        "falcon",
        {"alibi": True, "multi_query": False, "parallel_attn": False, "attention": "eager"},
    ),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "phi-qk-norm": ("phi", {"qk_layernorm": True}),
    "cohere-qk-norm": ("cohere", {"use_qk_norm": True}),
    "mpt-clipped": ("mpt", {"attn_config": {"clip_qkv": 1.0}}),
    "mpt-six-heads": ("mpt", {"d_model": 48, "n_heads": 6}),
    "bloom-six-heads": ("bloom", {"hidden_size": 48, "n_head": 6}),
    "olmo-clipped": ("olmo", {"clip_qkv": 1.0}),
    "nemotron-relu": ("nemotron", {"partial_rotary_factor": 1.0}),
    "gpt_bigcode-heads": ("gpt_bigcode", {"multi_query": False}),
}
CASES = by_default(VARIANTS, "falcon-7b", "falcon-40b", "falcon-rw-eager", "mpt-six-heads")
TEXTS = ("The Space Needle is in the city of", "Paris is", "Rome", "Zoë Müller works in the field")


def variant(name: str) -> LanguageModel:
    architecture, changes = VARIANTS[name]
    values = dict(changes)
    attention = values.pop("attention", None)
    model = tiny(architecture, **values)
    if attention is not None:
        model.hf.set_attn_implementation(attention)
    return model


@pytest.mark.parametrize("name", CASES)
def test_blocks_add_what_attention_and_mlp_give(name: str) -> None:
    model = variant(name)
    ids = torch.tensor(model.encode([TEXTS[0]])[0].ids)
    recorded = RecordedPass.record(model, ids, 1, 2)
    for layer in range(model.n_layers):
        added = sum(recorded.parts[part][layer] for part in recorded.parts)
        expected = recorded.states[layer] + model.architecture.residual_scale * added
        torch.testing.assert_close(recorded.states[layer + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_prefixes_and_upper_blocks_equal_whole_rows(name: str) -> None:
    """Four rows of four heads: what a block is given by head must not be taken for rows."""
    model = variant(name)
    rows = [encoding.ids for encoding in model.encode(TEXTS)]
    cuts = torch.tensor([4, 1, 0, 2])
    pairs = list(zip(rows, cuts.tolist(), strict=True))
    chosen = torch.tensor([3, 0, 0])
    with torch.no_grad():
        prefix, _ = run_prefix(model, padded([r[: max(c, 1)] for r, c in pairs], "cpu"), cuts)
        tail = Tail.record(model, prefix, padded([r[c:] for r, c in pairs], "cpu"), cuts, start=1)
        fewer = tail.select(chosen)
        for one, order in ((tail, range(4)), (fewer, chosen.tolist())):
            states = model.final_hidden(one.run(one.hidden))
            for state, b in zip(states, order, strict=True):
                row, cut = pairs[b]
                alone = model.hf.base_model(input_ids=torch.tensor([row]), use_cache=False)
                expected = alone.last_hidden_state[0, cut:]
                torch.testing.assert_close(state[: len(row) - cut], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_block_can_be_run_again(name: str) -> None:
    model, skip, rows = variant(name), 2, slice(1, 5)
    ids = torch.tensor(model.encode([TEXTS[0]])[0].ids)
    noise = torch.randn(5, len(ids) - 1, model.hidden_size, generator=torch.manual_seed(0))
    recorded = RecordedPass.record(model, ids, 1, 5, embed=lambda embedded: embedded + noise)
    for layer in range(model.n_layers):
        hidden = torch.cat([recorded.states[layer][rows, skip:]] * 2)
        expected = torch.cat([recorded.states[layer + 1][rows, skip:]] * 2)
        for only in (None, 1):
            output = recorded.run(layer, hidden, skip=skip, rows=rows, only=only)
            torch.testing.assert_close(
                output, expected[:, -output.shape[1] :], rtol=1e-4, atol=1e-4
            )


def test_recorded_outputs_are_not_changed_by_the_block() -> None:
    """Falcon's blocks add the attention's output to the MLP's output in place."""
    model = tiny("falcon")
    ids = torch.tensor([model.encode([TEXTS[0]])[0].ids])
    path = model.path(1, "mlp_out")
    with torch.no_grad(), recording(model, [path]) as seen:
        forward(model, ids)
    module = model.module(path)
    torch.testing.assert_close(seen[path].output, module(seen[path].inputs))


def test_parallel_blocks_are_recognised() -> None:
    assert architecture_of(transformers.FalconConfig()).parallel
    assert architecture_of(transformers.FalconConfig(new_decoder_architecture=True)).parallel
    assert not architecture_of(transformers.FalconConfig(parallel_attn=False)).parallel
    assert not architecture_of(transformers.StableLmConfig()).parallel
    assert architecture_of(transformers.StableLmConfig(use_parallel_residual=True)).parallel


def test_bloom_models_that_work_in_other_ways_are_refused() -> None:
    with pytest.raises(ModelError, match="has normalised states"):
        architecture_of(transformers.BloomConfig(apply_residual_connection_post_layernorm=True))
    with pytest.raises(ModelError, match="slices of its output projections"):
        architecture_of(transformers.BloomConfig(pretraining_tp=2, slow_but_exact=True))
    architecture_of(transformers.BloomConfig(pretraining_tp=2))


def test_context_lengths_under_other_names() -> None:
    assert tiny("mpt").context_length == tiny("bloom").context_length == 64
    assert shape_of(transformers.MptConfig(max_seq_len=128, n_layers=1)).context_length == 128
    assert shape_of(transformers.BloomConfig(n_layer=1)).context_length == 2048


@pytest.mark.parametrize("name", ["falcon-7b", "falcon-rw", "bloom-six-heads", "mpt-six-heads"])
def test_shapes_are_read_without_weights(name: str) -> None:
    model = variant(name)
    shape = shape_of(model.hf.config)
    assert shape.saved_bytes > 0
    assert shape.inner_size == 4 * model.hidden_size
    assert shape.n_parameters == model.hf.num_parameters()
