"""Files of values are matched by a model's identity, never by the name of its folder alone."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from editkit import ConfigError, EditorSpec, make_editor
from editkit.cli.main import main
from editkit.models import LanguageModel
from editkit.registry.config import Resolved, resolve_config
from editkit.registry.model_identity import identity_of, identity_of_loaded
from editkit.registry.models import model_folder
from editkit.registry.plugins import Offer, Source, default_registry
from tests.tiny import tiny

XL = {"n_layer": 48, "n_embd": 1600, "n_head": 25}


def rome(model: Any) -> Resolved:
    return resolve_config(default_registry().get("editor", "rome"), model=model)


def folder(place: Path, name: str, config: Any, **written: Any) -> str:
    """A folder with a config alone, which holds some more values."""
    config.save_pretrained(place / name)
    file = place / name / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **written}), encoding="utf-8")
    return str(place / name)


@pytest.mark.parametrize("name", ["tiny", "models", "sizes", "Tiny"])
def test_names_of_other_files_are_not_names_of_models(tmp_path: Path, name: str) -> None:
    chosen = rome(folder(tmp_path, name, GPT2Config(n_layer=4, n_embd=32, n_head=4)))
    assert chosen.matched.report is None
    assert chosen.sources["layer"] == "default"  # no number of layers was asked for
    assert rome(name).matched.report is None  # as a hub id


@pytest.mark.parametrize("name", ["gpt2-xl", "GPT2-XL"])
def test_a_folder_with_the_name_and_the_sizes_gets_the_values(tmp_path: Path, name: str) -> None:
    chosen = rome(folder(tmp_path, name, GPT2Config(**XL)))
    assert chosen.to_dict()["layer"] == 17
    assert chosen.sources["layer"] == "editkit_configs/rome/models.yaml"
    assert chosen.matched.report == (
        "values of editkit_configs/rome/models.yaml for 'gpt2-xl' (its folder is called "
        f"{name!r}; gpt2 with 48 layers, 1600 wide)"
    )


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (GPT2Config(n_layer=12, n_embd=768), "gpt2 with 12 layers, 768 wide"),
        (GPT2Config(n_layer=48, n_embd=800, n_head=25), "gpt2 with 48 layers, 800 wide"),
        (
            LlamaConfig(num_hidden_layers=48, hidden_size=1600, num_attention_heads=25),
            "llama with 48 layers, 1600 wide",
        ),
    ],
)
def test_a_folder_with_the_name_of_another_model_gets_no_values(
    tmp_path: Path, config: Any, what: str
) -> None:
    chosen = rome(folder(tmp_path, "gpt2-xl", config))
    assert chosen.to_dict()["layer"] is None
    assert "hub:" not in chosen.to_dict()["corpus"]
    assert chosen.sources["corpus"] == "fallback"
    assert chosen.note is None
    assert str(chosen.matched.report) == (
        "the values of editkit_configs/rome/models.yaml for 'gpt2-xl' are not used: they are for "
        f"gpt2 with 48 layers, 1600 wide, and this model is {what} (its folder is called 'gpt2-xl')"
    )


@pytest.mark.parametrize("missing", ["n_layer", "n_embd", "model_type"])
def test_a_config_that_does_not_state_its_sizes_proves_nothing(
    tmp_path: Path, missing: str
) -> None:
    path = folder(tmp_path, "gpt2-xl", GPT2Config(**XL))
    file = Path(path, "config.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    del content[missing]
    file.write_text(json.dumps(content), encoding="utf-8")
    chosen = rome(path)
    assert chosen.to_dict()["layer"] is None
    assert "does not identify a model, and its config states no sizes" in str(chosen.matched.report)


def test_the_hub_id_in_the_config_counts_in_any_folder(tmp_path: Path) -> None:
    hub_id = "openai-community/gpt2-xl"
    chosen = rome(folder(tmp_path, "mine", GPT2Config(**XL), _name_or_path=hub_id))
    assert chosen.to_dict()["layer"] == 17
    assert f"its config names {hub_id!r}" in str(chosen.matched.report)
    chosen = rome(folder(tmp_path, "pruned", GPT2Config(n_layer=24), _name_or_path=hub_id))
    assert chosen.to_dict()["layer"] is None
    assert "are not used" in str(chosen.matched.report)
    for written in ("/home/me/gpt2-xl", "./gpt2-xl", "a/b/gpt2-xl", "tiny", 3, None):
        path = folder(tmp_path, "other", GPT2Config(**XL), _name_or_path=written)
        assert rome(path).matched.report is None, written


def test_a_folder_of_the_hubs_cache_is_the_hub_model(tmp_path: Path) -> None:
    place = tmp_path / "models--openai-community--gpt2-xl" / "snapshots"
    chosen = rome(folder(place, "0" * 40, GPT2Config(**XL)))
    assert chosen.to_dict()["layer"] == 17
    assert "its hub id 'openai-community/gpt2-xl', from its place" in str(chosen.matched.report)


def test_a_link_has_its_own_name_and_that_of_its_target(tmp_path: Path) -> None:
    folder(tmp_path, "weights", GPT2Config(**XL))
    (tmp_path / "gpt2-xl").symlink_to(tmp_path / "weights")
    assert "is called 'gpt2-xl'" in str(rome(str(tmp_path / "gpt2-xl")).matched.report)
    folder(tmp_path / "models--gpt2-xl" / "snapshots", "0123", GPT2Config(**XL))
    (tmp_path / "link").symlink_to(tmp_path / "models--gpt2-xl" / "snapshots" / "0123")
    assert "its hub id 'gpt2-xl'" in str(rome(str(tmp_path / "link")).matched.report)


def test_a_hub_id_with_a_known_config_must_have_the_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rome("someone/gpt2-xl").to_dict()["layer"] == 17  # nothing else is known of it
    repository = tmp_path / "models--someone--gpt2-xl"
    folder(repository / "snapshots", "0123", GPT2Config(n_layer=12))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    chosen = rome("someone/gpt2-xl")
    assert chosen.to_dict()["layer"] is None
    assert "this model is gpt2 with 12 layers" in str(chosen.matched.report)


def test_a_registered_model_is_known_by_its_name() -> None:
    chosen = rome("atlas")
    assert chosen.sources["layer"] == "editkit_configs/rome/atlas.yaml"
    assert "(its registered name; gpt2 with 6 layers, 128 wide)" in str(chosen.matched.report)


def test_the_name_of_a_model_in_memory_counts_only_with_its_sizes() -> None:
    small = tiny()
    for name in ("tiny", "gpt2-xl", "atlas"):
        model = LanguageModel(small.hf, small.tokenizer, name=name)
        assert rome(identity_of_loaded(model)).matched.values is None
    like_atlas = tiny(n_layer=6, n_embd=128)
    model = LanguageModel(like_atlas.hf, like_atlas.tokenizer, name="atlas")
    chosen = rome(identity_of_loaded(model))
    assert chosen.to_dict()["layer"] == 0
    assert "it is called 'atlas'" in str(chosen.matched.report)


def test_make_editor_logs_which_file_is_used(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="editkit"):
        make_editor("ft", "atlas")
    assert "ft: values of editkit_configs/ft/atlas.yaml for 'atlas' (its registered name" in (
        caplog.text
    )


def test_a_run_reports_which_files_are_used_and_which_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run-benchmark", "--editor", "rome", "--editor", "ft", "--limit", "1", "--dry-run"]
    assert main([*given, "--json"]) == 0
    out, err = capsys.readouterr()
    used = "(its registered name; gpt2 with 6 layers, 128 wide)"
    assert err == (
        f"info: values for 'atlas' {used}: rome from editkit_configs/rome/atlas.yaml, "
        "ft from editkit_configs/ft/atlas.yaml\n"
    )
    assert used in json.loads(out)["cells"][0]["matched"]
    shutil.copytree(model_folder("atlas"), tmp_path / "gpt2-xl")
    assert main([*given, "--model", str(tmp_path / "gpt2-xl")]) == 0
    err = capsys.readouterr().err
    assert "warning: rome: the values of editkit_configs/rome/models.yaml for 'gpt2-xl'" in err
    assert main(["describe", "rome", "--model", str(tmp_path / "gpt2-xl")]) == 0
    assert "  file of values: the values of " in capsys.readouterr().out
    assert main(["doctor", "--editor", "ft", "--model", str(tmp_path / "gpt2-xl")]) == 0
    assert "are not used: they are for gpt2 with 48 layers" in capsys.readouterr().out


# ---------------------------------------------------------------- files of another plugin


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of values of a plugin, which states no sizes."""
    place = tmp_path / "lent_configs" / "mine"
    place.mkdir(parents=True)
    (tmp_path / "lent_configs" / "__init__.py").touch()
    (place / "mine.yaml").write_text("config: {layer: 3}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lent_configs", raising=False)
    return place


