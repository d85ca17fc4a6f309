"""Editors inside applied(): for the edited model there, for the bare one afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editkit import DeltaError, Dense, Editor, EditRequest, ModelError, WeightDelta, applied
from editkit.covariance import second_moment
from editkit.covariance.second_moment import Whitening, compute_second_moment
from editkit.editing.edited_models import CandidateQuery, EditedModels
from editkit.editing.generation import sampled_contexts
from editkit.models import LanguageModel
from editkit_plugins.finetune.config import FineTuneConfig
from editkit_plugins.finetune.editor import FineTuneEditor
from editkit_plugins.kn.config import KnConfig
from editkit_plugins.kn.editor import KnEditor
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from tests.tiny import SENTENCES, tiny

REQUEST = EditRequest("{} is in the city of", "The Space Needle", "Paris", "Seattle")


def rome(corpus: Path) -> Editor[Any]:
    values = {"layer": 2, "steps": 3, "ridge": 1e-2, "context_lengths": ((2, 3),)}
    return RomeEditor(RomeConfig(**values, corpus=str(corpus)))


def fine_tuning(corpus: Path) -> Editor[Any]:
    return FineTuneEditor(FineTuneConfig(layer=2, steps=3))


def neurons(corpus: Path) -> Editor[Any]:
    return KnEditor(KnConfig(steps=4))


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES * 8), encoding="utf-8")
    return tmp_path / "corpus.txt"


def same(one: WeightDelta, other: WeightDelta) -> bool:
    return one.digest() == other.digest() and one.model_fingerprint == other.model_fingerprint


def first_edit(model: LanguageModel) -> WeightDelta:
    name = f"{model.path(1, 'mlp_out')}.weight"
    values = torch.randn(
        model.hf.get_parameter(name).shape, generator=torch.Generator().manual_seed(0)
    )
    return WeightDelta({name: Dense(values / 4)}, None, "x", {}, model.fingerprint)


@pytest.mark.parametrize("make", [rome, fine_tuning, neurons])
def test_an_editor_inside_applied_edits_the_edited_model_and_nothing_leaks(
    make, corpus: Path
) -> None:
    model, below = tiny(), first_edit(tiny())
    [clean] = make(corpus).edit(tiny(), [REQUEST])  # with statistics of its own, in the cache
    for path in (corpus.parent / "cache").rglob("*.safetensors"):
        path.unlink()
    editor = make(corpus)
    with applied(model, below):
        editor.prepare(model)
        [above] = editor.edit(model, [REQUEST])
        [again] = make(corpus).edit(model, [REQUEST])
        assert same(above, again)
    assert above.made_on == (model.fingerprint, below.digest())
    assert above.digest() != clean.digest()
    [bare] = editor.edit(model, [REQUEST])
    [fresh] = make(corpus).edit(model, [REQUEST])
    assert same(bare, clean)
    assert same(fresh, clean)
    with applied(model, below):
        assert same(editor.edit(model, [REQUEST])[0], above)
    query = CandidateQuery(0, REQUEST.sentence, ("Paris", "Seattle"))
    if above.changes:
        with pytest.raises(DeltaError, match="with 1 other edit applied"):
            EditedModels(model, [above])
    with applied(model, [below, above]):
        together = EditedModels(model, [bare]).unedited().candidate_nll([query])
    with applied(model, below):
        on_top = EditedModels(model, [above]).candidate_nll([query])
    torch.testing.assert_close(torch.tensor(on_top), torch.tensor(together), rtol=1e-4, atol=1e-5)


def test_a_sequence_keeps_the_contexts_and_the_second_moment_of_the_base_model(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the edits below were part of the model, with C and the contexts of the base given."""
    model, below = tiny(), first_edit(tiny())
    contexts = tuple(sampled_contexts(model, ((2, 3),), top_k=5, seed=0))
    moment = compute_second_moment(model, model.path(2, "mlp_out"), SENTENCES * 8)
    arrays = {"mom2.mom2": moment.matrix.double() * moment.count, "mom2.count": moment.count}
    np.savez(corpus.with_suffix(".npz"), **arrays)
    permanent = tiny()
    with torch.no_grad():
        for name, change in below.changes.items():
            permanent.hf.get_parameter(name).add_(change.dense())
    given = {"contexts": contexts, "second_moment_file": str(corpus.with_suffix(".npz"))}
    [expected] = RomeEditor(rome(corpus).config.model_copy(update=given)).edit(permanent, [REQUEST])

    editor = rome(corpus)
    with applied(model, below):
        [above] = editor.edit(model, [REQUEST])
    for name, change in expected.changes.items():
        torch.testing.assert_close(above.changes[name].dense(), change.dense())

    computed = []
    monkeypatch.setattr(second_moment, "cached_together", computed.append)
    monkeypatch.setattr(Whitening, "of", computed.append)
    with applied(model, [below, above]):
        editor.edit(model, [REQUEST])
    editor.edit(model, [REQUEST])
    assert not computed
    editor.config = editor.config.model_copy(update={"statistics_of": "edited"})
    monkeypatch.undo()
    with applied(model, below):
        [other] = editor.edit(model, [REQUEST])
    assert other.digest() != above.digest()


@pytest.mark.parametrize("make", [rome, fine_tuning, neurons])
def test_no_editor_edits_weights_that_are_not_finite(make, corpus: Path) -> None:
    model = tiny()
    editor = make(corpus)
    editor.prepare(model)
    model.hf.get_parameter(f"{model.path(1, 'mlp_out')}.weight").data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        editor.edit(model, [REQUEST])
