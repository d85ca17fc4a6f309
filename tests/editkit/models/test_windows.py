"""Attention with a window: reusing prefixes and blocks changes no result.

What is compared with is the definition: a row alone, unpadded, through the whole model, no cache.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editkit import EditedModels, LanguageModel, ModelError
from editkit.editing.edited_models import CandidateQuery, GenerationQuery, TextQuery
from editkit.editing.generation import continued, draws, sample
from editkit.models.blocks import RecordedPass
from editkit.models.encoding import padded
from editkit.models.running import Reads, Tail, forward, forward_after, run_prefix
from editkit.models.shape import context_length_of, shape_of
from tests.editkit.editing.test_deltas import delta_for
from tests.editkit.editing.test_edited_models import plain_nll
from tests.sliding_window_models import EACH_FAMILY, EACH_WINDOWED, WINDOWED, windowed

PROMPTS = (
    "Paris",
    "They say that the Space Needle, which is tall, is in the city of",
    "Zoë Müller works in the field of",
    "Rome is",
)
CANDIDATES = ("Seattle", "physics and São Paulo", "x")
Row = tuple[int, ...]


@functools.cache
def model_of(name: str, window: int = 4, attention: str | None = None) -> LanguageModel:
    model = windowed(name, window)
    if attention == "sdpa" and not model.hf._supports_sdpa:  # Gemma 2 caps attention's logits
        attention = "eager"
    if attention is not None:
        model.hf.set_attn_implementation(attention)
    return model


def alone(model: LanguageModel, row: Row) -> Tensor:
    """Final hidden states by definition, (T, H)."""
    with torch.no_grad():
        states = model.hf.base_model(input_ids=torch.tensor([row]), use_cache=False)
    return states.last_hidden_state[0]


def assert_same(actual: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_the_window_has_the_configured_size(name: str, attention: str) -> None:
    """Otherwise everything below would hold without one."""
    model = model_of(name, 4, attention)
    rows = torch.arange(7, 31).repeat(24, 1)  # (24, 24)
    rows[torch.arange(1, 24), torch.arange(23)] = 300  # row i + 1 differs at token i
    with torch.no_grad():
        last = forward(model, rows)[:, -1]
    reach = (4 - 1) * model.n_layers  # of the last token, through all layers
    differs = (last[1:] != last[:1]).any(dim=-1)
    assert bool(differs[-reach:].all())
    assert bool(differs[: -1 - reach].any()) == ("-" in name)  # some layers see everything


@st.composite
def ragged(draw: st.DrawFn) -> tuple[list[Row], list[int]]:
    """Rows of any length, and where each is cut."""
    token = st.integers(1, 399)
    rows = draw(st.lists(st.lists(token, min_size=1, max_size=24), min_size=1, max_size=5))
    cuts = [draw(st.integers(0, len(row) - 1)) for row in rows]
    return [tuple(row) for row in rows], cuts


@pytest.mark.parametrize("name", EACH_FAMILY)
@given(
    batch=ragged(), window=st.integers(1, 12), attention=st.sampled_from(["sdpa", "eager"]),
    start=st.integers(0, 4),
)  # fmt: skip
@settings(max_examples=8, derandomize=True)
def test_a_row_gives_the_same_states_wherever_it_is_cut(
    name: str, batch: tuple[list[Row], list[int]], window: int, attention: str, start: int
) -> None:
    model = model_of(name, window if name in WINDOWED else 4, attention)
    rows, cuts = batch
    starts = torch.tensor(cuts)
    left = padded([row[: max(cut, 1)] for row, cut in zip(rows, cuts, strict=True)], "cpu")
    ids = padded([row[cut:] for row, cut in zip(rows, cuts, strict=True)], "cpu")
    order = torch.arange(len(rows)).flip(0).repeat(2)
    with torch.no_grad():
        prefix, hidden = run_prefix(model, left, starts)
        after = forward_after(model, prefix, ids, starts)
        others, _ = run_prefix(model, left, starts, rows=order)
        chosen = forward_after(model, others, ids[order], starts[order])
        tail = Tail.record(model, prefix, ids, starts, start=start)
        again = model.final_hidden(tail.run(tail.hidden))
        fewer = tail.select(order)
        selected = model.final_hidden(fewer.run(fewer.hidden))
        ends = torch.tensor([len(row) - cut - 1 for row, cut in zip(rows, cuts, strict=True)])
        reads = Reads.of(torch.arange(len(rows)), ends, len(rows))
        last = model.final_hidden(tail.read(tail.hidden, reads))
    for b, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
        expected = alone(model, row)
        assert_same(hidden[b, :cut], expected[:cut])
        assert_same(last[b], expected[-1])
        for states in (after, again, chosen.flip(0), selected.flip(0)):
            assert_same(states[b, : len(row) - cut], expected[cut:])
        assert_same(chosen[len(rows) - 1 - b, : len(row) - cut], expected[cut:])


@pytest.mark.parametrize("name", EACH_WINDOWED)
@given(length=st.integers(1, 20), where=st.integers(0, 19), at=st.integers(0, 19))
@settings(max_examples=8, derandomize=True)
def test_a_block_can_be_run_again_at_any_tokens(
    name: str, length: int, where: int, at: int
) -> None:
    model = model_of(name)
    start = where % length
    ids = torch.arange(11, 11 + length)
    own = length - start
    recorded = RecordedPass.record(model, ids, start, 3)
    expected = alone(model, tuple(ids.tolist()))[start:]
    assert_same(model.final_hidden(recorded.states[-1])[1], expected)
    skip = at % own
    for layer in range(model.n_layers):
        hidden = recorded.states[layer][1:, skip:].repeat(2, 1, 1)
        for only in (None, 1, min(2, own - skip)):
            output = recorded.run(layer, hidden, skip=skip, rows=slice(1, 3), only=only)
            wanted = recorded.states[layer + 1][1:].repeat(2, 1, 1)
            assert_same(output, wanted[:, -output.shape[1] :])


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_candidates_score_as_defined(name: str) -> None:
    model = model_of(name)
    models = EditedModels(model, [delta_for(model, kinds="")])
    rows = models.candidate_nll([CandidateQuery(0, prompt, CANDIDATES) for prompt in PROMPTS])
    for prompt, row in zip(PROMPTS, rows, strict=True):
        for candidate, value in zip(CANDIDATES, row, strict=True):
            assert value == pytest.approx(plain_nll(model, prompt, candidate), rel=1e-5)


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_texts_score_as_defined(name: str) -> None:
    model = model_of(name)
    models = EditedModels(model, [delta_for(model, kinds="")])
    rows = models.text_nll([TextQuery(0, prompt) for prompt in PROMPTS])
    for encoding, row in zip(model.encode(PROMPTS), rows, strict=True):
        with torch.no_grad():
            log_p = torch.log_softmax(model.head(alone(model, encoding.ids)), dim=-1)
        expected = [-float(log_p[i, token]) for i, token in enumerate(encoding.ids[1:])]
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)


def greedy(model: LanguageModel, prompt: Row, n: int) -> Row:
    """Greedy generation as defined: the whole text is run again for every token."""
    while len(prompt) < n:
        with torch.no_grad():
            logits = model.head(alone(model, prompt)[-1])
        prompt = (*prompt, int(logits.argmax()))
    return prompt


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_texts_are_generated_as_defined(name: str) -> None:
    """Prompts of other lengths, one longer than the window; all texts far longer than it."""
    model = model_of(name)
    prompts = [encoding.ids for encoding in model.encode(PROMPTS)]
    with model.frozen(), torch.no_grad():
        uniform = draws([(i,) for i in range(len(prompts))], 20)
        texts = continued(model, prompts, uniform, top_k=1)
    expected = [greedy(model, prompt, 20) for prompt in prompts]
    assert [tuple(text) for text in texts] == expected
    [drawn] = sample(model, prompts[2], n=1, new_tokens=8, top_k=1, generator=torch.Generator())
    assert (*prompts[2], *drawn) == expected[2][: len(prompts[2]) + 8]
    models = EditedModels(model, [delta_for(model, kinds="")])
    queries = [GenerationQuery(0, prompt) for prompt in PROMPTS]
    written = models.generate(queries, tokens=20, top_k=1)
    decoded = model.tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert written == decoded


# --------------------------------------------------- positions that are scaled by length

_ORIGINAL = 16
SCALED: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": _ORIGINAL},
    "llama3": {
        "factor": 4.0, "original_max_position_embeddings": _ORIGINAL,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
    "longrope": {
        "factor": 4.0, "original_max_position_embeddings": _ORIGINAL,
        "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
    },
}  # fmt: skip


def scaled(kind: str) -> LanguageModel:
    return windowed("llama", rope_parameters={"rope_type": kind, "rope_theta": 1e4, **SCALED[kind]})


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_positions_do_not_depend_on_the_batch(kind: str) -> None:
    """The longest row has all tokens that the model may be given, others are shorter."""
    model = scaled(kind)
    longest = model.context_length
    assert longest == (_ORIGINAL if kind == "longrope" else 64)
    lengths, starts = (longest, longest // 2, 5), torch.tensor([longest - 6, 3, 0])
    rows = [tuple(range(20, 20 + n)) for n in lengths]
    pairs = list(zip(rows, starts.tolist(), strict=True))
    with torch.no_grad():
        whole = forward(model, padded(rows, "cpu"))
        prefix, _ = run_prefix(model, padded([r[: max(c, 1)] for r, c in pairs], "cpu"), starts)
        after = forward_after(model, prefix, padded([r[c:] for r, c in pairs], "cpu"), starts)
    for b, (row, start) in enumerate(pairs):
        expected = alone(model, row)
        assert_same(whole[b, : len(row)], expected)
        assert_same(after[b, : len(row) - start], expected[start:])


def test_longrope_is_used_up_to_its_original_context(caplog: pytest.LogCaptureFixture) -> None:
    model = scaled("longrope")
    assert "limited to 16 of its 64 tokens" in caplog.text
    assert shape_of(model.hf.config).context_length == model.context_length == _ORIGINAL
    models = EditedModels(model, [delta_for(model, kinds="")])
    with pytest.raises(ModelError, match="does not fit into the context of 16 tokens"):
        models.text_nll([TextQuery(0, "Paris " * 20)])
    [[value]] = models.candidate_nll([CandidateQuery(0, "Paris " * 20 + "is in", ("France",))])
    assert "its beginning is cut off" in caplog.text
    assert 0 < value < 100
    nested = copy.deepcopy(model.hf.config)
    nested.rope_parameters = {"full_attention": nested.rope_parameters, "sliding_attention": None}
    assert context_length_of(nested) == _ORIGINAL


def test_masks_that_cannot_be_cut_are_refused() -> None:
    class Mask:
        shape = (1, 1, 4, 4)

    model = windowed("mistral")

    def give(_: Any, args: Any, kwargs: Any) -> Any:
        mask = Mask() if args[0].shape[1] > 1 else kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": mask}

    handle = model.block(0).register_forward_pre_hook(give, with_kwargs=True)
    ids, starts = torch.tensor([[5, 6, 7, 8]]), torch.tensor([0])
    with pytest.raises(ModelError, match="passes a Mask to its blocks.*sdpa or eager"):
        Tail.record(model, None, ids, starts, start=0)
    with pytest.raises(ModelError, match="passes a Mask to its blocks"):
        RecordedPass.record(model, ids[0], 0, 2)
    handle.remove()
