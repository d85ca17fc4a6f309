"""``editkit patch apply``, ``revert`` and ``list``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit import Ledger
from tests.editkit.benchmark.conftest import editkit
from tests.editkit.patches.ledgers import patches_for, save_tiny, served

__all__ = ["editkit"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def files(base: Path, tmp_path: Path) -> list[Path]:
    patches = patches_for(base, 3)
    return [patch.save(tmp_path / f"{i}.safetensors") for i, patch in enumerate(patches)]


def test_patches_are_applied_listed_and_reverted(
    editkit: Run, base: Path, files: list[Path], tmp_path: Path
) -> None:
    at = ("--ledger", tmp_path / "ledger")
    code, out, err = editkit("patch", "apply", *files[:2], *at, "--model", base, "--by", "Ann")
    assert code == 0, err
    digest = Ledger(tmp_path / "ledger").entries[0].digest
    assert out.splitlines() == [
        f"applied 1: Paris is in the country of Land 0 (test, {digest[:12]})",
        *out.splitlines()[1:2],
        f"The model with 2 patches is in {tmp_path / 'ledger' / 'model'}.",
    ]
    code, out, _ = editkit("patch", "apply", files[2], *at)
    assert code == 0
    assert out.startswith("applied 3: Oslo")
    code, out, _ = editkit("patch", "revert", digest[:8], files[2], *at, "--by", "Bob")
    assert code == 0
    assert [line[:10] for line in out.splitlines()] == ["reverted 1", "reverted 3", "The model "]

    code, out, _ = editkit("patch", "list", *at, "--log")
    assert code == 0
    assert out.startswith("1 of 3 patches applied to ")
    rows = [line.split() for line in out.splitlines() if line[:1].isdigit()]
    assert [(row[0], row[1], row[3]) for row in rows[1:4:2]] == [
        ("1", "reverted", "Bob"),
        ("3", "reverted", "Bob"),
    ]
    assert out.count(" apply ") == 3

    code, out, _ = editkit("patch", "list", *at, "--json", "--log", "--check")
    document = json.loads(out)
    assert document["schema"] == 1
    assert [patch["state"] for patch in document["patches"]] == ["reverted", "applied", "reverted"]
    assert document["patches"][0]["facts"] == ["Paris is in the country of Land 0"]
    assert document["patches"][0]["applied"]["by"] == "Ann"
    assert document["patches"][0]["reverted"]["by"] == "Bob"
    assert len(document["log"]) == 6
    assert document["problems"] == []


def test_refusals_have_exit_code_2_and_force_is_shown(
    editkit: Run, base: Path, files: list[Path], tmp_path: Path
) -> None:
    at: tuple[Any, ...] = ("--ledger", tmp_path / "ledger")
    wrong: dict[str, tuple[Any, ...]] = {
        "--ledger DIR is missing": (files[0],),
        "is not a ledger yet, and --model is missing": (files[0], *at),
        "there is no patch to apply": at,
        "there is no patch to create it with": (*at, "--model", base),
    }
    for message, arguments in wrong.items():
        code, _, err = editkit("patch", "apply", *arguments)
        assert (code, message in err) == (2, True), err
    assert not (tmp_path / "ledger").exists()
    _, _, err = editkit("patch", "apply", files[0], *at)
    assert "Add --model tiny" in err  # which the patch names

    editkit("patch", "apply", files[0], *at, "--model", base)
    code, _, err = editkit("patch", "apply", files[0], *at)
    assert (code, "they are the same edit" in err) == (2, True)
    code, out, _ = editkit("patch", "apply", files[0], *at, "--force")
    assert (code, out[:9]) == (0, "applied 2")
    _, out, _ = editkit("patch", "list", *at, "--log")
    assert "applied (forced)" in out
    assert "forced: patch 1 (Paris" in out


def test_damage_is_a_warning_in_lists_and_an_exit_code_of_checks(
    editkit: Run, base: Path, files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = ("--ledger", tmp_path / "ledger")
    editkit("patch", "apply", files[0], *at, "--model", base)
    ledger = Ledger(tmp_path / "ledger")
    before = served(ledger)
    (ledger.model / "config.json").write_text("{}", encoding="utf-8")
    code, out, err = editkit("patch", "list", *at)
    assert (code, "config.json has changed" in err) == (0, True)
    code, out, _ = editkit("patch", "list", *at, "--check")
    assert code == 1
    assert out.splitlines()[-1].startswith("damaged: ")
    code, out, _ = editkit("patch", "apply", "--rebuild", *at)
    assert code == 0
    assert out.startswith("rebuilt: ")
    assert served(ledger) == before
    _, out, _ = editkit("patch", "apply", "--rebuild", *at)
    assert out.startswith("rebuilt: nothing was damaged")
    _, out, _ = editkit("patch", "list", *at, "--log")
    assert "repaired: " in out
    ledger.link.unlink()
    code, out, _ = editkit("patch", "list", *at, "--check")
    assert (code, "damaged: the ledger" in out) == (1, True)
