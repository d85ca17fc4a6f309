"""A small model, patches of it, and a ledger with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit import Ledger, Patch
from tests.editkit.patches.ledgers import copied, patches_for, save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def patches(base: Path) -> list[Patch]:
    return patches_for(base)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, base: Path, patches: list[Patch]) -> Ledger:
    """A ledger with the patches 1 and 2 applied and 3 reverted; tests work on copies."""
    ledger = Ledger.create(tmp_path_factory.mktemp("ledger"), base, patches[:3], by="Ann")
    ledger.revert(3, by="Bob")
    return ledger


@pytest.fixture
def ledger(made: Ledger, tmp_path: Path) -> Ledger:
    return copied(made, tmp_path / "ledger")
