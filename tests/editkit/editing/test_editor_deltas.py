"""Deltas as an editor builds them: its name, its configuration, and the model's fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from editkit import (
    Config,
    Dense,
    Editor,
    EditRequest,
    LanguageModel,
    WeightDelta,
    applied,
    load_model,
    make_editor,
)
from tests.tiny import tiny

REQUESTS = [
    EditRequest("{} is in the city of", "The Space Needle", "Paris"),
    EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian"),
]


class BiasConfig(Config):
    size: float = 1.0


class BiasEditor(Editor[BiasConfig]):
    joint = False

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        changes = {"transformer.h.0.mlp.c_proj.bias": Dense(torch.full((32,), self.config.size))}
        if self.joint:
            return [self.delta(model, requests, changes)] * len(requests)
        return [self.delta(model, r, changes, notes={"loss": 1.0}) for r in requests]


class NamedEditor(BiasEditor):
    name = "bias"
    joint = True


def test_a_delta_has_the_editors_name_configuration_and_model() -> None:
    model = tiny()
    for request, delta in zip(
        REQUESTS, BiasEditor(BiasConfig(size=2.0)).edit(model, REQUESTS), strict=True
    ):
        assert (delta.request, delta.editor) == (request, "BiasEditor")
        assert (delta.config, delta.notes) == ({"size": 2.0}, {"loss": 1.0})
        assert delta.model_fingerprint == model.fingerprint
    [delta, again] = NamedEditor(BiasConfig()).edit(model, REQUESTS)
    assert delta is again
    assert (delta.request, delta.editor, delta.notes) == (tuple(REQUESTS), "bias", {})


@pytest.mark.parametrize("name", ["ft", "ft+l", "attnedit", "rome", "none"])
def test_an_editor_has_the_name_that_users_type(name: str) -> None:
    model = load_model("atlas")
    assert make_editor(name, model).name == name


def test_editors_that_share_a_class_name_their_deltas_differently() -> None:
    model = load_model("atlas")
    request = EditRequest("{} is made by", "Bronco", "Honda", "Ford")
    for name in ("ft", "ft+l"):
        [delta] = make_editor(name, model, steps=1).edit(model, [request])
        assert delta.editor == name


def test_a_delta_made_on_top_of_an_edit_has_its_fingerprint() -> None:
    model, editor = tiny(), BiasEditor(BiasConfig())
    [first] = editor.edit(model, REQUESTS[:1])
    with applied(model, first):
        [second] = editor.edit(model, REQUESTS[1:])
        assert second.model_fingerprint == model.fingerprint != first.model_fingerprint
    assert second.made_on == (first.model_fingerprint, first.digest())


def test_the_fingerprint_is_read_once_per_call_of_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, editor = tiny(), BiasEditor(BiasConfig())
    fingerprint, reads = model.fingerprint, []

    def counted(_: LanguageModel) -> str:
        reads.append(1)
        return fingerprint

    monkeypatch.setattr(LanguageModel, "fingerprint", property(counted))
    with torch.no_grad():
        editor.edit(model, REQUESTS * 10)
    assert len(reads) == 1
    editor.delta(model, REQUESTS[0], {})
    editor.delta(model, REQUESTS[0], {})
    assert len(reads) == 3
