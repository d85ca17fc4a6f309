"""Another subject instead of noise, with as many tokens or another number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from editkit import ConfigError, Fact, Localization
from editkit.cli.main import main
from editkit.models import LanguageModel
from editkit.models.running import forward, recording, replacing
from editkit.tracing.trace import Trace
from editkit_plugins.tracing.averages import effects_by_role
from editkit_plugins.tracing.causal_tracing import CausalTracingLocator
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.restored_runs import SEVERED, WINDOWS, window_of
from editkit_plugins.tracing.tokenized_facts import TokenizedFact, tokenize_facts
from tests.tiny import tiny

PROMPT = "They say that {} is in the city of"
KINDS: tuple[Kind, ...] = ("state", "mlp", "attn", *SEVERED)
SHORT, LONG = "Rome", "Danielle Darrieux"


def config(*others: str, **values: Any) -> CausalTracingConfig:
    given = {"kinds": KINDS, "window": 2, "substitute_length": "any", **values}
    return CausalTracingConfig(corruption="substitute", substitutes=others, **given)


def trace(
    model: LanguageModel, subject: str, *others: str, **values: Any
) -> Sequence[Localization]:
    fact = Fact(PROMPT.format(subject), subject, "Lima")
    [maps] = CausalTracingLocator(config(*others, **values)).maps(model, [fact])
    return maps


def with_subject(model: LanguageModel, subject: str) -> TokenizedFact:
    [fact] = tokenize_facts(model, [Fact(PROMPT.format(subject), subject, "Lima")])
    return fact


def probability(model: LanguageModel, fact: TokenizedFact, hooks: dict[str, Any]) -> float:
    """The answer's probability in a whole forward pass."""
    with torch.no_grad(), replacing(model, hooks):
        logits = model.head(forward(model, torch.tensor([fact.ids])))
    at_answer = torch.log_softmax(logits, dim=-1)[0, len(fact.prompt) - 1 :]
    answer = torch.tensor(fact.answer)
    return float(at_answer[torch.arange(len(answer)), answer].sum().exp())


def expected_effects(model: LanguageModel, subject: str, other: str, kind: Kind) -> Tensor:
    """Effects (T, L), one whole pass per site; NaN where a token has no counterpart."""
    clean, corrupted = with_subject(model, subject), with_subject(model, other)
    shift = len(corrupted.prompt) - len(clean.prompt)
    layers = range(model.n_layers)
    parts = [model.path(layer, part) for layer in layers for part in ("attention_out", "mlp_out")]
    blocks = [model.architecture.block(layer) for layer in layers]
    with recording(model, [*parts, *blocks]) as recorded:
        probability(model, clean, {})
        own = {path: recorded[path].output for path in (*parts, *blocks)}
    with recording(model, parts) as recorded:
        base = probability(model, corrupted, {})
        theirs = {path: recorded[path].output for path in parts}

    def put(values: Tensor, source: int, place: int) -> Any:
        def hook(_: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[0, place] = values[0, source]
            return output

        return hook

    effects = torch.full((len(clean.prompt), model.n_layers), torch.nan)
    for token in range(clean.subject[0], len(clean.prompt)):
        place = token + shift
        if place < corrupted.subject[0]:
            continue
        for layer in layers:
            hooks = {}
            if kind in WINDOWS:
                for each in window_of(layer, model.n_layers, config(window=2)):
                    path = model.path(each, WINDOWS[kind])
                    hooks[path] = put(own[path], token, place)
            else:
                hooks[blocks[layer]] = put(own[blocks[layer]], token, place)
                for path in [model.path(i, part) for i in layers for part in SEVERED.get(kind, ())]:
                    hooks[path] = put(theirs[path], place, place)
            effects[token, layer] = probability(model, corrupted, hooks) - base
    return effects


@pytest.mark.parametrize(("subject", "other"), [(SHORT, LONG), (LONG, SHORT)])
def test_effects_match_whole_passes_aligned_from_the_right(subject: str, other: str) -> None:
    model = tiny()
    assert len(with_subject(model, SHORT).prompt) < len(with_subject(model, LONG).prompt)
    maps = trace(model, subject, other)
    corrupted = probability(model, with_subject(model, other), {})
    first, end = maps[0].subject or (0, 0)
    for traced in maps:
        expected = expected_effects(model, subject, other, traced.kind)  # type: ignore[arg-type]
        missing = expected[:, 0].isnan().tolist()
        assert [not shown for shown in traced.traced][first:] == missing[first:]
        largest = float(expected.nan_to_num(0.0).abs().max())
        assert largest > 5e-3 * corrupted
        difference = (torch.tensor(traced.scores) - expected.nan_to_num(0.0)).abs()
        assert float(difference.max()) < 1e-2 * largest
    assert maps[0].baselines["corrupted"] == pytest.approx(corrupted, rel=1e-4)
    assert maps[0].replacements == (other,)
    assert maps[0].counterparts[end - 1] != ""
    assert (maps[0].counterparts[first] == "") == (subject == LONG)


def test_several_lengths_are_averaged_where_they_have_counterparts() -> None:
    model = tiny()
    both, short, long = (
        trace(model, "Seattle", *others, kinds=("state",))[0]
        for others in ((SHORT, LONG), (SHORT,), (LONG,))
    )
    mean = (short.baselines["corrupted"] + long.baselines["corrupted"]) / 2
    assert both.baselines["corrupted"] == pytest.approx(mean)
    for token, scores in enumerate(both.scores):
        parts = [each.scores[token] for each in (short, long) if each.traced[token]]
        expected = [sum(column) / len(parts) for column in zip(*parts, strict=True)]
        assert scores == pytest.approx(expected, abs=1e-9)
    assert " / " in both.counterparts[both.subject[1] - 1] if both.subject else False


def test_any_length_gives_the_numbers_of_the_same_length() -> None:
    model = tiny()
    fact = Fact("Rome is in the city of", "Rome", "Lima")
    maps = [
        CausalTracingLocator(config("Italy", substitute_length=length)).maps(model, [fact])[0]
        for length in ("same", "any")
    ]
    for one, other in zip(*maps, strict=True):
        assert torch.allclose(torch.tensor(one.scores), torch.tensor(other.scores), atol=1e-7)
        assert one.counterparts == other.counterparts
        assert all(one.traced)


def test_tokens_without_a_counterpart_have_no_role_in_averages_and_are_marked() -> None:
    [state] = trace(tiny(), LONG, SHORT, kinds=("state",))
    assert "first subject token" not in effects_by_role(state)
    assert "last subject token" in effects_by_role(state)
    shown = Trace("tiny", "causal-tracing", (state,))
    first, end = state.subject or (0, 0)
    assert shown.row_labels[first].endswith("→ none")
    assert shown.row_labels[end - 1].endswith("→ Rome")
    assert "with Rome in place of Danielle Darrieux (*), aligned" in shown.notes[0]


def test_a_substitute_with_the_subjects_own_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="they have its own tokens, or change the tokens around"):
        trace(tiny(), SHORT, SHORT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--facts", "atlas"], "--with-subject needs a single fact"),
        (["--prompt", "Kenya is", "--subject", "Kenya", "--locator", "saliency"], "saliency does"),
        (
            ["--prompt", "Kenya is", "--subject", "Kenya", "--set", "corruption=gaussian"],
            "--with-subject and --set corruption both",
        ),
    ],
)
def test_other_subjects_on_the_command_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", "--model", "atlas", "--with-subject", "Peru", *arguments]) == 2
    assert message in capsys.readouterr().err
