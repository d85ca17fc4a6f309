"""Architectures of plugins, and of families that nobody lists."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import editkit
from editkit import LanguageModel, ModelError, PluginError
from editkit.models import ARCHITECTURES, architecture_of, shape_of
from editkit.models.checkpoint import config_problems
from editkit.registry.plugins import Registry, default_registry
from editkit.selfcheck import check
from tests.tiny import tokenizer


class PlainConfig(LlamaConfig):
    model_type = "toy_plain"


class HalvedConfig(LlamaConfig):
    model_type = "toy_halved"


class Plain(LlamaForCausalLM):
    """Llama under another name."""

    config_class = PlainConfig


class Halved(LlamaForCausalLM):
    """Llama that adds half of what attention and MLP compute."""

    config_class = HalvedConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for block in self.model.layers:
            block.mlp.register_forward_hook(lambda _, args, output: output * 0.5)
            block.self_attn.register_forward_hook(
                lambda _, args, output: (output[0] * 0.5, *output[1:])
            )


for config_class, model_class in ((PlainConfig, Plain), (HalvedConfig, Halved)):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModelForCausalLM.register(config_class, model_class)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "vocab_size": 400,
}
HALVED = dataclasses.replace(
    ARCHITECTURES["llama"], model_types=("toy_halved",), residual_scale=0.5
)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """The registry of the process, with an empty cache of verdicts; plugins are removed again."""
    registry = default_registry()
    monkeypatch.setattr(registry, "plugins", list(registry.plugins))
    monkeypatch.setattr(registry, "broken", list(registry.broken))
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    check._found_entry.cache_clear()
    yield registry
    check._found_entry.cache_clear()


def offer(registry: Registry, *architectures: Any, name: str = "toy") -> None:
    class Plugin:
        @editkit.hookimpl
        def editkit_architectures(self) -> list[Any]:
            return list(architectures)

    registry.register(Plugin(), name=name, distribution=f"editkit-{name}", version="0.1")


def loaded(config: Any) -> LanguageModel:
    return LanguageModel(AutoModelForCausalLM.from_config(config), tokenizer(), name="toy")


# ---------------------------------------------------------------- plugins


def test_a_plugin_adds_an_architecture(registry: Registry) -> None:
    entry = dataclasses.replace(ARCHITECTURES["llama"], model_types=("toy_plain", "toy_other"))
    offer(registry, entry)
    model = loaded(PlainConfig(**SIZES))
    assert model.architecture is entry
    assert shape_of(PlainConfig(**SIZES)).architecture is entry
    assert {"llama", "toy_plain", "toy_other"} <= set(registry.names("architecture"))
    assert config_problems({"model_type": "toy_other", **SIZES}, "m") == []


def test_an_entry_that_breaks_a_rule_is_refused_by_name(registry: Registry) -> None:
    offer(registry, dataclasses.replace(HALVED, residual_scale=0.25))
    message = (
        r"rule 'blocks' failed for model_type 'toy_halved', .* editkit-toy 0.1: what attention"
    )
    with pytest.raises(ModelError, match=message):
        loaded(HalvedConfig(**SIZES))
    [problem] = config_problems({"model_type": "toy_absent", **SIZES}, "m")
    assert "toy_halved" in problem.hint


def test_two_distributions_clash_and_others_are_not_affected(registry: Registry) -> None:
    offer(registry, dataclasses.replace(ARCHITECTURES["gpt2"], model_types=("llama", "toy_plain")))
    version = editkit.__version__
    both = rf"'llama' is offered by editkit {version} .* and editkit-toy 0.1 \(plugin 'toy'\)"
    with pytest.raises(PluginError, match=both):
        architecture_of(LlamaConfig(**SIZES))
    assert ("architecture", "llama") in registry.clashes
    assert architecture_of(AutoConfig.for_model("gpt2")) is ARCHITECTURES["gpt2"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("llama", "returned 'llama' (str), expected Architecture"),
        ({"blocks": 3}, "'toy_plain': blocks is 3, expected a path such as 'model.layers'"),
        ({"qkv": "a.qkv"}, "qkv is 'a.qkv', expected a tuple of paths: ('a.qkv',)"),
        ({"mlp_in": ["a", "b"]}, "mlp_in is ['a', 'b'], expected a tuple of paths: ('a', 'b')"),
        ({"mlp_in": ()}, "mlp_in is (), expected a tuple of paths such as ("),
        ({"residual_scale": "x"}, "residual_scale is 'x', expected a number such as 0.5"),
        ({"logit_scale": True}, "logit_scale is True, expected a number"),
        ({"parallel": 1}, "parallel is 1, expected True or False"),
        ({"for_config": 3}, "for_config is 3, expected a function (architecture, config)"),
        ({"model_types": ()}, "model_types is (), expected a tuple of names such as ('llama',)"),
        ({"model_types": "toy"}, "model_types is 'toy', expected a tuple of names: ('toy',)"),
    ],
    ids=str,
)
def test_invalid_entries_break_only_their_plugin(
    registry: Registry, wrong: Any, reason: str
) -> None:
    if isinstance(wrong, dict):
        entry = dataclasses.replace(ARCHITECTURES["llama"], model_types=("toy_plain",))
        wrong = dataclasses.replace(entry, **wrong)
    before = len(registry.broken)
    offer(registry, wrong)
    [broken] = registry.broken[before:]
    assert broken.reason.startswith("editkit_architectures")
    assert reason in broken.reason


def _raises(architecture: Any, config: Any) -> Any:
    raise ValueError("boom")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_raises, "raised ValueError: boom."),
        (lambda entry, config: sys.exit(3), "called sys.exit(3)"),
        (lambda entry: entry, "raised TypeError: "),
        (lambda entry, config: None, "returned None (NoneType), expected an Architecture."),
        (
            lambda entry, config: dataclasses.replace(entry, qkv="a"),
            "returned an Architecture with qkv is 'a', expected a tuple of paths: ('a',).",
        ),
    ],
    ids=("ValueError", "exit", "arguments", "None", "field"),
)
def test_a_wrong_for_config_is_an_error_of_its_plugin(
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    function: Any,
    reason: str,
) -> None:
    entry = dataclasses.replace(HALVED, for_config=function)
    offer(registry, entry)
    config = HalvedConfig(**SIZES)
    for use in (
        lambda: loaded(config),
        lambda: shape_of(config),
        lambda: check.first_failure(config, entry),
        lambda: list(check.check_config(config, entry)),
    ):
        with pytest.raises(PluginError) as caught:
            use()
        assert "for_config of plugin 'toy' (editkit-toy 0.1), model type 'toy_h" in str(
            caught.value
        )
        assert reason in caught.value.message
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "toy_halved", **SIZES}))
    main = importlib.import_module("editkit.cli.main").main
    assert main(["check-architecture", str(tmp_path)]) == PluginError.exit_code
    assert reason in capsys.readouterr().err


def test_for_config_may_refuse_a_config(registry: Registry) -> None:
    def refuse(entry: Any, config: Any) -> Any:
        raise ModelError("this toy is upside down.", hint="Turn it.")

    offer(registry, dataclasses.replace(HALVED, for_config=refuse))
    with pytest.raises(ModelError) as caught:
        loaded(HalvedConfig(**SIZES))
    assert str(caught.value) == "this toy is upside down. Turn it."


# ---------------------------------------------------------------- unlisted families


def test_an_unlisted_family_that_keeps_all_rules_loads_with_one_warning(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = loaded(PlainConfig(**SIZES))
        loaded(PlainConfig(**SIZES))
    assert model.architecture.mlp_out == "mlp.down_proj"
    [warning] = [r.getMessage() for r in caplog.records if "toy_plain" in r.getMessage()]
    assert "not in editkit's tested table; its modules are named as those of llama" in warning
    assert "passed the 9 rules of check-architecture" in warning  # it has no windows
    assert config_problems({"model_type": "toy_plain", **SIZES}, "m") == []


def test_an_unlisted_family_that_breaks_a_rule_is_refused_by_name(registry: Registry) -> None:
    message = r"named as those of llama, but rule 'blocks' failed for model_type 'toy_halved': what"
    with pytest.raises(ModelError, match=message):
        loaded(HalvedConfig(**SIZES))
    [problem] = config_problems({"model_type": "toy_halved", **SIZES}, "m")
    assert "rule 'blocks' failed for model_type 'toy_halved'" in problem.message
    assert "check-architecture" in problem.hint


def test_a_verdict_is_cached_by_config_and_entry(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    checked = check.check_config

    def count(config: Any, entry: Any) -> Any:
        calls.append(entry.residual_scale)
        return checked(config, entry)

    monkeypatch.setattr(check, "check_config", count)
    config = HalvedConfig(**SIZES)
    assert check.first_failure(config, HALVED) is None
    for _ in range(2):
        failed = check.first_failure(config, dataclasses.replace(HALVED, residual_scale=1.0))
        assert failed is not None
        assert failed.rule == "blocks"
        assert check.first_failure(config, HALVED) is None
    assert calls == [0.5, 1.0]
    check.first_failure(HalvedConfig(**{**SIZES, "rms_norm_eps": 1e-3}), HALVED)
    assert calls == [0.5, 1.0, 0.5]


# ---------------------------------------------------------------- the command


def saved(folder: Path, config: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.1)
    hf.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_the_command_checks_a_folder_and_proposes_an_entry(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module("editkit.cli.main").main
    folder = saved(tmp_path / "plain", PlainConfig(**SIZES))
    assert main(["check-architecture", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("model type toy_plain: not listed; its modules are named as those of ll")
    assert "\na small random model\n  ok    modules " in out
    assert "\nthe weights in the folder\n  ok    modules " in out
    assert "FAIL" not in out
    assert "\nNo entry is needed: models of this family load, with one warning." in out
    assert "Its modules" not in out
    code = out[out.index("Architecture(\n") :]
    entry = eval(code, {"Architecture": editkit.models.Architecture})  # noqa: S307
    assert entry == dataclasses.replace(ARCHITECTURES["llama"], model_types=("toy_plain",))

    config = tmp_path / "halved"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"model_type": "toy_halved", **SIZES}))
    assert main(["check-architecture", str(config)]) == 1
    _, _, after = capsys.readouterr().out.partition("\nThis entry failed, so models of this family")
    assert after.index("Architecture(") < after.index("Fix blocks first; the other rules follow")
    assert "  blocks: set residual_scale to the factor" in after
    assert "\n  model.layers.0.mlp.down_proj  Linear (32, 64)\n" in after
    assert "model.layers.1" not in after
    assert main(["check-architecture", str(config), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    [checked] = document["checked"]
    assert not document["ok"]
    assert {r["rule"] for r in checked["rules"] if r["verdict"] == "FAIL"} >= {"blocks"}


def test_the_command_lists_the_modules_where_no_layout_fits(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module("editkit.cli.main").main
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ctrl", "n_layer": 2}))
    assert main(["check-architecture", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("ctrl: not listed, and no entry of the table has its modules\n")
    assert "  transformer.h.0.multi_head_attention.Wq  Linear (1280, 1280) (1280,)\n" in out
    assert "transformer.h.1" not in out
    assert main(["check-architecture", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "mamba"}, "has only recurrent layers (mamba)"),
        ({"model_type": "jamba"}, "has recurrent layers (jamba)"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder (t5)"),
        ({"model_type": "vit"}, "is a vision or multimodal model (vit)"),
        ({"model_type": "whisper"}, "is an audio model (whisper)"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "in a plugin"])
def test_the_command_refuses_what_no_entry_can_describe(
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    reason: str,
    listed: bool,
) -> None:
    if listed and config["model_type"] in ("mamba", "jamba"):
        types = (config["model_type"],)
        offer(registry, dataclasses.replace(ARCHITECTURES["llama"], model_types=types))
    (tmp_path / "config.json").write_text(json.dumps(config))
    main = importlib.import_module("editkit.cli.main").main
    assert main(["check-architecture", str(tmp_path)]) == ModelError.exit_code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert reason in printed.err
    assert "AttributeError" not in printed.err
    assert "check-architecture" not in printed.err


def test_the_listing_has_every_module_of_a_sequential_and_each_kind_of_block() -> None:
    command = importlib.import_module("editkit.cli.check_architecture")
    model = nn.Module()
    model.layers = nn.ModuleList(
        nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, 2)) for width in (3, 4, 3, 4)
    )
    paths = [path for path, _ in model.named_modules()]
    hidden = command._repeated(model)
    assert hidden == ["layers.2", "layers.3"]
    assert {"layers.0.0", "layers.0.1", "layers.0.2", "layers.1.2"} <= set(paths)
