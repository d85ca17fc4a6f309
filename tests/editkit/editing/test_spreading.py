"""Values that are spread over layers: keys, residuals, and what is read after each change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from editkit import Dense, EditRequest, LowRank, ModelError, applied
from editkit.editing.changes import Change
from editkit.editing.deltas import WeightDelta
from editkit.editing.generation import sampled_contexts
from editkit.editing.rome_rows import request_rows
from editkit.editing.rome_value import keys_and_outputs
from editkit.editing.spreading import average_keys, block_outputs, check_layers, compact, spread
from editkit.editing.spreading_config import SpreadingConfig
from editkit.registry.models import load_model
from tests.tiny import tiny

REQUESTS = (
    EditRequest("{} is in", "The Space Needle", "Paris"),
    EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian"),
    EditRequest("{} was created by", "Mario Kart", "Microsoft"),
)
CONTEXTS = ("We know this. ", "It was late. So he left. ")
LAYERS = (0, 2)


def exact(keys: Tensor, residuals: Tensor) -> Change:
    """The least change that maps each key to its residual."""
    left = torch.linalg.pinv(keys.double())  # (D, n)
    return compact(left, residuals)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])
def test_exact_changes_of_the_bare_prompts_reach_the_values(architecture: str) -> None:
    model = tiny(architecture)
    config = SpreadingConfig(contexts=())
    rows = [request_rows(model, request, ("",), config) for request in REQUESTS]
    before = block_outputs(model, rows, LAYERS[-1])
    values = before + torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    digest = model.weights_digest()
    asked: list[tuple[int, Tensor, Tensor]] = []

    def update(i: int, keys: Tensor, residuals: Tensor) -> Change:
        asked.append((i, keys, residuals))
        return exact(keys, residuals)

    changes = spread(model, rows, values, LAYERS, config, update)
    assert model.weights_digest() == digest
    assert [i for i, _, _ in asked] == [0, 1]
    assert list(changes) == [f"{model.path(layer, 'mlp_out')}.weight" for layer in LAYERS]
    torch.testing.assert_close(asked[0][2], (values - before) / 2)

    first = WeightDelta(dict(list(changes.items())[:1]), None, "", {}, model.fingerprint)
    with applied(model, first):
        torch.testing.assert_close(asked[1][1], average_keys(model, rows, LAYERS[1], config))
        now = block_outputs(model, rows, LAYERS[-1])
        assert float((now - before).norm()) > 0.01 * float((values - before).norm())
        torch.testing.assert_close(asked[1][2], values - now)
    whole = WeightDelta(changes, None, "", {}, model.fingerprint)
    with applied(model, whole):
        after = block_outputs(model, rows, LAYERS[-1])
    torch.testing.assert_close(after, values, rtol=1e-3, atol=1e-3)


def test_spreading_on_an_edited_model_starts_from_the_edit() -> None:
    model = tiny()
    config = SpreadingConfig(contexts=())
    rows = [request_rows(model, request, ("",), config) for request in REQUESTS]
    values = torch.zeros(len(rows), model.hidden_size)
    changes = spread(model, rows, values, (0,), config, lambda _, k, r: exact(k, r))
    edit = WeightDelta(changes, None, "", {}, model.fingerprint)
    seen: list[Tensor] = []

    def update(_: int, keys: Tensor, residuals: Tensor) -> Change:
        seen.append(residuals)
        return exact(keys, residuals)

    with applied(model, edit):
        spread(model, rows, values, (0, 1), config, update)
        torch.testing.assert_close(seen[0], -block_outputs(model, rows, 1) / 2)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (SpreadingConfig(contexts=CONTEXTS), (1 / 2, 1 / 4, 1 / 4)),
        (SpreadingConfig(contexts=CONTEXTS, key_average="contexts"), (1 / 3, 1 / 3, 1 / 3)),
        (SpreadingConfig(contexts=CONTEXTS, bare_context=False), (1 / 2, 1 / 2)),
        (SpreadingConfig(contexts=()), (1.0,)),
    ],
)
def test_average_of_the_keys(
    config: SpreadingConfig, weights: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    contexts = ("", *(config.contexts or ()))
    rows = [request_rows(model, request, contexts, config) for request in REQUESTS]
    wanted = []
    for each in rows:
        keys = [keys_and_outputs(model, [row], 1)[0][0] for row in each.key_rows]
        wanted.append(torch.tensor(weights) @ torch.stack(keys))
    together = average_keys(model, rows, 1, config)
    torch.testing.assert_close(together, torch.stack(wanted))
    monkeypatch.setattr("editkit.editing.spreading.TOKENS_PER_PASS", 8)
    torch.testing.assert_close(average_keys(model, rows, 1, config), together)


def test_a_change_is_in_factors_while_these_are_smaller() -> None:
    left, right = torch.randn(12, 3).double(), torch.randn(3, 4).double()
    dense = compact(left, right)  # 3 (12 + 4) = 12 x 4
    assert isinstance(dense, Dense)
    low_rank = compact(left[:, :2], right[:2])
    assert isinstance(low_rank, LowRank)
    assert low_rank.left.dtype == dense.values.dtype == torch.float32
    torch.testing.assert_close(dense.values, (left @ right).float())


def test_layers_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ModelError, match="layer 99"):
        check_layers(tiny(), (0, 99))
    with pytest.raises(ModelError, match="do not add the output of the MLP's projection"):
        check_layers(tiny("gemma2"), (0, 1))
    for layers in ((), (2, 1), (1, 1)):
        with pytest.raises(ValueError, match="expected one or more, ascending"):
            SpreadingConfig(layers=layers)


def test_contexts_begin_with_the_given_words() -> None:
    model = load_model("atlas")
    texts = sampled_contexts(model, [(3, 6)], top_k=5, seed=0, starts=("I", "They said"))
    for text, word in zip(texts, ("I", "They said", "I"), strict=True):
        assert text.startswith(word)
        assert len(model.encode([text.removesuffix(". ")])[0]) == 6
    assert all(text.endswith(". ") for text in texts)
