"""Trained editors of earlier versions: still used, and renewed without touching their weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import editkit_benchmarks.atlas as atlas
from editkit import DeltaError, load_model
from editkit.cache import digest_of_tensors
from editkit.models import fingerprint_of, model_folder
from editkit.models.fingerprints import legacy_fingerprint
from editkit_plugins.learned.restamp import restamp
from editkit_plugins.learned.trained import load_trained, read_facts, save_facts

SHIPPED = Path(atlas.__file__).parent / "trained" / "mend"


@pytest.fixture
def old_editor(tmp_path: Path) -> Path:
    """The shipped editor as an earlier version stored it."""
    folder = tmp_path / "mend"
    shutil.copytree(SHIPPED, folder)
    facts, tensors = read_facts(folder)
    old = legacy_fingerprint(model_folder("atlas"))
    save_facts(folder, tensors, {**facts, "model_fingerprint": old})
    return folder


def test_an_editor_of_an_earlier_version_is_used_for_the_same_files(old_editor: Path) -> None:
    model = load_model("atlas")
    assert load_trained(old_editor, model).facts["model_fingerprint"] != model.fingerprint
    model.hf.get_parameter(f"{model.path(1, 'mlp_out')}.weight").data.mul_(2)
    with pytest.raises(DeltaError, match="was trained on"):
        load_trained(old_editor, model)


def test_restamping_changes_the_fingerprint_and_nothing_else(old_editor: Path) -> None:
    old, new = legacy_fingerprint(model_folder("atlas")), fingerprint_of("atlas")
    with pytest.raises(DeltaError, match="was trained on the model"):
        restamp(old_editor, "f" * 32, "e" * 32)
    assert restamp(old_editor, old, new)
    (facts, tensors), (shipped, wanted) = read_facts(old_editor), read_facts(SHIPPED)
    for each in (facts, shipped):
        each.pop("facts_digest", None)  # the shipped ones are from before it
    assert facts == shipped
    assert digest_of_tensors(tensors) == digest_of_tensors(wanted)
    assert not restamp(old_editor, old, new)
