"""The files of values that we ship: each loads, holds the papers' values, and says what it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from editkit import EditorSpec
from editkit.registry.config import Resolved, resolve_config
from editkit.registry.plugins import default_registry

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
EDITORS = ("rome", "ft", "ft+l", "attnedit", "kn")
OF_THE_PAPERS = {  # hub id: number of layers
    "openai-community/gpt2-medium": 24,
    "openai-community/gpt2-large": 36,
    "openai-community/gpt2-xl": 48,
    "EleutherAI/gpt-j-6B": 28,
    "EleutherAI/gpt-neox-20b": 44,
}
UNTESTED = {
    "meta-llama/Meta-Llama-3-8B": 32,
    "meta-llama/Llama-3.1-8B": 32,
    "Qwen/Qwen3-0.6B": 28,
    "Qwen/Qwen3-1.7B": 28,
    "Qwen/Qwen3-4B": 36,
    "Qwen/Qwen3-8B": 36,
    "mistralai/Mistral-7B-v0.1": 32,
    "mistralai/Mistral-7B-v0.3": 32,
    "google/gemma-2b": 18,
    "google/gemma-7b": 28,
    "facebook/opt-125m": 12,
    "facebook/opt-1.3b": 24,
    "facebook/opt-6.7b": 32,
    "facebook/opt-13b": 40,
}
PUBLISHED = [  # the values of the published code and of the paper
    ("rome", "gpt2-medium", {"layer": 8, "clamp": 3}),
    ("rome", "gpt2-large", {"layer": 12, "clamp": 4}),
    ("rome", "gpt2-xl", {"layer": 17, "clamp": 4, "weight_decay": 0.5, "kl_factor": 0.0625}),
    ("rome", "gpt-j-6B", {"layer": 5, "clamp": 4, "weight_decay": 0.5, "kl_factor": 0.0625}),
    ("rome", "gpt-neox-20b", {"layer": 15, "clamp": 4, "lr": 0.5, "steps": 20}),
    ("r-rome", "gpt2-medium", {"layer": 8, "clamp": 3, "key": "mean"}),
    ("r-rome", "gpt2-large", {"layer": 12, "clamp": 4}),
    ("r-rome", "gpt2-xl", {"layer": 17, "clamp": 4, "steps": 20, "weight_decay": 0.5}),
    ("r-rome", "gpt-j-6B", {"layer": 5, "clamp": 4, "context_lengths": [[10, 4], [10, 9]]}),
    ("ft", "gpt2-xl", {"layer": 1, "lr": 5e-4, "steps": 25, "max_change": None}),
    ("ft", "gpt-j-6B", {"layer": 21, "lr": 5e-4, "stop_loss": 1e-2, "weight_decay": 0}),
    ("ft+l", "gpt2-medium", {"layer": 0, "max_change": 2e-3}),
    ("ft+l", "gpt2-large", {"layer": 0, "max_change": 1e-3}),
    ("ft+l", "gpt2-xl", {"layer": 0, "max_change": 5e-4}),
    ("ft+l", "gpt-j-6B", {"layer": 0, "max_change": 5e-5, "lr": 5e-4}),
    ("attnedit", "gpt2-xl", {"layer": 33, "max_change": 1e-3, "lr": 1e-3, "part": "qkv"}),
    (
        "ultraedit",
        "gpt-j-6B",
        {"lr": 1e-6, "ridge": 1, "modules": [{"part": "out", "first": 18, "last": 26}]},
    ),
    ("kn", "gpt2-xl", {"steps": 20, "threshold": 0.2, "refine": False, "old_scale": 2}),
]


def resolved(editor: str, model: str, **how: Any) -> Resolved:
    return resolve_config(default_registry().get("editor", editor), model=model, **how)


def files() -> list[Path]:
    return [CONFIGS / editor / "models.yaml" for editor in EDITORS]


def groups() -> list[tuple[str, dict[str, Any]]]:
    return [
        (file.parent.name, group)
        for file in files()
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("editor", "model", "values"), PUBLISHED)
def test_the_papers_values(editor: str, model: str, values: dict[str, Any]) -> None:
    result = resolved(editor, f"someone/{model}").to_dict()
    assert {field: result[field] for field in values} == values


@pytest.mark.parametrize("editor", EDITORS)
def test_every_model_has_values_and_a_note_and_needs_no_rule(editor: str) -> None:
    for model in OF_THE_PAPERS:
        result = resolved(editor, model)
        assert result.note is not None
        assert result.rule is None
        assert "untested" not in result.note
        assert "published" in result.note or "paper" in result.note
    for model in UNTESTED:
        result = resolved(editor, model)
        assert str(result.note).startswith("untested at scale")
        assert result.rule is None


@pytest.mark.parametrize("editor", ["rome", "ft", "ft+l", "attnedit"])
def test_untested_layers_are_those_of_the_rule_or_of_gpt_j(editor: str) -> None:
    rule = cast("EditorSpec", default_registry().get("editor", editor).spec).layer_rule
    assert rule is not None
    for model, n_layers in UNTESTED.items():
        layer = 5 * n_layers // 28 if editor == "rome" else rule.layer_of(n_layers)
        assert resolved(editor, model).to_dict()["layer"] == layer, model
    for model, n_layers in OF_THE_PAPERS.items():
        result = resolved(editor, model)
        assert 0 <= result.to_dict()["layer"] < n_layers
        if "depth rule" in str(result.note):
            assert result.to_dict()["layer"] == rule.layer_of(n_layers), model


def test_every_entry_of_every_file_fits_its_editor() -> None:
    for editor, group in groups():
        for model in group["models"]:
            for preset in default_registry().get("editor", editor).spec.presets:
                assert resolved(editor, model, preset=preset).note


def test_no_model_is_named_twice_and_names_are_in_lower_case() -> None:
    named = Counter((editor, model) for editor, group in groups() for model in group["models"])
    assert [name for name, times in named.items() if times > 1] == []
    assert all(model == model.lower() and "/" not in model for _, model in named)


def test_a_chosen_preset_is_not_undone_by_a_file() -> None:
    assert resolved("kn", "gpt2-xl", preset="original").to_dict()["p"] == 0.7
    assert resolved("ft", "gpt2-xl", preset="paper").to_dict()["stop_loss"] == 0.03
    assert resolved("rome", "gpt2-xl", preset="paper").to_dict()["corpus_tokens"] == 100_000


def test_rome_has_a_corpus_for_every_model() -> None:
    for model in (*OF_THE_PAPERS, *UNTESTED):
        corpus = resolved("rome", model).to_dict()["corpus"]
        assert corpus == "hub:wikimedia/wikipedia:20231101.en:train[:100000]"


@pytest.mark.parametrize(("preset", "layer"), [("paper", 18), ("paper-v1", 15), ("published", 17)])
def test_a_papers_preset_edits_its_own_layer_of_gpt2_xl(preset: str, layer: int) -> None:
    result = resolved("rome", "openai-community/gpt2-xl", preset=preset)
    assert result.to_dict()["layer"] == layer
    assert bool(result.overridden) == (preset != "published")


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("model", ["gpt2-medium", "gpt2-xl", "gpt-j-6B", "gpt-neox-20b"])
def test_naming_the_published_preset_changes_nothing_on_the_papers_models(
    editor: str, model: str
) -> None:
    named, unnamed = resolved(editor, model, preset="published"), resolved(editor, model)
    assert named.to_dict() == unnamed.to_dict()
    assert named.overridden == ()


def test_a_papers_preset_keeps_the_layer_that_another_model_has() -> None:
    result = resolved("rome", "gpt-j-6B", preset="paper")
    assert result.to_dict()["layer"] == 5
    assert result.sources["layer"].endswith("rome/models.yaml")
    by_rule = resolved("rome", "my-own-model", preset="paper", n_layers=lambda: 12)
    assert by_rule.to_dict()["layer"] == 1
    assert by_rule.rule
