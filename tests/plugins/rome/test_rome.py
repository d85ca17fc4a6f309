from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editkit import (
    ConfigError,
    EditRequest,
    LowRank,
    RequestError,
    applied,
    load_model,
    make_editor,
)
from editkit.covariance.second_moment import configured_second_moment
from editkit.editing.rome_rows import sampled_or_given_contexts
from editkit.editing.rome_value import Value, ValueLoss
from editkit.editing.value_reports import convergence
from editkit.models.encoding import padded
from editkit.models.running import forward, recording
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from tests.parity import difference
from tests.plugins.rome.oracle import solve_plainly
from tests.tiny import EACH, SENTENCES, tiny

REQUESTS = [
    EditRequest("{} is in the city of", "The Space Needle", "Paris"),
    EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian words"),
    EditRequest('He said: "{}" is the capital of', "São Paulo", "France"),
    EditRequest("Created by {}", "Nintendo", "Microsoft"),
]
CONTEXTS = ("Mario Kart. ", "The city. ", "In {braces}. ")
QUICK = {
    "contexts": CONTEXTS,
    "second_moment": False,
    "layer": 1,
    "steps": 6,
    "stop_loss": 0.0,
    "weight_decay": 1e-3,
    "clamp": 40.0,
}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(SENTENCES * 20), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", EACH)
def test_reuse_and_batching_change_nothing(name: str) -> None:
    """Whole rows through the whole model, one request at a time: the same offsets and losses."""
    model = tiny(name)
    before = model.weights_digest()
    fast = RomeEditor(RomeConfig(**QUICK)).solve(model, REQUESTS)
    plain = solve_plainly(RomeEditor(RomeConfig(**QUICK)), model, REQUESTS)
    for a, b in zip(fast, plain, strict=True):
        assert [x.total for x in a.value.losses] == pytest.approx(
            [x.total for x in b.value.losses], rel=1e-4
        )
        assert difference(a.value.delta, b.value.delta) < 1e-3
        assert difference(a.right, b.right) < 1e-3
        assert min(x.nll for x in a.value.losses) < a.value.losses[0].nll
    assert model.weights_digest() == before


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("position", ["subject_first", "subject_first_after_last", "last"])
def test_every_layer_and_token(layer: int, position: str) -> None:
    model = tiny()
    values = {**QUICK, "layer": layer, "position": position, "kl_position": "prompt_last"}
    fast = RomeEditor(RomeConfig(**values)).solve(model, REQUESTS)
    plain = solve_plainly(RomeEditor(RomeConfig(**values)), model, REQUESTS)
    for a, b in zip(fast, plain, strict=True):
        # Above the last block an early token can change nothing: both offsets are zero then.
        torch.testing.assert_close(a.right, b.right, rtol=1e-3, atol=1e-3 * float(b.right.norm()))


