"""The update in the null space: plain oracle, both forms, preserved keys, state of any size."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editkit.covariance.second_moment import SecondMoment
from editkit_plugins.alphaedit.null_space import (
    EarlierKeys,
    kept_basis,
    null_space_update,
    projected,
)
from tests.parity import difference
from tests.plugins.alphaedit import oracle

D, H = 24, 5


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EARLIER = drawn(7, 60, D)


@functools.cache
def moment(rank: int, seed: int = 0) -> SecondMoment:
    """C of keys that use only some directions, and hardly use the others."""
    keys = drawn(seed, 200, rank) @ drawn(seed + 1, rank, D) + 1e-3 * drawn(seed + 2, 200, D)
    return SecondMoment((keys.T @ keys).double().div(200).float(), 200)


def earlier_keys(n: int) -> EarlierKeys:
    """The first keys of all, added a few at a time."""
    state = EarlierKeys()
    for some in EARLIER[:n].split(7):
        state = state.with_more(some)
    return state


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(0, 20),
    earlier=st.sampled_from([0, 1, 10, 23, 24, 25, 60]),
    n=st.sampled_from([1, 2, 6, 30]),
    weight=st.sampled_from([1e-2, 1.0, 10.0]),
)
def test_the_update_is_that_of_the_plain_primal_form(
    rank: int, earlier: int, n: int, weight: float
) -> None:
    c, keys, residuals = moment(rank), drawn(3, n, D), drawn(4, n, H)
    basis, state = kept_basis(c, 1e-2), earlier_keys(earlier)
    change = null_space_update(basis, state, keys, residuals, weight).dense()
    p = oracle.projector(c.matrix.double().numpy(), 1e-2)
    k_0 = EARLIER[:earlier].double().numpy()
    expected = oracle.update(
        p, k_0.T @ k_0, keys.double().numpy(), residuals.double().numpy(), weight
    )
    assert difference(change, torch.from_numpy(expected)) < 1e-6


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 20),
    earlier=st.sampled_from([0, 5, 60]),
    n=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_preserved_keys_keep_their_outputs(rank: int, earlier: int, n: int, seed: int) -> None:
    """Delta k = 0 for any key among the directions that the corpus uses."""
    c = moment(rank, 100 + seed)
    basis = kept_basis(c, 1e-2)
    delta = null_space_update(
        basis, earlier_keys(earlier), drawn(seed, n, D), drawn(seed + 1, n, H), 1.0
    ).dense()
    assert basis.shape[1] == rank
    preserved = drawn(seed + 2, 9, rank).double() @ basis.T  # (9, D)
    moved = preserved @ delta.double()  # (9, H)
    assert float(moved.norm()) < 1e-6 * float(preserved.norm() * delta.norm())
    assert float(projected(basis, preserved.T).norm()) < 1e-12 * float(preserved.norm())


def test_the_state_never_takes_more_than_the_sum_of_all_products() -> None:
    for n in (1, D, D + 1, 60):
        state = earlier_keys(n)
        assert (state.total is None) == (n <= D)
        assert len(state) == (n if n <= D else 0)
        products = state.products()
        assert isinstance(products, Tensor)
        assert difference(products, EARLIER[:n].double().T @ EARLIER[:n].double()) < 1e-12


def test_the_basis_is_computed_once_for_a_second_moment_and_a_threshold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    c = moment(6)
    first = kept_basis(c, 1e-2)
    wide = kept_basis(c, 1e-9)
    assert first.shape[1] == 6 < wide.shape[1]
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert torch.equal(kept_basis(c, 1e-2), first)
    with pytest.raises(TypeError):
        kept_basis(moment(7), 1e-2)
    np.testing.assert_allclose(first.T @ first, np.eye(6), atol=1e-12)
