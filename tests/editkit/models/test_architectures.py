from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, OPTConfig

from editkit import ModelError
from editkit.models import architecture_of, language_model
from editkit.models.architectures import PARTS
from editkit.models.blocks import RecordedPass
from editkit.models.encoding import padded
from editkit.models.running import (
    Reads,
    Tail,
    forward,
    forward_after,
    recording,
    replacing,
    run_prefix,
)
from editkit.models.weight_layout import is_matrix_module
from tests.tiny import EACH_WITH_EXPERTS, tiny

TEXTS = ["The Space Needle is in the city of", "Paris is", "Zoë Müller works in the field of"]


def rows_of(model):
    return [encoding.ids for encoding in model.encode(TEXTS)]


@pytest.mark.parametrize("name", EACH_WITH_EXPERTS)
def test_every_module_path_exists(name: str) -> None:
    model = tiny(name)
    architecture = model.architecture
    for layer in range(model.n_layers):
        assert model.block(layer) is model.module(architecture.block(layer))
        dense = architecture.experts is None or (name.startswith("qwen") and layer == 1)
        mlp = (*architecture.mlp_in, architecture.mlp_out) if dense else ()
        for part in (*architecture.qkv, *mlp):
            assert is_matrix_module(model.module(architecture.path(layer, part)))
        assert is_matrix_module(model.module(architecture.path(layer, architecture.attention_out)))
    head = model.module(architecture.head)
    assert head is model.hf.get_output_embeddings()
    assert model.module(architecture.embedding) is model.hf.get_input_embeddings()