def resolved(model: str) -> Resolved:
    spec = EditorSpec(
        "mine", "json:X", "editkit_plugins.rome.config:RomeConfig", "mine", {}, "lent_configs:mine"
    )
    return resolve_config(Offer("editor", spec, Source("mine", "mine", "1")), model=model)


@pytest.mark.parametrize("place", ["mine/sizes.yaml", "sizes.yaml"])
def test_a_folder_needs_stated_sizes_and_a_hub_id_does_not(
    values: Path, tmp_path: Path, place: str
) -> None:
    path = folder(tmp_path, "mine", GPT2Config())
    assert resolved("someone/mine").to_dict()["layer"] == 3
    assert resolved(path).to_dict()["layer"] is None
    assert str(resolved(path).matched.report).endswith(
        "its folder is called 'mine' alone does not identify a model, and no sizes.yaml states "
        "its sizes"
    )
    sizes = values.parent / place
    sizes.write_text("mine: {model_type: gpt2, n_layers: 12, hidden_size: 768}", encoding="utf-8")
    assert resolved(path).to_dict()["layer"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- mine", r"lent_configs/mine/sizes\.yaml: got \['mine'\], expected names of models"),
        ("mine: gpt2", r"sizes\.yaml: mine: got 'gpt2', expected model_type, n_layers, hidden"),
        ("mine: {model_type: gpt2}", r"mine: got .*, expected model_type, n_layers, hidden_size"),
        (
            "mine: {model_type: gpt2, n_layers: true, hidden_size: 768}",
            r"mine: got .*, expected a text and two integers",
        ),
    ],
)
def test_broken_sizes_are_reported_with_their_place(
    values: Path, content: str, message: str
) -> None:
    (values / "sizes.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        resolved("someone/mine")


def test_an_impossible_model_name_has_no_names() -> None:
    for name in ("./nowhere", "/nowhere", "a/b/c", "bad name!", ""):
        assert identity_of(name).names == ()
