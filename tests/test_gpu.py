"""The same results on a GPU: identity, restoring, editing, scoring, tracing, windows.

Run with ``pytest -m gpu`` on a machine that has one; no other test needs it.
"""

from __future__ import annotations

import pytest
import torch

from editkit import EditedModels, Fact, LanguageModel, applied
from editkit.covariance.second_moment import Whitening, compute_second_moment
from editkit.editing.edited_models import CandidateQuery, GenerationQuery, TextQuery
from editkit.editing.gradients import LowerBlocks, edit_gradients
from editkit.models.running import forward
from editkit_plugins.finetune.config import FineTuneConfig
from editkit_plugins.finetune.editor import FineTuneEditor
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.trained import new_network
from editkit_plugins.memit.config import MemitConfig
from editkit_plugins.memit.editor import MemitEditor
from editkit_plugins.rome.editor import RomeEditor
from editkit_plugins.tracing.causal_tracing import CausalTracingLocator
from editkit_plugins.tracing.config import CausalTracingConfig
from tests.editkit.editing.test_deltas import delta_for
from tests.parity import difference
from tests.plugins.rome.oracle import solve_plainly
from tests.plugins.test_windows import REQUESTS, ROME
from tests.plugins.tracing.test_causal_tracing import assert_close, both_ways
from tests.sliding_window_models import EACH_FAMILY, EACH_WINDOWED, windowed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.fixture(autouse=True)
def full_precision() -> None:
    assert not torch.backends.cuda.matmul.allow_tf32


