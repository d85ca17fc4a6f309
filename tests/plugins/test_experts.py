"""Models whose blocks route each token to some of several MLPs: which edits work there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import DeltaError, EditRequest, ModelError, WeightDelta, applied, load_model
from editkit.data_types import fact_of
from editkit.editing.deltas import Dense
from editkit.editing.edited_models import CandidateQuery, EditedModels
from editkit.models.shape import shape_of
from editkit.registry.factories import make_editor
from editkit_plugins.kn.config import KnowledgeNeuronsConfig
from editkit_plugins.kn.locator import KnowledgeNeuronsLocator
from editkit_plugins.learned.networks import edited_matrices
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from tests.editkit.editing.test_edited_models import plain_nll
from tests.parity import difference
from tests.plugins.finetune.test_finetune import loss_of
from tests.plugins.rome.oracle import solve_plainly
from tests.slow_cases import by_default
from tests.tiny import EXPERTS, tiny

REQUESTS = [
    EditRequest("{} is in the city of", "The Space Needle", "Paris"),
    EditRequest("They say that the mother tongue of {} is", "Danielle Darrieux", "Italian words"),
]
SPARSE = by_default(EXPERTS, "qwen3_moe")
ROME = {"second_moment": False, "steps": 4, "weight_decay": 0.0, "contexts": ["The city. "]}
OF_THE_MLP: dict[str, dict[str, Any]] = {
    "rome": {**ROME, "layer": 2},
    "ft": {"layer": 2},
    "kn": {},
}


@pytest.mark.parametrize("name", SPARSE)
def test_attention_is_edited_as_if_the_weights_were_changed(name: str) -> None:
    """Rows with their own edits score as each edited model alone, from the definition."""
    model = tiny(name)
    before = model.weights_digest()
    values = {"layer": 2, "target_positions": "teacher_forced"}
    deltas = make_editor("attnedit", model, **values).edit(model, REQUESTS)
    queries = [
        CandidateQuery(edit, request.sentence, (request.target_new, "French"))
        for edit, request in enumerate(REQUESTS)
    ]
    scores = EditedModels(model, deltas).candidate_nll(queries)
    for request, delta, row in zip(REQUESTS, deltas, scores, strict=True):
        unedited = loss_of(model, request, "teacher_forced")
        with applied(model, delta):
            assert loss_of(model, request, "teacher_forced") < unedited
            for candidate, value in zip((request.target_new, "French"), row, strict=True):
                assert value == pytest.approx(
                    plain_nll(model, request.sentence, candidate), rel=1e-4
                )
    assert model.weights_digest() == before


@pytest.mark.parametrize("editor", OF_THE_MLP)
@pytest.mark.parametrize("name", SPARSE)
def test_edits_of_experts_are_refused_with_what_is_possible(name: str, editor: str) -> None:
    """Before any work, in the forecast, and without a check."""
    model = tiny(name)
    made = make_editor(editor, model, **OF_THE_MLP[editor])
    shape = shape_of(model.hf.config)
    for refused in (
        lambda: made.check(model),
        lambda: made.edit(model, REQUESTS),
        lambda: made.requirements(shape, requests=1, tokens=8),
    ):
        with pytest.raises(ModelError, match="mixture of experts.*attnedit") as error:
            refused()
        assert ("without experts (1)" in str(error.value)) == name.startswith("qwen")


@pytest.mark.parametrize("name", SPARSE)
def test_neurons_and_learned_editors_refuse_experts(name: str) -> None:
    model = tiny(name)
    with pytest.raises(ModelError, match="mixture of experts"):
        edited_matrices(model, 2)
    locator = KnowledgeNeuronsLocator(KnowledgeNeuronsConfig(steps=2))
    with pytest.raises(ModelError, match="mixture of experts"):
        locator.locate(model, [fact_of(REQUESTS[0], "Paris")])


@pytest.mark.parametrize("name", by_default(("qwen2_moe", "qwen3_moe"), "qwen3_moe"))
def test_a_layer_without_experts_is_edited(name: str) -> None:
    model = tiny(name)
    editor = RomeEditor(RomeConfig(**ROME, layer=1))
    editor.check(model)
    for quick, plain in zip(
        editor.solve(model, REQUESTS), solve_plainly(editor, model, REQUESTS), strict=True
    ):
        assert difference(quick.value.delta, plain.value.delta) < 1e-3
        assert min(loss.nll for loss in quick.value.losses) < quick.value.losses[0].nll
    fine_tuned = make_editor("ft", model, layer=1).edit(model, REQUESTS)
    assert all(delta.norm() > 0 for delta in fine_tuned)


@pytest.mark.parametrize("name", SPARSE)
def test_experts_belong_to_the_model_s_identity(name: str) -> None:
    """The experts' weights are one tensor of three dimensions, which no delta describes."""
    model = tiny(name)
    parameter = "model.layers.2.mlp.experts.down_proj"
    weight, fingerprint = model.hf.get_parameter(parameter), model.fingerprint
    with pytest.raises(DeltaError, match="a dense change has the shape"):
        Dense(torch.zeros(weight.shape))
    misfit = WeightDelta({parameter: Dense(weight[0])}, None, "test", {}, fingerprint)
    with pytest.raises(DeltaError, match="does not fit"), applied(model, misfit):
        pass
    with torch.no_grad():
        weight[1, 0, 0] += 1.0
    assert model.fingerprint != fingerprint


@pytest.mark.parametrize("name", SPARSE)
def test_a_saved_model_loads_to_the_same_weights(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.weights_digest() == model.weights_digest()
