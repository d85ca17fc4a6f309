"""Editors, tracing and training on models whose window is shorter than a row.

Each fast path is compared with the plain one: whole rows through the whole model, no reuse.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editkit import EditRequest, Fact, LanguageModel, applied
from editkit.editing.gradients import LowerBlocks
from editkit_plugins.finetune.config import FineTuneConfig
from editkit_plugins.finetune.editor import FineTuneEditor
from editkit_plugins.kn.attribution import Query, attribute
from editkit_plugins.kn.config import AttributionConfig
from editkit_plugins.learned.training.cached_blocks import CachedLowerBlocks
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from tests.parity import difference
from tests.plugins.finetune.test_finetune import loss_of
from tests.plugins.kn.oracle import attribute_plainly
from tests.plugins.learned.samples import BOTH, editor_of, training
from tests.plugins.rome.oracle import solve_plainly
from tests.plugins.tracing.test_causal_tracing import assert_close, both_ways
from tests.sliding_window_models import EACH_WINDOWED, FAMILIES, WINDOWED, windowed

REQUESTS = [
    EditRequest("{} is in the city of", "The Space Needle", "Paris"),
    EditRequest("They say that the mother tongue of {} is", "Danielle Darrieux", "Italian words"),
    EditRequest("{}", "Nintendo", "Microsoft"),
]
ROME = RomeConfig(
    contexts=("Mario Kart was created by Nintendo. ", "The city. "),
    second_moment=False,
    layer=1,
    steps=5,
    lr=0.1,
    stop_loss=0.0,
    weight_decay=1e-3,
    clamp=40.0,
)


@pytest.mark.parametrize("position", ["subject_last", "last"])
@pytest.mark.parametrize("window", [6, 16])
@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_rome_values_are_those_of_whole_rows(name: str, window: int, position: str) -> None:
    model = windowed(name, window)
    config = ROME.model_copy(update={"position": position})
    fast = RomeEditor(config).solve(model, REQUESTS)
    plain = solve_plainly(RomeEditor(config), model, REQUESTS)
    for quick, expected in zip(fast, plain, strict=True):
        assert difference(quick.value.keys, expected.value.keys) < 1e-5
        assert difference(quick.value.delta, expected.value.delta) < 1e-4
        assert difference(quick.right, expected.right) < 1e-4
        losses = [[loss.total for loss in each.value.losses] for each in (quick, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_neurons_are_attributed_as_in_whole_prompts(name: str) -> None:
    model = windowed(name)
    rows = [encoding.ids for encoding in model.encode([r.sentence for r in REQUESTS])]
    queries = [Query(row, (7 + i, 40)) for i, row in enumerate([*rows, (5,)])]
    batched = attribute(model, queries, AttributionConfig(steps=4))
    plain = attribute_plainly(model, queries, AttributionConfig(steps=4))
    for scores, expected in zip(batched, plain, strict=True):
        assert float((scores - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_traces_are_those_of_whole_prompts(name: str) -> None:
    """The answer has several tokens, so the last block's places differ from the others'."""
    model = windowed(name, 2)
    assert_close(*both_ways(model, Fact("By Rome is", "Rome", "Lima"), window=2, samples=1))


@pytest.mark.parametrize("positions", ["last_prompt", "teacher_forced"])
@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_training_losses_are_those_of_really_edited_models(name: str, positions: str) -> None:
    model = windowed(name)
    values = {"layer": 1, "target_positions": positions, "stop_loss": 0.0, "lr": 1e-3}
    longer = FineTuneEditor(FineTuneConfig(**values, steps=3)).train(model, REQUESTS)
    deltas = FineTuneEditor(FineTuneConfig(**values, steps=2)).edit(model, REQUESTS)
    for request, trained, delta in zip(REQUESTS, longer, deltas, strict=True):
        assert trained.losses[0] == pytest.approx(loss_of(model, request, positions), rel=1e-5)
        with applied(model, delta):
            edited = loss_of(model, request, positions)
        assert trained.losses[2] == pytest.approx(edited, rel=1e-4)


def final(model: LanguageModel, row: tuple[int, ...]) -> torch.Tensor:
    return model.hf.base_model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("kind", [LowerBlocks, CachedLowerBlocks])
@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_learned_editors_run_texts_as_if_alone(name: str, kind: type[LowerBlocks]) -> None:
    model = windowed(name)
    rows = [encoding.ids for encoding in model.encode([r.sentence for r in REQUESTS])]
    with torch.no_grad():
        tail = kind(model, 1).tail(rows)
        states = model.final_hidden(tail.run(tail.hidden))
        for row, hidden in zip(rows, states, strict=True):
            expected = final(model, row)
            largest = float(expected.abs().max())
            torch.testing.assert_close(hidden[: len(row)], expected, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("kind", BOTH)
def test_learned_deltas_do_not_depend_on_what_is_edited_beside(kind: str, tmp_path: Path) -> None:
    model = windowed("qwen3-mixed")
    training(model, BOTH[kind].model_copy(update={"steps": 2, "validate_every": 2}), tmp_path).run()
    together = editor_of(kind, tmp_path).edit(model, REQUESTS)
    for request, delta in zip(REQUESTS, together, strict=True):
        [alone] = editor_of(kind, tmp_path).edit(model, [request])
        for path, change in alone.changes.items():
            assert difference(delta.changes[path].dense(), change.dense()) < 1e-4


def test_the_table_is_covered() -> None:
    """An architecture that comes to know windows, or a new one, is tested with one."""
    for name in set(FAMILIES) - set(WINDOWED):
        config = windowed(name).hf.config
        layers = getattr(config, "layer_types", None) or ["full_attention"]
        assert getattr(config, "sliding_window", None) is None, name
        assert set(layers) == {"full_attention"}, name
