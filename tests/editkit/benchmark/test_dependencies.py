"""What a configuration's files hold is part of what results depend on, whoever wrote its class."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from editkit import Config, ConfigError
from editkit.benchmark.dependencies import contents_of, dependencies
from editkit.cli.main import main
from editkit.covariance.corpora import Corpus
from editkit.interfaces import CorpusName, FileName, NotRead
from editkit.storage.digests import digest_of_file


class Section(BaseModel):
    table: FileName | None = None


class Everything(Config):
    """As somebody might write it who never heard of ``depends_on``."""

    path: Path | None = None
    paths: tuple[Path, ...] = ()
    pair: tuple[int, Path] | None = None
    by_name: dict[str, Path] = {}
    either: str | Path | None = None
    keyed: dict[Path, int] = {}
    unread: Annotated[dict[Path, int], NotRead()] = {}
    corpus: CorpusName | None = None
    corpora: list[CorpusName] = []
    section: Section = Section()
    out: Annotated[Path, NotRead()] | None = None
    text: str = "not a file"
    number: int = 3


def linked(folder: Path) -> Path:
    """A folder that holds nothing but a link to another folder, and a link to itself."""
    around = folder.parent / "around"
    around.mkdir()
    (around / "inside").symlink_to(folder, target_is_directory=True)
    (around / "around").symlink_to(around, target_is_directory=True)
    return around / "inside"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "a.txt"
    path.parent.mkdir()
    path.write_text("one\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (lambda file: {"path": file}, "path"),
        (lambda file: {"paths": (file,)}, "paths.0"),
        (lambda file: {"pair": (1, file)}, "pair.1"),
        (lambda file: {"by_name": {"x": file}}, "by_name.x"),
        (lambda file: {"either": file}, "either"),
        (lambda file: {"corpus": str(file)}, "corpus"),
        (lambda file: {"corpora": [str(file)]}, "corpora.0"),
        (lambda file: {"section": {"table": str(file)}}, "section.table"),
        (lambda file: {"path": file.parent}, "path"),
        (lambda file: {"path": linked(file.parent)}, "path"),
        (lambda file: {"path": linked(file.parent).parent}, "path"),
    ],
)
def test_every_file_that_a_configuration_names_counts(file: Path, values: Any, place: str) -> None:
    config = Everything(**values(file))
    before = contents_of(config)
    assert list(before) == [place]
    assert contents_of(config) == dependencies(config, "f", name="x") == before
    file.write_text("two\n", encoding="utf-8")
    after = contents_of(config)
    assert after != before
    file.write_text("one\n", encoding="utf-8")
    assert contents_of(config) == before
    if config.path is None or config.path == file.parent:
        shutil.rmtree(file.parent)
        with pytest.raises(ConfigError):
            contents_of(config)


def test_files_that_are_keys_count(file: Path) -> None:
    config = Everything(keyed={file: 1}, unread={file.parent / "not there": 1})
    before = contents_of(config)
    assert list(before) == [f"keyed at {file}"]
    file.write_text("two\n", encoding="utf-8")
    assert contents_of(config) != before


def test_values_that_name_no_file_do_not_count(tmp_path: Path) -> None:
    assert contents_of(Everything(out=tmp_path / "not there")) == {}


def test_a_class_that_forgets_its_base_still_has_its_files(file: Path) -> None:
    class Forgetful(Config):
        table: Path

        def depends_on(self, model_fingerprint: str, name: str) -> Mapping[str, str]:
            return {"more": f"{model_fingerprint} {name}"}

    assert dependencies(Forgetful(table=file), "f", name="x") == {
        "table": digest_of_file(str(file)),
        "more": "f x",
    }


@pytest.mark.parametrize(
    "name",
    [
        "nowhere.txt",
        "editkit:nowhere.txt",
        "editkit.storage.cache:a",
        "a\0b",
        ".",
        "~nobody-here/a.txt",
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_not_an_empty_digest(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read|cannot find"):
        digest_of_file(name)


def test_a_corpus_is_read_once_for_a_key(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    calls = []
    monkeypatch.setattr(Corpus, "digest", lambda corpus: str(calls.append(corpus)))
    assert dependencies(Everything(corpus=str(file)), "f", name="x") == {"corpus": "None"}
    assert len(calls) == 1


def fingerprint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    run = ["run-benchmark", "--model", "atlas", "--limit", "1", "--dry-run", "--json", *arguments]
    assert main(run) == 0
    return str(json.loads(capsys.readouterr().out)["cells"][0]["fingerprint"])


@pytest.mark.parametrize("field", ["corpus", "second_moment_file"])
def test_a_cell_of_rome_follows_its_corpus(
    field: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--editor", "rome", "--set", f"editors.rome.{field}={file}"]
    first = fingerprint(capsys, *sets)
    file.write_text("other\n", encoding="utf-8")
    second = fingerprint(capsys, *sets)
    file.write_text("one\n", encoding="utf-8")
    assert fingerprint(capsys, *sets) == first != second


def test_a_cell_of_a_trained_editor_follows_the_weights_that_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the readable copy beside them, which may be missing or stale."""
    import editkit_benchmarks.atlas as atlas

    shipped = Path(atlas.__file__).parent / "trained"
    folder = tmp_path / "trained"
    shutil.copytree(shipped / "mend", folder)
    sets = ["--editor", "mend-cf", "--set", f"editors.mend-cf.trained={folder}"]
    first = fingerprint(capsys, *sets)
    weights = folder / "editor.safetensors"
    shutil.copy(shipped / "mend-cf" / "editor.safetensors", weights)
    second = fingerprint(capsys, *sets)
    assert second != first
    (folder / "editor.json").unlink()
    assert fingerprint(capsys, *sets) == second
    shutil.copy(shipped / "mend" / "editor.safetensors", weights)
    assert fingerprint(capsys, *sets) == first
    weights.unlink()
    assert main(["run-benchmark", "--limit", "1", "--dry-run", *sets]) == 2
    assert "cannot be read" in capsys.readouterr().err
