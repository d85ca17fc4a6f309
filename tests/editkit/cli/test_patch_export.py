"""``editkit patch export``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from editkit import DeltaError, EditRequest, ModelError, Patch, load_model
from editkit.patches.content import Origin
from editkit.patches.export import FolderExport
from editkit.patches.lora import LoraExport
from editkit.registry.models import model_folder
from tests.editkit.patches.exported import edited_logits, loaded, mlp_edit, plain_logits, saved

Cli = Callable[..., tuple[int, str, str]]
FACT = EditRequest("{} is in", "Rome", "Seattle", "Italy")


def patch_of(source: Path, model: str, seed: int = 0, request: EditRequest = FACT) -> Patch:
    """A patch of a tiny model, made on a model with that name."""
    delta = dataclasses.replace(mlp_edit(loaded(source), seed=seed), request=request)
    created = "2026-01-02T03:04:05"
    return Patch(delta, Origin(model, None, "llama", "float32", "cpu", created, 1.5, {}))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved("llama", tmp_path / "source")


def test_a_folder_of_two_patches(editkit: Cli, source: Path, tmp_path: Path) -> None:
    """The model is the one that the first patch names; the printed lines load the folder."""
    other = EditRequest("{} is in", "Oslo", "Chad")
    patches = [patch_of(source, str(source)), patch_of(source, str(source), 1, other)]
    files = [patch.save(tmp_path / f"{n}.patch") for n, patch in enumerate(patches)]
    code, text, _ = editkit("patch", "export", *files, "--out", tmp_path / "new", "--quiet")
    assert code == 0
    assert f"{tmp_path / 'new'}: {source} with the edit, 1 weight changed (float32)" in text
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    assert len(lines) == 2
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    assert type(names["model"]).__name__ == "LlamaForCausalLM"
    expected = edited_logits(loaded(source), [patch.delta for patch in patches])
    assert torch.equal(plain_logits(tmp_path / "new"), expected)


def test_an_adapter_as_json(editkit: Cli, source: Path, tmp_path: Path) -> None:
    file = patch_of(source, "another-name").save(tmp_path / "a.patch")
    flags = ("--format", "lora", "--model", source, "--out", tmp_path / "new", "--json")
    code, text, _ = editkit("patch", "export", file, *flags)
    document = json.loads(text)
    assert code == 0
    assert (document["schema"], document["format"], document["rank"]) == (1, "lora", 2)
    assert document["ranks"] == {"model.layers.1.mlp.down_proj": 2}
    assert (tmp_path / "new" / "adapter_config.json").is_file()


def test_what_is_refused(editkit: Cli, source: Path, tmp_path: Path) -> None:
    """Exit code 2, a message, and no folder."""
    file = patch_of(source, str(source)).save(tmp_path / "a.patch")
    unknown = patch_of(source, "no-such-model").save(tmp_path / "b.patch")
    elsewhere = saved("llama", tmp_path / "elsewhere", seed=1)
    out = ("--out", tmp_path / "new")
    for arguments, message in [
        ((file, "--model", elsewhere), "but .*elsewhere is"),
        ((file, file), "same patch: .*a.patch and .*a.patch"),
        ((unknown,), "was made on 'no-such-model', which is not found here"),
        ((file, "--format", "lora", "--dtype", "float32"), "an adapter, which is always float32"),
        ((file, "--dtype", "int8"), "--dtype"),
        ((tmp_path / "c.patch",), "does not exist"),
    ]:
        code, _, error = editkit("patch", "export", *arguments, *out)
        assert code == 2
        assert re.search(message, error), error
    assert not (tmp_path / "new").exists()
    assert editkit("patch", "export", file, "--model", elsewhere, *out, "--force")[0] == 0


def test_in_python(source: Path, tmp_path: Path) -> None:
    patch = patch_of(source, str(source))
    folder = patch.export(tmp_path / "folder")
    adapter = patch.export(str(tmp_path / "adapter"), model=str(source), format="lora")
    assert isinstance(folder, FolderExport)
    assert isinstance(adapter, LoraExport)
    assert torch.equal(
        plain_logits(tmp_path / "folder"), edited_logits(loaded(source), patch.delta)
    )
    with pytest.raises(DeltaError, match="the format of an export is 'gguf'"):
        patch.export(tmp_path / "new", format="gguf")  # type: ignore[arg-type]
    with pytest.raises(DeltaError, match="does not name the model"):
        Patch(patch.delta).export(tmp_path / "new")
    with pytest.raises(ModelError, match="does not exist"):
        patch.export(tmp_path / "new", model=str(tmp_path / "gone"))


def test_the_model_of_a_patch_of_atlas_is_found(tmp_path: Path) -> None:
    delta = mlp_edit(load_model("atlas"))
    origin = Origin("atlas", None, "gpt2", "float32", "cpu", "2026-01-02T03:04:05", 1.5, {})
    written = Patch(delta, origin).export(tmp_path / "new", format="lora")
    assert isinstance(written, LoraExport)
    assert written.base == str(model_folder("atlas").resolve())
    [warning] = written.warnings
    assert warning.startswith("vLLM serves gpt2 models without LoRA")
