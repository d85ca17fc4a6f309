"""The presets `paper` and `paper-v1` compute what the papers' equations say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from editkit import EditRequest, LowRank, make_dataset, make_editor
from editkit.covariance.corpora import Corpus
from editkit.covariance.second_moment import compute_second_moment, configured_second_moment
from editkit.editing.rome_rows import request_rows, sampled_or_given_contexts
from editkit.editing.rome_value import RankOneUpdate
from editkit.models import LanguageModel
from editkit.models.encoding import padded
from editkit.models.running import forward, replacing
from editkit.registry.config import resolve_config
from editkit.registry.models import load_model
from editkit.registry.plugins import default_registry
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from tests.parity import difference
from tests.plugins.rome.oracle import solve_plainly
from tests.tiny import SENTENCES, tiny
from tests.tokenizers import tokenizer_of

REQUESTS = [
    EditRequest("{} is in the city of", "The Space Needle", "Paris"),
    EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian words"),
]
SMALL = {"layer": 1, "second_moment": False, "corpus": None}
TEXTS = ("paper", "paper-v1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))


def preset(name: str, **changes: Any) -> RomeConfig:
    offer = default_registry().get("editor", "rome")
    config = resolve_config(offer, preset=name).config.model_dump()
    return RomeConfig(**{**config, **SMALL, **changes})


def edited_value(model: LanguageModel, solution: RankOneUpdate, layer: int) -> torch.Tensor:
    """W' k* and the bias, in float64."""
    module = model.hf.get_submodule(model.path(layer, "mlp_out"))
    weight = module.weight.detach().double()
    d = len(solution.u)
    weight = weight if weight.shape[0] == d else weight.T  # (D, H)
    weight = weight + torch.outer(solution.u.double(), solution.right.double())
    value = solution.value.keys.double().mean(dim=0) @ weight
    bias = getattr(module, "bias", None)
    return value if bias is None else value + bias.detach().double()


def missed_by(model: LanguageModel, solution: RankOneUpdate, layer: int) -> float:
    """|W' k* - v*| / |v*|."""
    v_star = solution.value.v_star.double()
    return float((edited_value(model, solution, layer) - v_star).norm() / v_star.norm())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gptj"])
def test_the_mean_key_is_mapped_to_the_new_value(architecture: str, name: str) -> None:
    model = tiny(architecture)
    for solution in RomeEditor(preset(name, steps=3)).solve(model, REQUESTS):
        assert missed_by(model, solution, 1) < 1e-5


@pytest.mark.parametrize("name", [*TEXTS, "corrected", "published"])
def test_on_atlas_only_the_published_update_misses_its_own_value(name: str) -> None:
    model = load_model("atlas")
    records = make_dataset("atlas").load().records[:2]
    editor = make_editor("rome", model, preset=name, steps=2, corpus_tokens=3_000)
    assert isinstance(editor, RomeEditor)
    for solution in editor.solve(model, [record.request for record in records]):
        missed = missed_by(model, solution, editor.layer(model))
        assert missed > 0.01 if name == "published" else missed < 1e-5


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gptj"])
def test_shared_passes_agree_with_whole_rows(architecture: str, name: str) -> None:
    model = tiny(architecture)
    # A KL factor of 100 makes a random model's losses noise: it is compared at 0.1.
    few = {"steps": 4, "kl_factor": 0.1, "context_lengths": [[2, 2], [2, 5]]}
    fast = RomeEditor(preset(name, **few)).solve(model, REQUESTS)
    plain = solve_plainly(RomeEditor(preset(name, **few)), model, REQUESTS)
    for a, b in zip(fast, plain, strict=True):
        assert [x.total for x in a.value.losses] == pytest.approx(
            [x.total for x in b.value.losses], rel=1e-4
        )
        assert difference(a.value.delta, b.value.delta) < 1e-3
        assert difference(a.value.keys, b.value.keys) < 1e-5
        assert difference(a.right, b.right) < 1e-3