def on_gpu(name: str = "gpt2", *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    model = windowed(name, 6)
    return LanguageModel(model.hf.to("cuda", dtype), model.tokenizer, name=model.name)


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_a_model_is_the_same_on_both_devices(name: str) -> None:
    assert on_gpu(name).fingerprint == windowed(name, 6).fingerprint


def test_weights_that_change_on_the_gpu_are_noticed() -> None:
    model = on_gpu()
    before = model.fingerprint
    weight = model.hf.get_parameter("transformer.h.1.mlp.c_proj.weight")
    weight.data[3, 5] += 1.0
    assert model.fingerprint != before
    weight.data[3, 5] -= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_restoring_is_exact_in_any_order_of_exit(dtype: torch.dtype) -> None:
    model = on_gpu(dtype=dtype)
    before = model.weights_digest()
    first, second = (applied(model, delta_for(model, seed=seed)) for seed in (1, 2))
    first.__enter__()
    second.__enter__()
    assert model.weights_digest() != before
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert model.weights_digest() == before


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_rome_is_that_of_whole_rows_and_of_the_cpu(name: str) -> None:
    model = on_gpu(name)
    fast = RomeEditor(ROME).solve(model, REQUESTS)
    plain = solve_plainly(RomeEditor(ROME), model, REQUESTS)
    cpu = RomeEditor(ROME).solve(windowed(name, 6), REQUESTS)
    for solution, whole, other in zip(fast, plain, cpu, strict=True):
        assert difference(solution.right, whole.right) < 1e-3
        assert difference(solution.right.cpu(), other.right) < 1e-3


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_scores_are_those_of_the_cpu(name: str) -> None:
    model, cpu = on_gpu(name), windowed(name, 6)
    deltas = FineTuneEditor(FineTuneConfig(layer=1, steps=2)).edit(cpu, REQUESTS)
    answers = []
    for each in (model, cpu):
        edited = EditedModels(each, deltas)
        candidates = ("Paris", "Seattle and Rome", "x")
        asked = [CandidateQuery(i, r.sentence, candidates) for i, r in enumerate(REQUESTS)]
        texts = edited.text_nll([TextQuery(i, r.sentence) for i, r in enumerate(REQUESTS)])
        answers.append([*edited.candidate_nll(asked), *texts])
    for actual, expected in zip(*answers, strict=True):
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_half_precision_scores_are_those_of_rows_alone(name: str, dtype: torch.dtype) -> None:
    model = on_gpu(name, dtype=dtype)
    asked = [CandidateQuery(0, r.sentence, ("Seattle and Rome", "x")) for r in REQUESTS]
    actual = EditedModels(model, [delta_for(model, kinds="")]).candidate_nll(asked)
    for query, row in zip(asked, actual, strict=True):
        for candidate, value in zip(query.candidates, row, strict=True):
            [completion] = model.complete([query.prompt], [candidate])
            ids = torch.tensor([completion.prompt + completion.target], device=model.device)
            with torch.no_grad():
                log_p = torch.log_softmax(model.head(forward(model, ids)), dim=-1)[0]
            first, n = len(completion.prompt) - 1, len(completion.target)
            wanted = torch.tensor(completion.target, device=model.device)[:, None]
            expected = -float(log_p[first : first + n].gather(1, wanted).mean())
            assert value == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("name", EACH_WINDOWED)
def test_traces_are_those_of_whole_prompts(name: str) -> None:
    model = on_gpu(name)
    assert_close(*both_ways(model, Fact("They say Rome is", "Rome", "Lima"), window=2, samples=1))


def test_traces_are_those_of_the_cpu() -> None:
    locator = CausalTracingLocator(CausalTracingConfig(window=2, samples=2, noise_level=0.1))
    fact = Fact("They say Rome is", "Rome", "Lima")
    for actual, expected in zip(
        *(locator.maps(each, [fact])[0] for each in (on_gpu(), windowed("gpt2", 6))), strict=True
    ):
        for row, other in zip(actual.scores, expected.scores, strict=True):
            assert row == pytest.approx(other, rel=1e-3, abs=1e-6)
        assert actual.baselines == pytest.approx(expected.baselines, rel=1e-3, abs=1e-6)


def test_statistics_and_solves_are_those_of_the_cpu() -> None:
    model, cpu = on_gpu(), windowed("gpt2", 6)
    texts = ["Rome is the capital of Italy.", "They say Paris is large.", "Lima"]
    path = model.path(1, "mlp_out")
    moment = compute_second_moment(model, path, texts)
    expected = compute_second_moment(cpu, path, texts)
    assert moment.count == expected.count
    assert difference(moment.matrix, expected.matrix) < 1e-4
    whitening = Whitening.of(expected, 0.1)
    key = torch.randn(3, len(expected.matrix), generator=torch.Generator().manual_seed(0))
    solved = whitening.solve(key.to("cuda"))
    assert solved.device.type == "cuda"
    assert difference(solved.cpu(), whitening.solve(key)) < 1e-5


def test_memit_is_that_of_the_cpu() -> None:
    values = {"layers": (0, 1), "steps": 4, "second_moment": False, "context_lengths": ()}
    deltas = [
        MemitEditor(MemitConfig(**values)).edit_jointly(each, REQUESTS)
        for each in (on_gpu(), windowed("gpt2", 6))
    ]
    assert deltas[0].changes.keys() == deltas[1].changes.keys()
    for name, change in deltas[0].changes.items():
        assert difference(change.dense().cpu(), deltas[1].changes[name].dense()) < 1e-3


@pytest.mark.parametrize("settings", [MendSettings(rank=4, blocks=1), KeSettings(blocks=1)])
def test_learned_edits_are_those_of_the_cpu(settings: MendSettings | KeSettings) -> None:
    changes = []
    for model in (on_gpu(), windowed("gpt2", 6)):
        facts = [[each.completion] for each in model.requested(REQUESTS)]
        network = new_network(model, settings)
        below = LowerBlocks(model, model.n_layers - settings.blocks)
        gradients = edit_gradients(below, facts, network.paths)
        network.update_statistics(gradients)
        with torch.no_grad():
            changed = network.eval().changes(gradients, facts)
        changes.append({name: each.low_rank(0).dense().cpu() for name, each in changed.items()})
    for name, change in changes[0].items():
        assert difference(change, changes[1][name]) < 1e-3


def test_texts_do_not_depend_on_what_is_written_beside() -> None:
    model = on_gpu()
    [delta] = RomeEditor(ROME).edit(model, REQUESTS[:1])
    asked = [GenerationQuery(0, prompt, "x") for prompt in ("Paris", "Rome is the capital of")]
    together = EditedModels(model, [delta]).generate(asked, tokens=30)
    alone = [EditedModels(model, [delta]).generate([query], tokens=30)[0] for query in asked]
    assert together == alone
