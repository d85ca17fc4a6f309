"""A hub dataset is pinned to one commit, which keys of results contain."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from editkit.covariance.corpora import Corpus
from editkit.records.hub import dataset_version, pinned_commit

COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What the hub answers, without the network; an empty list: it cannot be reached."""
    answers: list[str | None] = []

    class Api:
        def dataset_info(self, name: str, **options: object) -> types.SimpleNamespace:
            if not answers:
                raise ConnectionError("offline")
            return types.SimpleNamespace(sha=answers[-1])

    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return answers


def test_a_commit_is_looked_up_once_and_stored(hub: list[str | None], tmp_path: Path) -> None:
    offline = Corpus("hub:some/texts").digest()
    assert (pinned_commit("some/texts"), dataset_version("some/texts")) == (None, "unknown")
    hub.append(COMMITS[0])
    first = Corpus("hub:some/texts").digest()
    hub.append(COMMITS[1])  # a new commit is not taken for the one that was read
    assert pinned_commit("some/texts") == COMMITS[0]
    hub.clear()
    assert pinned_commit("some/texts") == COMMITS[0]
    assert Corpus("hub:some/texts").digest() == first != offline
    [kept] = (tmp_path / "cache" / "hub").iterdir()
    hub.append(COMMITS[1])
    kept.write_text("{", encoding="utf-8")
    assert Corpus("hub:some/texts").digest() not in (first, offline)


def test_the_hubs_own_cache_provides_a_commit(hub: list[str | None], tmp_path: Path) -> None:
    refs = tmp_path / "hub" / "datasets--some--texts" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMITS[1], encoding="utf-8")
    assert dataset_version("some/texts") == COMMITS[1]


def test_the_pinned_commit_is_the_one_that_is_read(
    hub: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    asked: dict[str, object] = {}

    def load_dataset(*names: object, **options: object) -> list[dict[str, str]]:
        asked.update(options)
        return [{"text": "one"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub.append(COMMITS[0])
    assert list(Corpus("hub:some/texts").texts()) == ["one"]
    assert asked["revision"] == COMMITS[0]


def test_the_version_of_a_folder_is_the_digest_of_its_files(
    hub: list[str | None], tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.txt").write_text("one", encoding="utf-8")
    before = Corpus(f"hub:{rows}").digest()
    (rows / "a.txt").write_text("two", encoding="utf-8")
    assert Corpus(f"hub:{rows}").digest() != before
    assert pinned_commit(str(rows)) is None