@pytest.mark.parametrize("name", TEXTS)
def test_requests_side_by_side_equal_requests_alone(name: str) -> None:
    model = tiny()
    few = {"steps": 8, "kl_factor": 0.1, "context_lengths": [[3, 3]]}
    editor = RomeEditor(preset(name, **few, stop_loss=5.0))
    for request, expected in zip(REQUESTS, editor.solve(model, REQUESTS), strict=True):
        [alone] = editor.solve(model, [request])
        assert len(alone.value.losses) == len(expected.value.losses)
        torch.testing.assert_close(alone.right, expected.right, rtol=1e-3, atol=1e-4)


def test_the_key_of_the_text_is_the_mean_over_sampled_texts_before_the_subject() -> None:
    """k* = 1/N sum_j k(x_j + s): no bare prompt, no words of the prompt."""
    model = tiny()
    for name, n in (("paper", 20), ("paper-v1", 50)):
        config = preset(name, steps=1)
        [solution] = RomeEditor(config).solve(model, REQUESTS[1:])
        texts = sampled_or_given_contexts(model, config)[1:]
        assert len(texts) == len(solution.value.keys) == n
        ids = [model.encode([text + REQUESTS[1].subject])[0].ids for text in texts]
        path = model.path(1, "mlp_out")
        keys = []
        for each in ids:
            seen: list[torch.Tensor] = []
            hook = model.hf.get_submodule(path).register_forward_pre_hook(
                lambda _, args, seen=seen: seen.append(args[0].detach()) or None
            )
            with torch.no_grad():
                model.hf(torch.tensor([each]))
            hook.remove()
            keys.append(seen[0].reshape(len(each), -1)[-1])
        assert difference(solution.value.keys.mean(dim=0), torch.stack(keys).mean(dim=0)) < 1e-5


def test_the_value_replaces_the_output_in_every_context() -> None:
    """The first loss of equation 4 is that of z = v0 everywhere, a sum over the target's tokens."""
    model = tiny()
    config = preset("paper", steps=1, context_lengths=[[2, 3]])
    request = REQUESTS[1]
    [solution] = RomeEditor(config).solve(model, [request])
    rows = request_rows(model, request, sampled_or_given_contexts(model, config), config)
    assert len(rows.contexts) == 2
    nll = []
    for row in rows.contexts:
        assert len(row.labels) > 1

        def put(_: torch.Tensor, output: torch.Tensor, at: int = row.position) -> torch.Tensor:
            changed = output.clone()
            changed.reshape(-1, changed.shape[-1])[at] = solution.value.v0
            return changed

        with torch.no_grad(), replacing(model, {model.path(1, "mlp_out"): put}):
            hidden = forward(model, padded([row.ids], model.device))
            log_p = torch.log_softmax(model.head(hidden), dim=-1)[0]
        nll.append(-sum(float(log_p[row.read + j, t]) for j, t in enumerate(row.labels)))
    first = solution.value.losses[0]
    assert first.nll == pytest.approx(sum(nll) / 2, rel=1e-4)
    assert first.decay == 0
    assert first.kl > 0  # the essence prompt's own output is another than the request's


def test_the_first_versions_contexts_are_for_the_key_alone() -> None:
    model = tiny()
    values = {"steps": 4, "kl_factor": 0.1}
    some, others = (
        RomeEditor(preset("paper-v1", **values, contexts=texts)).solve(model, REQUESTS)
        for texts in (("Mario Kart. ",), ("In the city. ", "The. "))
    )
    for a, b in zip(some, others, strict=True):
        assert a.value.losses == b.value.losses
        assert torch.equal(a.value.v_star, b.value.v_star)
        assert not torch.equal(a.value.keys.mean(dim=0), b.value.keys.mean(dim=0))


