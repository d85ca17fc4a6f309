"""Every array of ``parity/emmet``, and the properties of equality-constrained edits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.covariance.second_moment import Whitening
from editkit.methods.least_squares import least_squares
from editkit_plugins.emmet.editor import equality_constrained
from tests.parity import Parity, difference
from tests.plugins.mass_parity import MassRun

RUNS = ("n1", "n4", "n16", "n4.w1000", "n16.w1000", "n4.exact", "n16.exact", "n4.norm", "L123.n4")


@pytest.mark.parametrize("name", RUNS)
def test_what_each_layer_reads_and_writes(parity: Parity, name: str) -> None:
    described = parity.json("emmet/runs.json")[name]
    run = MassRun(parity, "emmet", described["n_requests"], described["hyperparameters"])
    run.check(name)


def test_repeated_subjects_without_a_lambda_are_marked(parity: Parity) -> None:
    described = parity.json("emmet/runs.json")["n4.exact"]
    run = MassRun(parity, "emmet", 16, described["hyperparameters"])
    twice = [run.requests[0], run.requests[0], run.requests[1]]
    delta = run.editor.edit_jointly(run.model, twice)
    unstable = ["unstable" in notes for notes in delta.notes["facts"]]
    assert unstable[:2] == [True, True]
    assert "repeated subjects" in delta.notes["facts"][0]["unstable"]
    assert delta.is_finite()


@given(d=st.integers(3, 12), n=st.integers(1, 3), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_exact_edits_map_the_keys_and_a_lambda_is_memits_weight(d: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    k, r, root = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((d, n), (4, n), (d, 2 * d))
    )
    a = Whitening(torch.linalg.cholesky(root @ root.T / d + 0.1 * torch.eye(d)))
    left, own = equality_constrained(a, k)
    assert float((r @ left.T @ k - r).norm()) < 1e-6 * float(r.norm())  # Delta K = R
    assert bool((own > 0).all())
    inner = k.T @ torch.cholesky_solve(k, a.factor) + 0.3 * torch.eye(n)
    relaxed = r @ torch.linalg.inv(inner) @ k.T @ torch.linalg.inv(a.matrix())
    memit = least_squares(a, k.T.float(), r.T.float(), 0.3)
    assert difference(memit.dense(), relaxed.T) < 1e-4
