"""Published checkpoints are converted, refused if they do not fit, and never executed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editkit import ConfigError, EditRequest, LanguageModel
from editkit.cli.main import main
from editkit.editing.gradients import LowerBlocks, edit_gradients
from editkit_plugins.learned.published import convert, read_published
from editkit_plugins.learned.trained import read_editor_file
from tests.parity import Parity, difference
from tests.plugins.learned.samples import editor_of
from tests.plugins.learned.test_mend_parity import published_editor
from tests.tiny import tiny

HIDDEN, CONDITION = 5, 7


class Trap:
    """Makes a folder when it is unpickled by an ordinary pickle."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("sprung",)


def mend_checkpoint(parity: Parity) -> dict[str, Any]:
    """The published editor of ``parity/mend`` under the names of its checkpoints."""
    arrays = parity.arrays("mend")
    state: dict[str, Any] = {"edit_lrs": arrays["editor.edit_lrs"]}
    for kind in ("param", "buffer"):
        prefix = f"editor.{kind}."
        for name, tensor in arrays.items():
            if name.startswith(prefix):
                state[f"gtn.{name.removeprefix(prefix)}"] = tensor
    return {"model": {**state, "model_config": parity.model.hf.config}, "step": 1}


def ke_checkpoint(model: LanguageModel) -> dict[str, Any]:
    """Random weights under the names of published checkpoints of KE."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden_size = model.hf.config.hidden_size
    state: dict[str, Any] = {
        "editor.condition.embedding.weight": torch.cat(
            [model.hf.get_input_embeddings().weight.detach(), random(1, hidden_size)]
        ),
        "editor.condition.linear._linear_layers.0.weight": random(CONDITION, 2 * HIDDEN),
        "editor.condition.linear._linear_layers.0.bias": random(CONDITION),
    }
    for name, weight in torch.nn.LSTM(hidden_size, HIDDEN, bidirectional=True).named_parameters():
        state[f"editor.condition.lstm._module.{name}"] = random(*weight.shape)
    for layer in (model.n_layers - 2, model.n_layers - 1):
        for part in ("c_proj", "c_fc"):
            weight = model.hf.get_parameter(f"transformer.h.{layer}.mlp.{part}.weight")
            sizes = ((0, CONDITION, HIDDEN), (2, HIDDEN, 2 * sum(weight.shape) + 1))
            matrix = f"transformer_h_{layer}_mlp_{part}_weight_conditioner"
            for place, n_in, n_out in sizes:
                base = f"editor.conditioners.{matrix}.conditioners.{place}"
                state[f"{base}.weight_g"] = random(n_out, 1)
                state[f"{base}.weight_v"] = random(n_out, n_in)
                state[f"{base}.bias"] = random(n_out)
    return {"model": {**state, "model_config": model.hf.config}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_converted_mend_gives_the_edits_of_the_checkpoint(
    parity: Parity, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(mend_checkpoint(parity), tmp_path / "mend.pt")
    arguments = ["convert-editor", "mend.pt", "--model", str(parity.folder / "model")]
    assert main([*arguments, "--name", "mend-cf", "--out", "ours"]) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert main([*arguments, "--name", "mend-cf", "--out", "ours", "--allow-pickle"]) == 0
    assert "mend-cf for" in capsys.readouterr().out
    assert read_editor_file(tmp_path / "ours")[0]["settings"]["sign"] == "plus"

    request = EditRequest("{} plays the sport of", "Badrith Neprain", "chess")
    editor = editor_of("mend", tmp_path / "ours")
    [delta] = editor.edit(parity.model, [request])
    settings, transforms = published_editor(parity)
    [fact] = parity.model.complete([request.sentence], [request.target_new])
    modes = dict.fromkeys(transforms, 0)
    paths = [name.removesuffix(".weight") for name in delta.changes]
    gradients = edit_gradients(LowerBlocks(parity.model, 3), [[fact]], paths)
    rates = parity.arrays("mend")["editor.edit_lrs"]
    for rate, path in zip(rates, paths, strict=True):
        change = delta.changes[f"{path}.weight"]
        x, d, _ = gradients.factors(path)
        key = str((x.shape[1], d.shape[1]))
        with torch.no_grad():
            out_x, out_d = transforms[key](x, d, modes[key])
        modes[key] += 1
        assert difference(change.dense(), rate * out_x.T @ out_d) < 1e-5
    assert set(modes.values()) == {len(settings["inner_params_order"]) // 2}


def test_converted_ke_gives_the_edits_of_the_checkpoint(tmp_path: Path) -> None:
    model = tiny()
    torch.save(ke_checkpoint(model), tmp_path / "ke.pt")
    tensors = read_published(tmp_path / "ke.pt")
    settings, state = convert(tensors, model, place="ke.pt")
    assert (settings.kind, settings.blocks) == ("ke", 2)
    matrix = f"transformer.h.{model.n_layers - 1}.mlp.c_proj.weight"
    place = f"network.shapers.{matrix.replace('.', '_')}"
    base = f"editor.conditioners.{matrix.replace('.', '_')}_conditioner.conditioners"
    assert torch.equal(state[f"{place}.first.g"], tensors[f"{base}.0.weight_g"])
    assert torch.equal(state[f"{place}.second.v"], tensors[f"{base}.2.weight_v"])
    embedding = state["network.condition.embedding"]
    assert torch.equal(embedding, model.hf.get_input_embeddings().weight)
    arguments = ["convert-editor", "ke.pt", "--model", str(tmp_path / "model"), "--allow-pickle"]
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    assert main(arguments) == 0


def test_functions_named_in_a_pickle_are_never_called(parity: Parity, tmp_path: Path) -> None:
    content = mend_checkpoint(parity)
    torch.save({**content, "trap": Trap()}, tmp_path / "trap.pt")
    tensors = read_published(tmp_path / "trap.pt")
    assert torch.equal(tensors["edit_lrs"], content["model"]["edit_lrs"])
    assert not (tmp_path / "sprung").exists()


def test_unusable_checkpoints_are_reported(parity: Parity, tmp_path: Path) -> None:
    content = mend_checkpoint(parity)
    torch.save(content, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, words in (
        ("half.pt", "cannot be read as a pickled checkpoint"),
        ("missing.pt", "cannot be read as a pickled checkpoint"),
        ("other.pt", "is not a checkpoint of the published"),
        ("list.pt", "is not a checkpoint of the published"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_published(tmp_path / name)
    tensors = read_published(tmp_path / "whole.pt")
    with pytest.raises(ConfigError, match="does not fit tiny-gpt2"):
        convert(tensors, tiny(), place="whole.pt")
    part = {name: tensor for name, tensor in tensors.items() if not name.endswith(".u_mean")}
    with pytest.raises(ConfigError, match="inputs.mean is missing"):
        convert(part, parity.model, place="whole.pt")


def test_ke_of_models_with_transposed_matrices_is_refused(parity: Parity, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only GPT-2"):
        convert(ke_checkpoint(tiny())["model"], parity.gptj, place="ke.pt")