@pytest.mark.parametrize(("step_is", "evaluations"), [("evaluation", 5), ("update", 6)])
@pytest.mark.parametrize("plain", [False, True])
def test_a_step_is_an_update_in_the_texts(step_is: str, evaluations: int, plain: bool) -> None:
    values = {"steps": 5, "step_is": step_is, "stop_loss": 0.0}
    editor = RomeEditor(RomeConfig(**{**SMALL, **values}, contexts=("Mario Kart. ",)))
    solve = solve_plainly if plain else RomeEditor.solve
    [solution] = solve(editor, tiny(), REQUESTS[:1])
    assert len(solution.value.losses) == evaluations


def test_without_clamp_the_offset_is_unbounded() -> None:
    values = {**SMALL, "contexts": ("Mario Kart. ",), "steps": 12, "stop_loss": 0.0}
    values["weight_decay"] = 0.0
    bound, free = (
        RomeEditor(RomeConfig(**values, clamp=clamp)).solve(tiny(), REQUESTS[:1])[0].value
        for clamp in (0.5, None)
    )
    assert float(bound.delta.norm()) <= 0.5 * float(bound.v0.norm()) * (1 + 1e-5)
    assert float(free.delta.norm()) > 2 * float(bound.delta.norm())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"bare_context": False, "contexts": ()}, "there is no key"),
        ({"bare_context": False, "context_lengths": ()}, "there is no key"),
        ({"key_text": "subject", "position": "last"}, "key_text subject has no token"),
    ],
)
def test_fields_that_leave_no_key_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        RomeConfig(**values)


def test_an_edit_with_the_paper_preset_is_a_delta_like_any_other() -> None:
    [delta] = RomeEditor(preset("paper", steps=2)).edit(tiny(), REQUESTS[:1])
    [change] = delta.changes.values()
    assert isinstance(change, LowRank)
    assert delta.is_finite()
    assert delta.notes["steps"] == 3


@pytest.mark.parametrize("name", TEXTS)
def test_the_second_moment_of_the_texts_is_over_a_random_sample(name: str, tmp_path: Path) -> None:
    texts = [f"{SENTENCES[i % 5]} {i}" for i in range(300)]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    values = {"second_moment": True, "corpus": str(tmp_path / "texts.txt"), "corpus_tokens": 400}
    model = tiny()
    path = model.path(1, "mlp_out")
    actual = configured_second_moment(model, path, preset(name, **values), editor="rome")
    sample = Corpus(str(tmp_path / "texts.txt"), "random").texts()
    expected = compute_second_moment(model, path, sample, tokens=400)
    assert torch.equal(actual.matrix, expected.matrix)
    first = compute_second_moment(model, path, texts, tokens=400)
    assert not torch.equal(actual.matrix, first.matrix)


TURNS = (
    "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|model|>{% endif %}"
)


@pytest.mark.parametrize("name", TEXTS)
def test_the_key_of_a_chat_turn_is_read_inside_the_turn(name: str) -> None:
    model = LanguageModel(tiny("llama").hf, tokenizer_of("llama3", chat=TURNS), name="tiny-chat")
    request = EditRequest("Where is {}?", "Mario Kart", "Rome", chat=True)
    config = preset(name, steps=2, kl_factor=0.1, contexts=("In the city. ", "It is. "))
    rows = request_rows(model, request, sampled_or_given_contexts(model, config), config)
    written = [*rows.contexts, *rows.others]
    turn = model.tokenizer.convert_tokens_to_ids("<|user|>")
    for i, context in zip(rows.keys, config.contexts or (), strict=True):
        text = model.tokenizer.decode(written[i].ids)
        assert turn in written[i].ids
        assert text.endswith(f"<|user|>{context}Mario Kart")
    fast = RomeEditor(config).solve(model, [request])
    plain = solve_plainly(RomeEditor(config), model, [request])
    assert difference(fast[0].right, plain[0].right) < 1e-3
    assert missed_by(model, fast[0], 1) < 1e-5
