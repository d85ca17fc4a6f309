"""Models on several devices: edits are on the devices of their weights, with the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import EditRequest, LanguageModel, applied, make_editor
from editkit.editing.edited_models import CandidateQuery, EditedModels, GenerationQuery, TextQuery
from editkit.editing.generation import sampled_contexts
from editkit.models.running import forward, replacing
from tests.devices import FIRST, SECOND, pretended_devices
from tests.parity import difference
from tests.slow_cases import by_default
from tests.tiny import ARCHITECTURES, SENTENCES, tiny

accelerate = pytest.importorskip("accelerate")

REQUESTS = [
    EditRequest("The mother tongue of {} is", "Anna Berg", "Greek", target_true="French"),
    EditRequest("{} is in", "The Eiffel Tower", "the city of Rome", target_true="Paris"),
]
EDITORS: dict[str, dict[str, Any]] = {
    "rome": {"second_moment": False, "steps": 3},
    "ft": {"steps": 3},
    "attnedit": {"steps": 3, "target_positions": "teacher_forced", "train_bias": False},
}


def spread(architecture: str) -> LanguageModel:
    """A tiny model with its upper half on a second device, put there by accelerate."""
    model = tiny(architecture)
    half = model.n_layers // 2
    parts = model.architecture
    places = {
        parts.block(layer): FIRST if layer < half else SECOND for layer in range(model.n_layers)
    }
    tied = model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight
    places[parts.final_norm] = SECOND
    places[parts.head] = FIRST if tied else SECOND
    known = tuple(places)
    for name in (*dict(model.hf.named_parameters()), *dict(model.hf.named_buffers())):
        path = name.rpartition(".")[0]
        if not path.startswith(known):
            places[path] = FIRST
    accelerate.dispatch_model(
        model.hf, places, main_device=FIRST, skip_keys=model.hf._skip_keys_device_placement
    )
    return model


def cpu(values: torch.Tensor) -> torch.Tensor:
    return values.detach().to("cpu")


CASES = [
    # gpt_bigcode has a mask beside its blocks, which accelerate places with all of them.
    *((name, "rome", 2, SECOND) for name in ARCHITECTURES if name != "gpt_bigcode"),
    *((architecture, "attnedit", 2, SECOND) for architecture in ("gpt2", "opt", "llama")),
    *((architecture, "ft", 2, SECOND) for architecture in ("gpt2", "gptj", "opt")),
    *(("gpt2", editor, 1, FIRST) for editor in EDITORS),
]


@pytest.mark.parametrize(
    ("architecture", "editor", "layer", "device"),
    by_default(CASES, *(case for case in CASES if case[0] in ("gpt2", "opt", "llama"))),
)
def test_edits_equal_those_on_one_device(
    architecture: str, editor: str, layer: int, device: str
) -> None:
    model = tiny(architecture)
    values = {**EDITORS[editor], "layer": layer}
    queries = [
        CandidateQuery(edit, request.sentence, (request.target_new, str(request.target_true)))
        for edit, request in enumerate(REQUESTS)
    ]
    expected = make_editor(editor, model, **values).edit(model, REQUESTS)
    scores = EditedModels(model, expected).candidate_nll(queries)
    with pretended_devices():
        model = spread(architecture)
        assert model.devices == [FIRST, SECOND]
        before = {n: cpu(w).clone() for n, w in model.hf.named_parameters()}
        deltas = make_editor(editor, model, **values).edit(model, REQUESTS)
        assert EditedModels(model, deltas).candidate_nll(queries) == [
            pytest.approx(row, rel=1e-4) for row in scores
        ]
        for delta, reference in zip(deltas, expected, strict=True):
            for name, change in delta.changes.items():
                assert difference(cpu(change.dense()), reference.changes[name].dense()) < 1e-3
            with applied(model, delta):
                for name in reference.changes:
                    weight = model.hf.get_parameter(name)
                    assert str(weight.device) == device
                    assert not torch.equal(cpu(weight), before[name])
        for name, weight in model.hf.named_parameters():
            assert torch.equal(cpu(weight), before[name])


@pytest.mark.parametrize("values", [{}, {"site": "post_activation"}], ids=str)
@pytest.mark.parametrize("architecture", by_default(["gpt2", "opt", "llama"], "gpt2"))
def test_neurons_equal_those_on_one_device(architecture: str, values: dict[str, Any]) -> None:
    values = {**values, "steps": 4, "target_space": True}
    expected = make_editor("kn", tiny(architecture), **values).edit(tiny(architecture), REQUESTS)
    with pretended_devices():
        model = spread(architecture)
        deltas = make_editor("kn", model, **values).edit(model, REQUESTS)
        for delta, reference in zip(deltas, expected, strict=True):
            assert delta.changes.keys() == reference.changes.keys()
            for name, change in delta.changes.items():
                assert difference(cpu(change.dense()), reference.changes[name].dense()) < 1e-4
            with applied(model, delta):
                pass


def test_sampled_contexts_and_second_moments_equal_those_on_one_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(SENTENCES * 20), encoding="utf-8")
    values = {"layer": 2, "steps": 3, "corpus": str(corpus), "ridge": 1e-2}
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "one"))
    expected = make_editor("rome", tiny(), **values).edit(tiny(), REQUESTS[:1])[0]
    texts = sampled_contexts(tiny(), [(2, 3)], top_k=5, seed=0)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "two"))
    with pretended_devices():
        model = spread("gpt2")
        delta = make_editor("rome", model, **values).edit(model, REQUESTS[:1])[0]
        assert sampled_contexts(model, [(2, 3)], top_k=5, seed=0) == texts
        assert model.describe()["device"] == f"{FIRST}, {SECOND}"
    for name, change in delta.changes.items():
        assert difference(cpu(change.dense()), expected.changes[name].dense()) < 5e-3


def test_texts_equal_those_on_one_device() -> None:
    written = [
        GenerationQuery(edit, request.sentence, str(edit)) for edit, request in enumerate(REQUESTS)
    ]
    read = [TextQuery(edit, request.sentence) for edit, request in enumerate(REQUESTS)]
    model = tiny("gpt2")
    deltas = make_editor("rome", model, **EDITORS["rome"]).edit(model, REQUESTS)
    models = EditedModels(model, deltas)
    texts, nll = models.generate(written, tokens=20), models.text_nll(read)
    with pretended_devices():
        spread_models = EditedModels(spread("gpt2"), deltas)
        assert spread_models.generate(written, tokens=20) == texts
        assert spread_models.text_nll(read) == [pytest.approx(row, rel=1e-4) for row in nll]


def test_a_replacement_gets_input_and_output_on_one_device() -> None:
    """The first block of the second device is given its input by the first device."""
    with pretended_devices(), torch.no_grad():
        model = spread("gpt2")
        ids = torch.tensor([[1, 2, 3]], device=model.device)
        with replacing(model, {model.architecture.block(2): lambda x, y: x + y}):
            hidden = forward(model, ids)
        assert hidden.device == model.device
        states = cpu(hidden)
    model = tiny()
    with torch.no_grad(), replacing(model, {model.architecture.block(2): lambda x, y: x + y}):
        assert difference(states, forward(model, torch.tensor([[1, 2, 3]]))) < 1e-5


def test_the_simulated_devices_refuse_mixed_devices_like_gpus() -> None:
    with pretended_devices():
        here, there = torch.ones(2, device=FIRST), torch.ones(2, device=SECOND)
        with pytest.raises(RuntimeError, match="all tensors must be on the same device"):
            here + there
        with pytest.raises(RuntimeError, match="all tensors must be on the same device"):
            here + torch.ones(2)
        with pytest.raises(RuntimeError, match="all tensors must be on the same device"):
            here[torch.tensor([0], device=SECOND)]
        assert (here + there.to(FIRST)).tolist() == [2.0, 2.0]
        assert here[torch.tensor([0])].device == here.device
