"""Folders with an edit: the logits of the applied edit, and otherwise the files of the model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from editkit import (
    DeltaError,
    EditRequest,
    ModelError,
    PromptContext,
    WeightDelta,
    applied,
    make_editor,
)
from editkit.editing.changes import Change, Dense
from editkit.models.placement import placement_of
from editkit.models.rewriting import copy_model
from editkit.patches.export import export_folder, write_folder
from editkit.patches.lora import export_lora
from editkit.registry.models import load_model, model_folder
from tests.editkit.models import test_text_part as vision_language
from tests.editkit.patches.exported import (
    IDS,
    dense,
    edit_of,
    edited_logits,
    loaded,
    low_rank,
    mlp_edit,
    plain_logits,
    rows,
    saved,
    shape_of,
)
from tests.tiny import EACH_WITH_EXPERTS

_IN_ANOTHER_PROCESS = """
import sys, torch, transformers
folder, ids, logits = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    torch.save(model(input_ids=torch.load(ids)).logits, logits)
print("editkit" in sys.modules)
"""


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def metadata_of(path: Path) -> Any:
    with safe_open(path, framework="pt") as stream:
        return stream.metadata(), list(stream.keys())


# ---------------------------------------------------------------- the logits


def test_another_process_without_editkit_computes_the_edited_logits(tmp_path: Path) -> None:
    """Difference 0 in float32, on atlas, with a real edit."""
    model = load_model("atlas")
    editor = make_editor("rome", model)
    editor.prepare(model)
    request = EditRequest("{} is in", "Nairobi", target_new=" Asia")
    [delta] = editor.edit(model, [request])
    source = model_folder("atlas")
    before = digests(source)
    written = export_folder(delta, "atlas", tmp_path / "edited")
    assert digests(source) == before
    torch.save(IDS, tmp_path / "ids.pt")
    process = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS, tmp_path / "edited", tmp_path / "ids.pt",
         tmp_path / "logits.pt"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout.strip() == "False"
    logits = torch.load(tmp_path / "logits.pt")
    expected = edited_logits(model, delta)
    assert torch.equal(logits, expected)
    with torch.no_grad():
        assert not torch.equal(logits, model.hf(input_ids=IDS).logits)
    assert load_model(str(tmp_path / "edited")).fingerprint == written.fingerprint
    provenance = json.loads((tmp_path / "edited" / "editkit.json").read_text())
    assert provenance["model"]["name"] == "atlas"
    assert provenance["model"]["fingerprint"] == model.fingerprint
    [patch] = provenance["patches"]
    assert patch["digest"] == delta.digest()
    assert patch["requests"] == [request.to_dict()]
    assert provenance["result"]["fingerprint"] == written.fingerprint


@pytest.mark.parametrize("architecture", EACH_WITH_EXPERTS)
def test_every_family_in_shards(architecture: str, tmp_path: Path) -> None:
    """Every parameter that has one or two axes and a tensor of its own changes."""
    source = saved(architecture, tmp_path / "source", shard="60KB")
    model = loaded(source)
    own = placement_of(source, "tiny").stored.keys() & dict(model.hf.named_parameters())
    changes: dict[str, Change] = {}
    for number, name in enumerate(sorted(own)):
        shape = shape_of(model, name)
        if len(shape) == 2:
            changes[name] = low_rank(shape, seed=number, size=0.05)
        elif len(shape) == 1:
            changes[name] = dense(shape, seed=number)
    assert len(changes) > 8
    delta = edit_of(model, changes)
    before = digests(source)
    written = write_folder(source, delta, tmp_path / "edited")
    assert digests(source) == before
    assert {tensor.parameter for tensor in written.tensors} == set(changes)
    assert torch.equal(plain_logits(tmp_path / "edited"), edited_logits(model, delta))


def test_only_the_shard_with_the_changed_tensor_differs(tmp_path: Path) -> None:
    source = saved("llama", tmp_path / "source", shard="60KB")
    model = loaded(source)
    write_folder(source, mlp_edit(model), tmp_path / "edited")
    before, after = digests(source), digests(tmp_path / "edited")
    assert sum(name.endswith(".safetensors") for name in before) > 3
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    changed = {index[f"{model.path(1, 'mlp_out')}.weight"]}
    assert {name for name in before if before[name] != after[name]} == changed
    assert set(after) - set(before) == {"editkit.json"}
    [shard] = changed
    assert metadata_of(source / shard) == metadata_of(tmp_path / "edited" / shard)
    assert metadata_of(source / shard)[0] == {"format": "pt"}


def test_a_gpt2_checkpoint_without_the_prefix(tmp_path: Path) -> None:
    """As GPT-2 was published: ``h.0...`` instead of ``transformer.h.0...``, with masks."""
    source = saved("gpt2", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    short = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    short["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(short, source / "model.safetensors", metadata={"format": "pt"})
    model = loaded(source)
    delta = mlp_edit(model)
    [tensor] = write_folder(source, delta, tmp_path / "edited").tensors
    assert (tensor.name, tensor.parameter) == (
        "h.1.mlp.c_proj.weight", "transformer.h.1.mlp.c_proj.weight"
    )  # fmt: skip
    assert torch.equal(plain_logits(tmp_path / "edited"), edited_logits(model, delta))
    assert set(load_file(tmp_path / "edited" / "model.safetensors")) == set(short)


@pytest.mark.parametrize("name", ["gemma3", "qwen2_vl"])
def test_the_text_part_of_a_vision_language_model(name: str, tmp_path: Path) -> None:
    source = vision_language.saved(name, tmp_path / "source")
    model = loaded(source)
    delta = mlp_edit(model)
    write_folder(source, delta, tmp_path / "edited")
    with torch.no_grad():
        logits = loaded(tmp_path / "edited").hf(input_ids=IDS).logits
    assert torch.equal(logits, edited_logits(model, delta))
    before = load_file(source / "model.safetensors")
    after = load_file(tmp_path / "edited" / "model.safetensors")
    assert len([n for n in before if not torch.equal(before[n], after[n])]) == 1
    assert any("vis" in name for name in after)


# ---------------------------------------------------------------- tied weights


def changes_of_embedding_and_head(model: Any) -> list[dict[str, Change]]:
    embedding, head = model.architecture.embedding + ".weight", "lm_head.weight"
    e, h = rows(shape_of(model, embedding), 3, 21), low_rank(shape_of(model, head), size=0.05)
    return [{embedding: e}, {head: h}, {embedding: e, head: h}]


@pytest.mark.parametrize("stored", ["embedding", "head", "both", "different"])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_changes_of_an_embedding_and_a_head_that_are_tied(
    stored: str, case: int, tmp_path: Path
) -> None:
    """Both follow; two different stored matrices are not tied, whatever the config says."""
    source = saved("llama", tmp_path / "source", tie_word_embeddings=True)
    tensors = load_file(source / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    if stored != "embedding":
        tensors["lm_head.weight"] = embedding.clone() + (0.1 if stored == "different" else 0)
    if stored == "head":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    model = loaded(source)
    tied = model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight
    assert tied is (stored != "different")
    delta = edit_of(model, changes_of_embedding_and_head(model)[case])
    written = write_folder(source, delta, tmp_path / "edited")
    many = (stored == "both") or (stored == "different" and case == 2)
    assert len(written.tensors) == (2 if many else 1)
    assert torch.equal(plain_logits(tmp_path / "edited"), edited_logits(model, delta))


def test_tied_weights_in_two_types_are_refused(tmp_path: Path) -> None:
    """Whether they are equal, and so tied, depends on the type in which the model is loaded."""
    source = saved("llama", tmp_path / "source", tie_word_embeddings=True, dtype=torch.bfloat16)
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].float() * 1.0001
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    model = loaded(source, "bfloat16")
    delta = edit_of(model, changes_of_embedding_and_head(model)[1])
    with pytest.raises(ModelError, match="embed_tokens.weight in two types"):
        write_folder(source, delta, tmp_path / "edited")
    with pytest.raises(ModelError, match="in two types"):
        export_lora(delta, str(source), tmp_path / "edited")


def test_an_untied_embedding_and_head(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source", tie_word_embeddings=False)
    model = loaded(source)
    for case, changes in enumerate(changes_of_embedding_and_head(model)):
        delta = edit_of(model, changes)
        written = write_folder(source, delta, tmp_path / f"edited{case}")
        assert len(written.tensors) == len(changes)
        assert torch.equal(plain_logits(tmp_path / f"edited{case}"), edited_logits(model, delta))


# ---------------------------------------------------------------- types


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_type_is_rounded_once_and_can_be_widened(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    source = saved("llama", tmp_path / "source", shard="30KB", dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    narrow, wide = loaded(source, name), loaded(source)
    delta = mlp_edit(narrow)
    [tensor] = write_folder(source, delta, tmp_path / "narrow").tensors
    assert tensor.dtype == name
    assert 0 < tensor.rounding < 0.05
    kept = plain_logits(tmp_path / "narrow")
    assert kept.dtype == dtype
    assert torch.equal(kept, edited_logits(narrow, delta))
    write_folder(source, delta, tmp_path / "wide", dtype="float32")
    widened = plain_logits(tmp_path / "wide")
    assert widened.dtype == torch.float32
    assert torch.equal(widened, edited_logits(wide, delta))
    with torch.no_grad():
        assert not torch.equal(widened, wide.hf(input_ids=IDS).logits)
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert {config.get(key, "float32") for key in ("dtype", "torch_dtype")} == {"float32"}
    index = json.loads((tmp_path / "wide" / "model.safetensors.index.json").read_text())
    shards = [load_file(path) for path in (tmp_path / "wide").glob("*.safetensors")]
    sizes = [tensor.nbytes for shard in shards for tensor in shard.values()]
    assert index["metadata"]["total_size"] == sum(sizes)


def test_an_overflow_and_an_edit_lost_in_rounding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = saved("llama", tmp_path / "source", dtype=torch.float16)
    model = loaded(source, "float16")
    name = f"{model.path(0, 'mlp_out')}.weight"
    large = edit_of(model, {name: low_rank(shape_of(model, name), size=1e4)})
    with pytest.raises(DeltaError, match=r"overflows float16\."):
        write_folder(source, large, tmp_path / "edited")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    small = edit_of(model, {name: low_rank(shape_of(model, name), size=1e-4)})
    write_folder(source, small, tmp_path / "edited")
    assert "rounding to float16 changes the edit" in caplog.text


# ---------------------------------------------------------------- other files


def test_what_is_copied_and_what_is_left_out(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    kept = ["LICENSE", "README.md", "chat_template.jinja", "assets/logo.svg", "modeling_own.py",
            "generation_config.json", ".gitattributes"]  # fmt: skip
    gone = ["pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "model-q4.gguf",
            "optimizer.pt", "tf_model.h5", "consolidated.safetensors", ".git/HEAD"]  # fmt: skip
    for name in (*kept, *gone):
        (source / name).parent.mkdir(exist_ok=True)
        if not (source / name).exists():
            (source / name).write_text(name)
    model = loaded(source)
    (source / "broken").symlink_to(tmp_path / "gone")
    written = write_folder(source, mlp_edit(model), tmp_path / "edited")
    assert written.left_out == (
        ".git", "broken", "consolidated.safetensors", "model-q4.gguf", "onnx", "optimizer.pt",
        "pytorch_model.bin", "tf_model.h5",
    )  # fmt: skip
    before, after = digests(source), digests(tmp_path / "edited")
    assert set(after) == set(before) - set(gone) | {"editkit.json"}
    assert all(before[name] == after[name] for name in kept)


def test_links_of_the_hub_cache_are_read_through(tmp_path: Path) -> None:
    saved("gpt2", tmp_path / "blobs")
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in (tmp_path / "blobs").iterdir():
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    model = loaded(snapshot)
    write_folder(snapshot, mlp_edit(model), tmp_path / "edited")
    assert not any(path.is_symlink() for path in (tmp_path / "edited").iterdir())
    shutil.rmtree(tmp_path / "blobs")
    assert torch.equal(plain_logits(tmp_path / "edited"), edited_logits(model, mlp_edit(model)))


def test_an_export_of_an_export_keeps_the_first_provenance(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    write_folder(source, mlp_edit(loaded(source)), tmp_path / "one")
    again = loaded(tmp_path / "one")
    written = write_folder(tmp_path / "one", mlp_edit(again, layer=2), tmp_path / "two")
    provenance = json.loads((tmp_path / "two" / "editkit.json").read_text())
    assert provenance["model"]["fingerprint"] == again.fingerprint
    assert provenance["earlier"]["result"]["fingerprint"] == again.fingerprint
    assert loaded(tmp_path / "two").fingerprint == written.fingerprint


# ---------------------------------------------------------------- several edits


def test_several_edits_and_an_edit_on_top_of_another(tmp_path: Path) -> None:
    source = saved("qwen2", tmp_path / "source")
    model = loaded(source)
    first, second = mlp_edit(model, seed=1), mlp_edit(model, seed=2)
    write_folder(source, [first, second], tmp_path / "both")
    expected = edited_logits(model, [first, second])
    assert torch.equal(plain_logits(tmp_path / "both"), expected)
    with applied(model, first):
        later = mlp_edit(model, seed=3)
    write_folder(source, [first, later], tmp_path / "later")
    assert torch.equal(plain_logits(tmp_path / "later"), edited_logits(model, [first, later]))
    with pytest.raises(DeltaError, match=f"with 1 other edit applied .{first.digest()[:12]}"):
        write_folder(source, later, tmp_path / "alone")


def test_no_edit_copies_the_model(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    write_folder(source, [], tmp_path / "copy")
    after = digests(tmp_path / "copy")
    assert after.pop("editkit.json")
    assert after == digests(source)


# ---------------------------------------------------------------- refusals


def test_the_patch_of_another_model_is_refused(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    other = loaded(saved("gpt2", tmp_path / "other", seed=1))
    delta = mlp_edit(other)
    with pytest.raises(DeltaError, match=f"{other.fingerprint[:12]}.*source is") as caught:
        write_folder(source, delta, tmp_path / "edited")
    assert loaded(source).fingerprint[:12] in caught.value.message
    write_folder(source, delta, tmp_path / "edited", force=True)
    with applied(loaded(source), delta, force=True) as model, torch.no_grad():
        assert torch.equal(plain_logits(tmp_path / "edited"), model.hf(input_ids=IDS).logits)


def shapes(model: Any) -> WeightDelta:
    return edit_of(model, {f"{model.path(1, 'mlp_out')}.weight": low_rank((5, 7))})


def context(model: Any) -> WeightDelta:
    return WeightDelta({}, None, "in-context", {}, model.fingerprint, context=PromptContext(("A",)))


def infinite(model: Any) -> WeightDelta:
    infinity = Dense(torch.full((32,), torch.inf))
    return edit_of(model, {f"{model.path(1, 'mlp_out')}.bias": infinity})


def unknown(model: Any) -> WeightDelta:
    return edit_of(model, {"transformer.h.9.mlp.c_proj.weight": low_rank((5, 7))})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (shapes, r"shape \(5, 7\) \(in, out\), which does not fit"),
        (context, "puts texts before prompts"),
        (infinite, "numbers that are not finite"),
        (unknown, "has no parameter 'transformer.h.9"),
    ],
)
def test_edits_that_do_not_fit(
    make: Callable[[Any], WeightDelta], message: str, tmp_path: Path
) -> None:
    source = saved("gpt2", tmp_path / "source")
    with pytest.raises(DeltaError, match=message):
        write_folder(source, make(loaded(source)), tmp_path / "edited")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_experts_that_transformers_fuses_are_refused(tmp_path: Path) -> None:
    source = saved("mixtral", tmp_path / "source")
    name = "model.layers.0.mlp.experts.down_proj"
    assert name in placement_of(source, "tiny").built
    delta = edit_of(loaded(source), {name: low_rank((5, 7))})
    with pytest.raises(DeltaError, match="computes it from several stored tensors"):
        write_folder(source, delta, tmp_path / "edited")


def test_the_target(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    delta = mlp_edit(loaded(source))
    before = digests(source)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes").write_text("mine")
    for target, message in [
        (source, "inside the model's own folder"),
        (source / "inner", "inside the model's own folder"),
        (full, "exists and is not empty"),
        (full / "notes", "exists and is a file"),
        (full / "notes" / "below", "cannot be exported|exists"),
    ]:
        with pytest.raises(DeltaError, match=message):
            write_folder(source, delta, target)
    assert digests(source) == before
    assert [path.name for path in full.iterdir()] == ["notes"]
    empty = tmp_path / "a" / "b"
    empty.mkdir(parents=True)
    write_folder(source, delta, empty)
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    write_folder(source, delta, tmp_path / "link")
    assert digests(empty).keys() == digests(tmp_path / "behind").keys()


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved("gpt2", tmp_path / "source")
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DeltaError, match="needs .* MiB, and 1 MiB are free"):
        write_folder(source, mlp_edit(loaded(source)), tmp_path / "new" / "edited")


def test_a_disk_that_stores_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is read back and compared; a wrong copy does not get the name."""
    source = saved("gpt2", tmp_path / "source")
    delta = mlp_edit(loaded(source))

    def damaged(*args: Any, **options: Any) -> dict[str, str]:
        result = copy_model(*args, **options)
        path = args[2] / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        return result

    monkeypatch.setattr("editkit.patches.export.copy_model", damaged)
    header = 8 + int.from_bytes((source / "model.safetensors").read_bytes()[:8], "little")
    tensors = json.loads((source / "model.safetensors").read_bytes()[8:header])
    for name in ("transformer.h.1.mlp.c_proj.weight", "transformer.ln_f.weight"):
        place = header + tensors[name]["data_offsets"][0] + 5
        with pytest.raises(DeltaError, match=f"{name} has wrong values"):
            write_folder(source, delta, tmp_path / "edited")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


_KILLED = """
import os, signal, sys
from pathlib import Path
import editkit.patches.export as export
from editkit.patches.export import write_folder
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
export.differences = die
write_folder(Path(sys.argv[1]), [], Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_under_the_name_and_is_cleaned_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = saved("gpt2", tmp_path / "source")
    target = tmp_path / "edited"
    process = subprocess.run([sys.executable, "-c", _KILLED, source, target], check=False)
    assert process.returncode == -9
    assert not target.exists()
    [left] = [path for path in tmp_path.iterdir() if path.name.startswith(".") and path.is_dir()]
    assert left.name.startswith(".edited.editkit-")
    assert (left / "model.safetensors").is_file()
    write_folder(source, [], target)
    assert "was left by an interrupted process" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited", "source"]
