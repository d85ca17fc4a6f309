"""Trained editors of earlier versions still load, and restamping keeps their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save

import editkit_benchmarks.atlas as atlas
from editkit import DeltaError, load_model
from editkit.models import shape_of
from editkit.models.fingerprints import legacy_fingerprint
from editkit.registry.models import fingerprint_of, model_folder
from editkit.storage.digests import digest_of_tensors
from editkit_plugins.learned.config import MendConfig
from editkit_plugins.learned.editor import MendEditor
from editkit_plugins.learned.restamp import restamp
from editkit_plugins.learned.trained import load_trained, read_editor_file, write_editor_file

SHIPPED = Path(atlas.__file__).parent / "trained" / "mend"


@pytest.fixture
def old_editor(tmp_path: Path) -> Path:
    """The shipped editor as an earlier version stored it."""
    folder = tmp_path / "mend"
    shutil.copytree(SHIPPED, folder)
    facts, tensors = read_editor_file(folder)
    old = legacy_fingerprint(model_folder("atlas"))
    write_editor_file(folder, tensors, {**facts, "model_fingerprint": old})
    return folder


def test_an_editor_of_an_earlier_version_still_loads_for_the_same_model_files(
    old_editor: Path,
) -> None:
    model = load_model("atlas")
    assert load_trained(old_editor, model).metadata["model_fingerprint"] != model.fingerprint
    model.hf.get_parameter(f"{model.path(1, 'mlp_out')}.weight").data.mul_(2)
    with pytest.raises(DeltaError, match="was trained on"):
        load_trained(old_editor, model)


def test_restamping_changes_the_fingerprint_and_nothing_else(old_editor: Path) -> None:
    old, new = legacy_fingerprint(model_folder("atlas")), fingerprint_of("atlas")
    with pytest.raises(DeltaError, match="was trained on the model"):
        restamp(old_editor, "f" * 32, "e" * 32)
    assert restamp(old_editor, old, new)
    (facts, tensors), (shipped, wanted) = read_editor_file(old_editor), read_editor_file(SHIPPED)
    assert facts == shipped
    assert digest_of_tensors(tensors) == digest_of_tensors(wanted)
    assert not restamp(old_editor, old, new)


def test_restamping_adds_the_digest_of_the_metadata(old_editor: Path) -> None:
    facts, tensors = read_editor_file(SHIPPED)
    assert facts.pop("facts_digest")
    path = old_editor / "editor.safetensors"
    path.write_bytes(save(tensors, metadata={"editor": json.dumps(facts)}))
    assert "facts_digest" not in read_editor_file(old_editor)[0]
    assert restamp(old_editor, "0" * 32, facts["model_fingerprint"])
    assert path.read_bytes() == (SHIPPED / "editor.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["ke", "ke-cf", "mend", "mend-cf"])
def test_shipped_editors_have_a_digest_of_their_metadata(name: str) -> None:
    assert read_editor_file(SHIPPED.parent / name)[0]["facts_digest"]


def test_memory_is_estimated_from_the_file_that_is_loaded(old_editor: Path) -> None:
    shape = shape_of(load_model("atlas").hf.config)
    config = MendConfig(trained=str(old_editor))
    before = MendEditor(config).requirements(shape, requests=2, tokens=20)
    (old_editor / "editor.json").write_text('{"settings": {"kind": "mend", "rank": 1}}')
    assert MendEditor(config).requirements(shape, requests=2, tokens=20) == before
    (old_editor / "editor.json").unlink()
    assert MendEditor(config).requirements(shape, requests=2, tokens=20) == before
    assert str(old_editor) in before.notes[0]
    (old_editor / "editor.safetensors").write_bytes(b"")
    assert "not known" in MendEditor(config).requirements(shape, requests=2, tokens=20).notes[0]