@pytest.mark.parametrize("name", EACH_WITH_EXPERTS)
def test_forward_equals_the_model_itself(name: str) -> None:
    model = tiny(name)
    for text in TEXTS:
        ids = torch.tensor([model.encode([text])[0].ids])
        with torch.no_grad():
            expected = model.hf(input_ids=ids).logits.float()
            logits = model.head(forward(model, ids))
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", [7, 4096])
@pytest.mark.parametrize("name", EACH_WITH_EXPERTS)
def test_probability_of_one_token_without_all_logits(
    name: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "_LOGITS", part)
    model = tiny(name)
    ids = torch.tensor([model.encode([TEXTS[0]])[0].ids])
    wanted = ids.roll(-1)
    with torch.no_grad():
        hidden = forward(model, ids)  # (1, T, H)
        expected = torch.log_softmax(model.head(hidden), dim=-1).gather(-1, wanted[..., None])
        actual = model.log_probability(hidden, wanted)
    torch.testing.assert_close(actual, expected[..., 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EACH_WITH_EXPERTS)
def test_a_block_can_be_run_again_for_rows_that_differ_on_the_right(name: str) -> None:
    """Two states for each recorded row, at all tokens and at the last ones alone."""
    model, skip, rows = tiny(name), 2, slice(1, 4)
    ids = torch.tensor(model.encode([TEXTS[0]])[0].ids)
    noise = torch.randn(4, len(ids) - 1, model.hidden_size, generator=torch.Generator())
    recorded = RecordedPass.record(model, ids, 1, 4, embed=lambda embedded: embedded + noise)
    for layer in range(model.n_layers):
        hidden = torch.cat([recorded.states[layer][rows, skip:]] * 2)  # (2 R, S', H)
        expected = torch.cat([recorded.states[layer + 1][rows, skip:]] * 2)
        for only in (None, 1, 2, hidden.shape[1]):
            output = recorded.run(layer, hidden, skip=skip, rows=rows, only=only)
            torch.testing.assert_close(
                output, expected[:, -output.shape[1] :], rtol=1e-5, atol=1e-5
            )
            assert output.shape[1] == (only or hidden.shape[1])


@pytest.mark.parametrize("name", EACH_WITH_EXPERTS)
def test_tail_and_prefix_equal_whole_rows(name: str) -> None:
    """Rows cut at different columns, the upper blocks run again: the same as whole rows."""
    model = tiny(name)
    rows = rows_of(model)
    cuts = torch.tensor([4, 0, 2])
    with torch.no_grad():
        whole = forward(model, padded(rows, "cpu"))
        prefix, _ = run_prefix(
            model, padded([r[: max(c, 1)] for r, c in zip(rows, cuts, strict=True)], "cpu"), cuts
        )
        suffixes = [r[c:] for r, c in zip(rows, cuts, strict=True)]
        ids = padded(suffixes, "cpu")
        after = forward_after(model, prefix, ids, cuts)
        for start in range(model.n_layers + 1):
            tail = Tail.record(model, prefix, ids, cuts, start=start)
            again = model.final_hidden(tail.run(tail.hidden))
            chosen = tail.select(torch.tensor([2, 0]))
            fewer = model.final_hidden(chosen.run(chosen.hidden))
            ends = torch.tensor([len(suffix) - 1 for suffix in suffixes])
            reads = Reads.of(torch.tensor([2, 0, 1]), ends[[2, 0, 1]], len(rows))
            read = model.final_hidden(tail.read(tail.hidden, reads))
            torch.testing.assert_close(read, again[reads.row, reads.column], rtol=1e-4, atol=1e-4)
            for b, suffix in enumerate(suffixes):
                expected = whole[b, int(cuts[b]) : len(rows[b])]
                for got in (after[b], again[b]):
                    torch.testing.assert_close(got[: len(suffix)], expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(fewer, again[[2, 0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EACH_WITH_EXPERTS)
def test_blocks_add_what_attention_and_mlp_give(name: str) -> None:
    model = tiny(name)
    ids = torch.tensor(model.encode([TEXTS[0]])[0].ids)
    recorded = RecordedPass.record(model, ids, 1, 2)
    for layer in range(model.n_layers):
        attention, mlp = (recorded.parts[part][layer] for part in PARTS)
        added = model.architecture.residual_scale * (attention + mlp)
        torch.testing.assert_close(recorded.states[layer + 1], recorded.states[layer] + added)


@pytest.mark.parametrize("name", EACH_WITH_EXPERTS)
def test_an_offset_to_what_the_mlp_adds_is_an_offset_to_the_next_block_input(name: str) -> None:
    """ROME relies on this to start above the edited layer, in serial and parallel blocks."""
    model = tiny(name)
    ids = padded(rows_of(model)[:1], "cpu")
    starts = torch.zeros(1, dtype=torch.long)
    offset = torch.randn(ids.shape[1], model.hidden_size, generator=torch.manual_seed(0))
    path = model.architecture.adds(1, "mlp_out")
    with torch.no_grad():
        with replacing(model, {path: lambda _, y: y + offset.reshape(y.shape)}):
            expected = forward(model, ids)
        tail = Tail.record(model, None, ids, starts, start=2)
        got = model.final_hidden(tail.run(tail.hidden + model.architecture.residual_scale * offset))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_recording_stops_early_and_leaves_no_hooks(name: str) -> None:
    model = tiny(name)
    path = model.path(1, "mlp_out")
    calls = []
    later = model.block(2).register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad(), recording(model, [path], stop=True) as seen:
        forward(model, padded(rows_of(model), "cpu"))
    later.remove()
    assert not calls
    assert seen[path].inputs.shape[-1] == model.hf.get_parameter(f"{path}.weight").numel() // 32
    assert not any(module._forward_hooks for module in model.hf.modules())


def test_hooks_are_removed_after_an_error() -> None:
    model = tiny()
    with pytest.raises(ZeroDivisionError), recording(model, [model.path(0, "mlp")]):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.hf.modules())


def test_unknown_architectures_are_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(ModelError, match=r"'bert' is not known.*gpt2.*llama"):
        architecture_of(BertConfig())
    with pytest.raises(ModelError, match="normalises after"):
        architecture_of(OPTConfig(do_layer_norm_before=False))


def test_layers_out_of_range_are_refused() -> None:
    with pytest.raises(ModelError, match="layer 9 does not exist: tiny-gpt2 has layers 0 to 3"):
        tiny().path(9, "mlp_out")


def test_frozen_restores_flags_and_modes() -> None:
    model = tiny()
    model.hf.train()
    odd = model.hf.get_parameter("transformer.h.0.mlp.c_fc.bias").requires_grad_(False)
    with pytest.raises(ZeroDivisionError), model.frozen():
        assert not any(p.requires_grad for p in model.hf.parameters())
        assert not model.hf.training
        raise ZeroDivisionError
    assert model.hf.training
    assert not odd.requires_grad
    assert sum(not p.requires_grad for p in model.hf.parameters()) == 1
