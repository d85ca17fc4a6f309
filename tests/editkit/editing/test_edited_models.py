from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch

from editkit import DeltaError, Dense, EditedModels, LowRank, WeightDelta, applied
from editkit.editing.edited_models import CandidateQuery, TextQuery
from editkit.editing.unedited_answers import UneditedAnswers
from editkit.models.encoding import padded
from editkit.models.running import forward
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import EACH, tiny

TEXTS = ["The Space Needle is in the city of", "Paris is", "Zoë Müller works in the field of"]
CANDIDATES = ("Seattle", "physics and São Paulo", "x")


def plain_nll(model, prompt: str, candidate: str) -> float:
    """Whole text, unpadded, alone: the definition."""
    completion = model.complete([prompt], [candidate])[0]
    ids = torch.tensor([completion.prompt + completion.target])
    with torch.no_grad():
        log_p = torch.log_softmax(model.hf(input_ids=ids).logits.float(), dim=-1)[0]
    start = len(completion.prompt) - 1
    return -sum(float(log_p[start + j, t]) for j, t in enumerate(completion.target)) / len(
        completion.target
    )


@pytest.mark.parametrize("name", EACH)
def test_rows_see_their_own_delta(name: str) -> None:
    model = tiny(name)
    deltas = [delta_for(model, s, kinds=k) for s, k in enumerate(["l", "r", "d", "", "lrd"])]
    edits = [4, 0, 3, 1, 2, 0, 4]
    rows = [model.encode([TEXTS[i % 3]])[0].ids for i in range(len(edits))]
    ids = padded(rows, "cpu")
    before = model.weights_digest()
    with torch.no_grad():
        with EditedModels(model, deltas).rows(edits):
            together = model.head(forward(model, ids))
        for b, edit in enumerate(edits):
            with applied(model, deltas[edit]):
                alone = model.head(forward(model, ids[b : b + 1, : len(rows[b])]))
            torch.testing.assert_close(together[b, : len(rows[b])], alone[0], rtol=1e-4, atol=1e-4)
    assert model.weights_digest() == before
    assert not any(module._forward_hooks for module in model.hf.modules())


def test_weights_that_changed_unseen_are_noticed_unless_the_caller_reads_them() -> None:
    model = tiny("gpt2")
    delta = delta_for(model, 1)
    next(model.hf.parameters()).data.add_(1)
    EditedModels(model, [delta], weights_known=True)
    with pytest.raises(DeltaError):
        EditedModels(model, [delta])


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("budget", [8, 64, 16384])
def test_candidates_score_as_defined(name: str, budget: int) -> None:
    """Every batching gives what each text alone gives under really changed weights."""
    model = tiny(name, begin=name == "llama")
    deltas = [delta_for(model, 1), delta_for(model, 2, kinds="l"), delta_for(model, kinds="")]
    queries = [
        CandidateQuery(edit, prompt, CANDIDATES[: 1 + (edit + i) % 3])
        for edit in (2, 0, 1)
        for i, prompt in enumerate(TEXTS)
    ]
    actual = EditedModels(model, deltas, token_budget=budget).candidate_nll(queries)
    for query, row in zip(queries, actual, strict=True):
        assert len(row) == len(query.candidates)
        with applied(model, deltas[query.edit]):
            for candidate, value in zip(query.candidates, row, strict=True):
                assert math.isclose(
                    value, plain_nll(model, query.prompt, candidate), rel_tol=1e-4, abs_tol=1e-4
                )


def test_changes_of_tied_embeddings_are_scored_one_model_at_a_time() -> None:
    model = tiny()
    values = torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) / 4
    delta = dataclasses.replace(
        delta_for(model, kinds=""), changes={"transformer.wte.weight": Dense(values)}
    )
    models = EditedModels(model, [delta_for(model, 1), delta])
    queries = [CandidateQuery(e, TEXTS[0], CANDIDATES) for e in (1, 0)]
    actual = models.candidate_nll(queries)
    for query, row in zip(queries, actual, strict=True):
        with applied(model, models.deltas[query.edit]):
            expected = [plain_nll(model, query.prompt, c) for c in CANDIDATES]
        assert row == pytest.approx(expected, rel=1e-4)


def test_unedited_is_the_model_itself() -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, 1)] * 2)
    [[value]] = models.unedited().candidate_nll([CandidateQuery(1, TEXTS[0], ("Seattle",))])
    assert value == pytest.approx(plain_nll(model, TEXTS[0], "Seattle"), rel=1e-5)
    assert len(models.unedited()) == 2


def test_no_queries_give_no_answers() -> None:
    model = tiny()
    assert EditedModels(model, []).candidate_nll([]) == []