@pytest.mark.parametrize("memory_mb", [1, 1024])
def test_requests_do_not_affect_each_other(memory_mb: int) -> None:
    """Some stop early and leave the batch; groups are cut by memory: no one else notices."""
    model = tiny()
    values = {**QUICK, "steps": 12, "memory_mb": memory_mb}
    free = RomeEditor(RomeConfig(**values)).solve(model, REQUESTS)
    lowest = sorted(min(x.total for x in solution.value.losses) for solution in free)
    values["stop_loss"] = (lowest[1] + lowest[2]) / 2  # two of the four requests get there
    editor = RomeEditor(RomeConfig(**values))
    together = editor.solve(model, REQUESTS)
    lengths = {len(solution.value.losses) for solution in together}
    assert len(lengths) > 1
    for request, expected in zip(REQUESTS, together, strict=True):
        [alone] = editor.solve(model, [request])
        assert len(alone.value.losses) == len(expected.value.losses)
        torch.testing.assert_close(alone.right, expected.right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
def test_the_edited_model_maps_the_bare_key_to_the_new_value(name: str) -> None:
    """The update does what equation 2 promises, in the real model."""
    model = tiny(name)
    editor = RomeEditor(RomeConfig(**QUICK))
    for request, solution, delta in zip(
        REQUESTS, editor.solve(model, REQUESTS), editor.edit(model, REQUESTS), strict=True
    ):
        encoding = model.encode([request.sentence])[0]
        position = encoding.position(request.subject_span, "subject_last")
        path = model.path(1, "mlp_out")
        with applied(model, delta), torch.no_grad(), recording(model, [path]) as seen:
            forward(model, padded([encoding.ids], "cpu"))
        torch.testing.assert_close(
            seen[path].output[0, position], solution.value.v_star, rtol=1e-3, atol=1e-3
        )
        [change] = delta.changes.values()
        assert isinstance(change, LowRank)
        assert change.left.shape[1] == 1


def test_the_offset_stays_within_its_ball() -> None:
    model = tiny()
    editor = RomeEditor(RomeConfig(**{**QUICK, "clamp": 0.5, "steps": 10}))
    for solution in editor.solve(model, REQUESTS):
        limit = 0.5 * float(solution.value.v0.norm())
        assert float(solution.value.delta.norm()) <= limit * (1 + 1e-5)


def test_update_key_mean_uses_the_mean_in_both_places() -> None:
    model = tiny()
    [solution] = RomeEditor(RomeConfig(**QUICK, update_key="mean")).solve(model, REQUESTS[:1])
    weight = model.hf.get_parameter("transformer.h.1.mlp.c_proj.weight").detach()
    bias = model.hf.get_parameter("transformer.h.1.mlp.c_proj.bias").detach()
    mean = solution.value.keys.mean(dim=0)
    edited = mean @ (weight + torch.outer(solution.u, solution.right)) + bias
    torch.testing.assert_close(edited, solution.value.v_star, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_edited_in_float32(dtype: torch.dtype) -> None:
    model = tiny(dtype=dtype)
    before = model.weights_digest()
    delta = RomeEditor(RomeConfig(**QUICK)).edit(model, REQUESTS)[0]
    [change] = delta.changes.values()
    assert change.left.dtype == change.right.dtype == torch.float32
    assert delta.is_finite()
    with applied(model, delta):
        assert model.weights_digest() != before
    assert model.weights_digest() == before


def test_nothing_of_the_model_or_the_process_changes() -> None:
    model = tiny()
    model.hf.train()
    state = torch.get_rng_state()
    before = model.weights_digest()
    RomeEditor(RomeConfig(**QUICK)).edit(model, REQUESTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.hf.training
    assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    assert model.weights_digest() == before


def test_the_direction_is_the_whitened_key(corpus: str) -> None:
    model = tiny()
    values = {**QUICK, "second_moment": True, "corpus": corpus, "ridge": 1e-2}
    editor = RomeEditor(RomeConfig(**values))
    editor.prepare(model)
    [solution] = editor.solve(model, REQUESTS[:1])
    moment = configured_second_moment(model, model.path(1, "mlp_out"), editor.config, editor="rome")
    matrix = moment.matrix.double()
    matrix += 1e-2 * matrix.diagonal().mean() * torch.eye(len(matrix))
    expected = torch.linalg.solve(matrix, solution.value.keys.mean(dim=0).double())
    assert difference(solution.u, expected / expected.norm()) < 1e-5


def test_errors_of_the_second_moment_name_the_field_to_set(corpus: str) -> None:
    model = tiny()
    with pytest.raises(ConfigError, match=r"needs a corpus.*Set editors.rome.corpus"):
        RomeEditor(RomeConfig(layer=1, contexts=CONTEXTS)).prepare(model)
    few = RomeConfig(layer=1, contexts=CONTEXTS, corpus=corpus, corpus_tokens=5)
    with pytest.raises(ConfigError, match=r"128 neurons over 5 tokens is singular.*ridge"):
        RomeEditor(few).prepare(model)


def test_sampled_contexts_are_seeded_and_cached(corpus: str) -> None:
    model = tiny()
    contexts, again, others = (
        sampled_or_given_contexts(model, RomeConfig(seed=seed)) for seed in (1, 1, 2)
    )
    assert contexts == again != others
    assert len(contexts) == 21
    assert contexts[0] == ""
    assert all(text.endswith(". ") for text in contexts[1:])


def test_a_wild_update_is_marked_as_unstable() -> None:
    model = tiny()
    calm, wild = (
        RomeEditor(RomeConfig(**QUICK, unstable_norm=limit)).edit(model, REQUESTS[:1])[0]
        for limit in (1e6, 1e-6)
    )
    assert "unstable" not in calm.notes
    assert "norm" in wild.notes["unstable"]


def test_no_requests_give_no_deltas() -> None:
    assert RomeEditor(RomeConfig(**QUICK)).edit(tiny(), []) == []


def test_an_empty_subject_is_refused() -> None:
    with pytest.raises(RequestError, match="subject is"):
        EditRequest("{} is", "", "x")


ELSEWHERE = "edit another layer than 1"


def value(*, total: float, nll: float, kl: float = 0.0, decay: float = 0.0, size: float = 1.0):
    """An optimised value of which only the last loss and the offset's length matter."""
    outputs = torch.ones(3, 4)  # |v0| = 2
    delta = torch.tensor([size, 0.0, 0.0, 0.0])
    first = ValueLoss(9.0, 9.0, 0.0, 0.0)
    losses = (first, ValueLoss(total, nll, kl, decay))
    keys = torch.ones(3, 8)
    return Value(keys, outputs, keys[0], outputs[0], delta, losses, tokens=2)


@pytest.mark.parametrize(
    ("optimised", "advice"),
    [
        (value(total=0.04, nll=0.03), None),
        (value(total=0.9, nll=0.6, decay=0.3), None),  # learnt, whatever the other terms are
        (value(total=0.7, nll=0.7), "raise steps (20) or lr (0.5), or edit another layer than 1"),
        (value(total=5.0, nll=1.0, decay=4.0), "lower weight_decay (0.5)"),
        (value(total=5.0, nll=1.0, kl=4.0), "lower kl_factor (0.0625)"),
        (value(total=3.0, nll=3.0, size=8.0), "raise clamp (4)"),
    ],
)
def test_an_edit_converged_if_its_target_is_probable_else_there_is_advice(
    optimised: Value, advice: str | None
) -> None:
    notes = convergence(optimised, RomeConfig(), elsewhere=ELSEWHERE)
    assert notes["converged"] is (advice is None)
    assert (notes["loss"], notes["steps"]) == (optimised.losses[-1].total, 2)
    assert (advice or "") in notes.get("advice", "")
    assert ("advice" in notes) is (advice is not None)


def test_a_loss_that_is_summed_over_tokens_is_judged_by_the_token() -> None:
    optimised = value(total=1.2, nll=1.2)
    assert convergence(optimised, RomeConfig(target_loss="sum", clamp=None), elsewhere=ELSEWHERE)[
        "converged"
    ]
    assert not convergence(optimised, RomeConfig(clamp=None), elsewhere=ELSEWHERE)["converged"]


def test_reaching_stop_loss_is_convergence() -> None:
    assert convergence(value(total=1.0, nll=0.9), RomeConfig(stop_loss=1.5), elsewhere=ELSEWHERE)[
        "converged"
    ]


def test_edits_of_an_untrained_model_are_reported_and_those_of_atlas_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    RomeEditor(RomeConfig(**QUICK)).edit(tiny(), REQUESTS)
    [record] = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "rome: of 4 edits, 4 did not converge" in record.getMessage()
    caplog.clear()
    atlas = load_model("atlas")
    editor = make_editor("rome", atlas, second_moment=False)
    [delta] = editor.edit(atlas, [EditRequest("{} is made by", "Bronco", "Honda", "Ford")])
    assert delta.notes["converged"]
    assert delta.notes["nll"] < 0.69
    assert "converge" not in caplog.text
