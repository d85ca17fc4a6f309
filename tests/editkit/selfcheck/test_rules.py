"""Each rule of the self-check holds on our families, and fails on a model that breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from editkit import LanguageModel
from editkit.selfcheck import check
from editkit.selfcheck.check import check_config, check_model
from editkit.selfcheck.rules import RULES, Broken
from editkit.testing import ContractError, check_architecture
from tests.slow_cases import by_default
from tests.tiny import ARCHITECTURES, tiny


@pytest.mark.parametrize("name", by_default(ARCHITECTURES, "mistral"))
def test_families_of_the_table_keep_every_rule(name: str) -> None:
    """On our tiny model and on the shrunk one, which has the windows that the config states."""
    model = tiny(name)
    before = model.weights_digest()
    for outcomes in (check_model(model), check_config(model.hf.config)):
        verdicts = {each.rule: (each.verdict, each.reason) for each in outcomes}
        assert [rule for rule, (verdict, _) in verdicts.items() if verdict == "FAIL"] == []
        assert list(verdicts) == [rule.name for rule in RULES]
    if name == "mistral":
        assert verdicts["windows"] == ("ok", "")
    assert model.weights_digest() == before


# ---------------------------------------------------------------- models that break a rule


def entry(**changes: Any) -> Callable[[LanguageModel], None]:
    def change(model: LanguageModel) -> None:
        model.architecture = dataclasses.replace(model.architecture, **changes)

    return change


def other_logits(model: LanguageModel) -> None:
    def double(_: nn.Module, args: object, output: Any) -> Any:
        output.logits = output.logits * 2
        return output

    model.hf.register_forward_hook(double)


def scaled_mlp(model: LanguageModel) -> None:
    """Blocks add half of what the MLP's projection computes."""
    for layer in range(model.n_layers):
        mlp = model.module(model.path(layer, "mlp"))
        mlp.register_forward_hook(lambda _, args, output: output * 0.5)


def before_block(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[LanguageModel], None]:
    def break_it(model: LanguageModel) -> None:
        def run(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (change(args[0]), *args[1:])

        model.block(1).register_forward_pre_hook(run)

    return break_it


def positions_from_zero(model: LanguageModel) -> None:
    """Positions restart behind a cached prefix."""

    def run(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        positions = torch.arange(args[0].shape[1])[None]
        return args, {**kwargs, "position_ids": positions}

    model.hf.model.rotary_emb.register_forward_pre_hook(run, with_kwargs=True)


def normalising_projection(model: LanguageModel) -> None:
    """A projection that is linear by type but not by what it computes."""
    module = model.module(model.path(2, "mlp_out"))

    def forward(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x / (1 + x.norm(dim=-1, keepdim=True)), module.weight)

    module.forward = forward


def windowless_cache(model: LanguageModel) -> None:
    """Tokens behind a cached prefix forget the window."""

    def run(_: nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        cached = kwargs.get("past_key_values", kwargs.get("cache"))
        model.hf.config.sliding_window = 4 if cached is None else None

    model.hf.model.register_forward_pre_hook(run, with_kwargs=True)
    model.hf.model.register_forward_hook(
        lambda *_: setattr(model.hf.config, "sliding_window", 4) or None
    )


BREAKS: dict[str, Callable[[LanguageModel], None]] = {
    "modules": entry(mlp_out="mlp.act_fn"),
    "logits": other_logits,
    "blocks": scaled_mlp,
    "parallel": entry(parallel=True),
    "padding": before_block(lambda hidden: hidden + 0.1 * hidden[:, -1:]),
    "prefix": positions_from_zero,
    "recorded": before_block(
        lambda hidden: hidden * torch.linspace(0.5, 1, hidden.shape[1])[None, :, None]
    ),
    "edits": normalising_projection,
    "gradients": scaled_mlp,
    "windows": windowless_cache,
}


def test_every_rule_has_a_model_that_breaks_it() -> None:
    assert list(BREAKS) == [rule.name for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_broken_model_fails_the_rule(rule: Any) -> None:
    name, values = ("mistral", {"sliding_window": 4}) if rule.name == "windows" else ("llama", {})
    with torch.no_grad():
        model = tiny(name, **values)
        BREAKS[rule.name](model)
        with pytest.raises(Broken, match="off by|not a linear|parallel"):
            rule.check(model)


def test_a_wrong_module_ends_the_check_with_its_path() -> None:
    model = tiny("llama")
    entry(final_norm="model.final_layernorm")(model)
    [only] = list(check_model(model))
    assert only.verdict == "FAIL"
    assert only.reason == "there is no module model.final_layernorm (final_norm)"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda output: [output], "got list from model.layers.0"),
        (lambda output: ([output],), "got a tuple that begins with list from model.layers.0"),
        (lambda output: output[:, :, :8], "got (1, 12, 8) from model.layers.0 for (1, 12, 32)"),
    ],
    ids=("list", "tuple", "width"),
)
def test_a_block_with_another_output_fails_with_what_it_must_return(
    change: Callable[[Any], Any], shown: str
) -> None:
    model = tiny("llama")
    model.block(0).register_forward_hook(lambda _, args, output: change(output))
    [failed] = [each for each in check_model(model) if each.rule == "blocks"]
    assert failed.verdict == "FAIL"
    assert failed.reason.startswith("a block must return its hidden states (B, S, H)")
    assert shown in failed.reason


def test_an_error_of_the_library_ends_the_reason() -> None:
    def refuse(model: LanguageModel) -> None:
        raise RuntimeError("The size of tensor a (5) must match\nand more")

    rule = dataclasses.replace(next(rule for rule in RULES if rule.name == "prefix"), check=refuse)
    outcome = check._checked(rule, tiny("llama"))
    assert outcome.verdict == "FAIL"
    assert outcome.reason == (
        "the attention must add keys and values (B, heads, S, D) to the model's cache and read "
        "them, but the library raised RuntimeError: The size of tensor a (5) must match"
    )


def test_plugins_test_their_entries_with_one_call() -> None:
    config = tiny("llama").hf.config
    assert {each.verdict for each in check_architecture(config)} == {"ok", "skipped"}
    wrong = dataclasses.replace(tiny("llama").architecture, parallel=True)
    with pytest.raises(ContractError, match=r"1 rules are broken: parallel: the MLP of a block"):
        check_architecture(config, wrong)