def tensor_bytes(value: object, seen: set[int]) -> int:
    """Bytes of all tensors that a function holds in its closure, each counted once."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(value, list | tuple):
        return sum(tensor_bytes(each, seen) for each in value)
    cells = getattr(value, "__closure__", None) or ()
    return sum(tensor_bytes(cell.cell_contents, seen) for cell in cells)


def test_requests_of_a_joint_edit_share_the_memory_of_its_delta() -> None:
    model = tiny()
    path = model.path(1, "mlp_out")
    n_requests, rank = 200, 100
    left, right = torch.randn(128, rank) / 100, torch.randn(rank, 32) / 100
    delta = dataclasses.replace(
        delta_for(model, kinds=""), changes={f"{path}.weight": LowRank(left, right)}
    )
    models = EditedModels(model, [delta] * n_requests)
    with models.rows(range(n_requests)):
        [hook] = model.module(path)._forward_hooks.values()
        held = tensor_bytes(hook, {left.data_ptr(), right.data_ptr()})
    assert held <= 1.1 * (left.nbytes + right.nbytes)


def test_edits_that_share_a_delta_run_a_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    delta = delta_for(model, 1)
    notes = dataclasses.replace(delta, notes={"loss": 0.1})  # of one request of a joint edit
    models = EditedModels(model, [delta, notes, delta_for(model, 1), delta])
    asked: list[int] = []
    states_after = EditedModels.states_after
    monkeypatch.setattr(
        EditedModels,
        "states_after",
        lambda self, texts: asked.extend(e for e, _ in texts) or states_after(self, texts),
    )
    queries = [CandidateQuery(edit, text, CANDIDATES) for edit in range(4) for text in TEXTS]
    answers = models.candidate_nll(queries)
    assert set(asked) == {0, 2}  # edit 2 has a delta of its own
    for edit in (1, 3):
        assert answers[3 * edit : 3 * edit + 3] == answers[:3]
    n_texts = len(asked)
    models.candidate_nll(queries)
    assert len(asked) == n_texts
    assert len(models.unedited().text_nll([TextQuery(edit, "Rome is") for edit in range(4)])) == 4


@pytest.mark.parametrize("rank", [25, 26, 60])  # D H / (D + H) = 25.6
def test_a_shared_change_of_any_rank_is_applied_to_its_rows(rank: int) -> None:
    model = tiny()
    path = model.path(1, "mlp_out")
    generator = torch.Generator().manual_seed(rank)
    factors = [torch.randn(n, m, generator=generator) / 8 for n, m in ((128, rank), (rank, 32))]
    joint = dataclasses.replace(
        delta_for(model, kinds=""), changes={f"{path}.weight": LowRank(*factors)}
    )
    for edits in ([0, 0, 0], [0, 1, 0]):  # the whole batch, and two rows of three
        models = EditedModels(model, [joint, delta_for(model, 2, kinds="l"), joint])
        rows = [model.encode([text])[0].ids for text in TEXTS]
        ids = padded(rows, "cpu")
        with torch.no_grad():
            with models.rows(edits):
                together = model.head(forward(model, ids))
            for b, edit in enumerate(edits):
                with applied(model, models.deltas[edit]):
                    alone = model.head(forward(model, ids[b : b + 1, : len(rows[b])]))
                torch.testing.assert_close(
                    together[b, : len(rows[b])], alone[0], rtol=1e-4, atol=1e-4
                )


@pytest.mark.parametrize("kinds", ["l", "r", "d", "lrd"])
def test_rows_that_share_a_delta_score_as_with_a_delta_of_their_own(kinds: str) -> None:
    model = tiny()
    shared, other = delta_for(model, 1, kinds=kinds), delta_for(model, 2, kinds="l")
    copies = [dataclasses.replace(shared, changes=delta_for(model, 1, kinds=kinds).changes)] * 2
    queries = [CandidateQuery(e, text, CANDIDATES) for e in (0, 1, 2) for text in TEXTS]
    joint = EditedModels(model, [shared, shared, other]).candidate_nll(queries)
    own = EditedModels(model, [shared, copies[0], other]).candidate_nll(queries)
    for a, b in zip(joint, own, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_the_unedited_model_is_asked_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    asked: list[int] = []
    states_after = EditedModels.states_after
    monkeypatch.setattr(
        EditedModels,
        "states_after",
        lambda self, texts: asked.append(len(texts)) or states_after(self, texts),
    )
    known = UneditedAnswers(most=3)
    edits = [delta_for(model, 1), delta_for(model, 2)]

    def before(some: list[WeightDelta], texts: Sequence[str]) -> list[list[float]]:
        models = EditedModels(model, some, known=known).unedited()
        return models.candidate_nll([CandidateQuery(0, text, CANDIDATES) for text in texts])

    answers = before(edits[:1], TEXTS)
    assert before(edits[::-1], TEXTS) == answers
    assert len(asked) == 1
    before(edits, TEXTS[:1])  # another batch: other bits are possible
    assert len(asked) == 2
    assert before(edits, TEXTS) == answers  # dropped for the other batch, and equal in every bit
    assert len(asked) == 3
    with applied(model, edits[0]):
        assert before(edits[:1], TEXTS) != answers
