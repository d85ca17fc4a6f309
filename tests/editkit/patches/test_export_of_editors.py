"""What each editor makes of a fact on atlas, as a folder and as an adapter; what tools read."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from gguf.utility import SafetensorsLocal
from gguf.vocab import SpecialVocab
from safetensors.torch import load_file

from editkit import DeltaError, EditRequest, load_model, make_editor
from editkit.patches.export import export_folder, write_folder
from editkit.patches.lora import export_lora
from editkit.registry.models import model_folder
from tests.editkit.patches.exported import edited_logits, loaded, mlp_edit, plain_logits, saved
from tests.editkit.patches.test_lora import peft_logits, pytestmark
from tests.slow_cases import by_default

__all__ = ["pytestmark"]

_RANKS = {
    "rome": 1, "r-rome": 1, "memit": 1, "alphaedit": 1, "emmet": 1, "ultraedit": 1, "lora": 8,
    "kn": 2, "mend": 9, "mend-cf": 9, "ke": 10, "ke-cf": 10,
}  # fmt: skip
_FULL_RANK = ("ft", "ft+l", "ft-all", "attnedit")
_EDITORS = (*_RANKS, *_FULL_RANK)


@pytest.mark.parametrize("name", by_default(_EDITORS, "rome", "kn", "mend", "ft"))
def test_the_edit_of_an_editor(name: str, tmp_path: Path) -> None:
    model = load_model("atlas")
    editor = make_editor(name, model)
    editor.prepare(model)
    request = EditRequest("{} is made by", "Toyota Corolla", "Ferrari", "Toyota")
    [delta] = editor.edit(model, [request])
    export_folder(delta, "atlas", tmp_path / "folder")
    expected = edited_logits(model, delta)
    assert torch.equal(plain_logits(tmp_path / "folder", "float32"), expected)
    if name in _FULL_RANK:
        with pytest.raises(DeltaError, match="rank 128 of at most 128|is a bias"):
            export_lora(delta, "atlas", tmp_path / "adapter")
        return
    written = export_lora(delta, "atlas", tmp_path / "adapter")
    assert written.rank == _RANKS[name]
    logits, _ = peft_logits(model_folder("atlas"), tmp_path / "adapter")
    # With the edit of mend, float32 itself is 3.5e-5 away from float64; the largest logit is 16.
    assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("architecture", "arch"),
    [("llama", gguf.MODEL_ARCH.LLAMA), ("gpt2", gguf.MODEL_ARCH.GPT2),
     ("qwen2", gguf.MODEL_ARCH.QWEN2)],
)  # fmt: skip
def test_what_llama_cpps_converter_reads(
    architecture: str, arch: gguf.MODEL_ARCH, tmp_path: Path
) -> None:
    """Names of files, index, tensors and tokenizer, read with the converter's own package."""
    source = saved(architecture, tmp_path / "source", shard="60KB")
    write_folder(source, mlp_edit(loaded(source)), tmp_path / "new")
    folder = tmp_path / "new"
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert all(path.name.startswith("model") for path in shards)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    stored: dict[str, str] = {}
    names = gguf.get_tensor_name_map(arch, 4)
    for path in shards:
        tensors = load_file(path)
        with SafetensorsLocal(path) as local:
            assert local.keys() == tensors.keys()
            for name in local.keys():  # noqa: SIM118 - not a mapping
                stored[name] = path.name
                assert (local[name].dtype, local[name].shape) == (
                    "F32", tuple(tensors[name].shape)
                )  # fmt: skip
                values = numpy.frombuffer(local[name].mmap_bytes(), dtype=numpy.float32)
                assert torch.equal(torch.tensor(values), tensors[name].flatten())
                assert names.get_name(name, try_suffixes=(".weight", ".bias")), name
    assert stored == index
    config = json.loads((folder / "config.json").read_text())
    assert len(config["architectures"]) == 1
    vocabulary = SpecialVocab(folder, load_merges=True)
    assert vocabulary.merges
    assert vocabulary.chat_template
    assert vocabulary.special_token_ids["eos"] == 0
