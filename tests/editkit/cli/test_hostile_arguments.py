"""Impossible arguments, paths and caches are clear errors with the right exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit import CacheError, Dataset, DatasetError, EditRequest, Record, Records
from editkit.benchmark.inputs import load_records
from editkit.cli import main as command_line
from editkit.data_types import RejectedRecord
from editkit.records.reading import read_json
from editkit.storage.cache import cache_folder, cached_tensors, cached_texts

Cli = Callable[..., tuple[int, str, str]]
BAD_PATHS = [
    "",
    "https://u:p@h/x",
    "s3:/a/b",
    "nul\0",
    "x" * 5000,
    "a/" + "y" * 256,
    "a/" * 3000,
    "\udce9",
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: repr(path[:6]))
@pytest.mark.parametrize(
    "command",
    [
        ("run-benchmark", "small", "--out"),
        ("report",),
        ("report", "out", "--to"),
        ("merge", "all"),
        ("merge",),
        ("show-generations", "1", "--out"),
        ("statistics", "atlas", "--out"),
        ("new-plugin", "mine", "--out"),
    ],
    ids=" ".join,
)
def test_impossible_paths_are_a_usage_error(
    command: tuple[str, ...], path: str, fake_world: Path, editkit: Cli
) -> None:
    rest = ("shard",) if command == ("merge",) else ()
    code, out, err = editkit(*command, path, *rest)
    assert (code, out) == (2, "")
    assert "unexpected" not in err
    assert len(err) < 1500


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_unencodable_texts_are_a_usage_error(text: str, fake_world: Path, editkit: Cli) -> None:
    for command in (
        ("run-benchmark", text),
        ("run-benchmark", "small", "--model", text),
        ("run-benchmark", "small", "--set", f"name={text}"),
        ("run-benchmark", "small", "--editor", text),
        ("describe", text),
    ):
        code, out, err = editkit(*command)
        assert (code, out) == (2, "")
        assert "unexpected" not in err


def test_impossible_benchmark_names_are_refused(fake_world: Path, editkit: Cli) -> None:
    for name in ("x" * 5000 + ".yaml", "a/" * 3000 + "b.yaml", "."):
        code, _, err = editkit("run-benchmark", name)
        assert code in (2, 3)
        assert "unexpected" not in err


def test_a_report_is_not_written_over_a_folder(
    fake_world: Path, editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert editkit("run-benchmark", "small", "--out", out, "--no-mlflow", "--limit", 3)[0] == 0
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    for target in (".", "..", "/", "out", "./", "file/x"):
        code, text, err = editkit("report", out, "--format", "text", "--to", target)
        assert (code, text) == (2, "")
        assert "cannot write the report to" in err
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out", "site"]


def test_a_report_replaces_neither_results_nor_devices(
    fake_world: Path, editkit: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert editkit("run-benchmark", "small", "--out", out, "--no-mlflow", "--limit", 3)[0] == 0
    store = out / "results.sqlite"
    before = store.read_bytes()
    (tmp_path / "link").symlink_to(store)
    for target in (store, tmp_path / "link"):
        code, text, err = editkit("report", out, "--format", "text", "--to", target)
        assert (code, text) == (2, "")
        assert "it is a database, which is not replaced" in err
    assert store.read_bytes() == before
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert editkit("report", out, "--to", pipe)[0] == 0
        assert b"3 records of" in os.read(reader, 4000)
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_file_where_a_folder_belongs_is_a_store_error(
    fake_world: Path, editkit: Cli, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert editkit("run-benchmark", "small", "--out", out)[0] == 4
        assert editkit("report", out)[0] == 4
        assert editkit("merge", out, tmp_path)[0] == 4


@pytest.mark.parametrize("shard", ["0/0", "2/1", "-1/2", "1/", "/", "a/b", "1/2/3", "1.0/2", ""])
def test_malformed_shards_are_refused(shard: str, fake_world: Path, editkit: Cli) -> None:
    code, out, err = editkit("run-benchmark", "small", "--shard", shard)
    assert (code, out) == (2, "")
    assert "unexpected" not in err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), "cannot use '/x': File name"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "cannot use '/x': Perm"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "cannot write the output: No space",
        ),
    ],
)
def test_system_errors_are_reported(
    error: OSError,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(command_line, "_run", fail)
    monkeypatch.setattr(command_line, "_discard_stdout", lambda: None)
    assert command_line.main([]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full", ">&- 2>&-"])
def test_an_output_that_is_closed_or_full(redirection: str, tmp_path: Path) -> None:
    script = f'"{sys.executable}" -m editkit plugins --json {redirection}'
    environment = {**os.environ, "EDITKIT_DISABLE_PLUGINS": "editkit"}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == (2 if "full" in redirection else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


# ---------------------------------------------------------------- caches


@pytest.mark.parametrize("kind", ["file", "below a file", "proc"])
def test_a_cache_that_cannot_be_written_is_a_cache_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    (tmp_path / "file").write_text("", encoding="utf-8")
    place = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}
    monkeypatch.setenv("EDITKIT_CACHE", str(place.get(kind, "/proc/none")))
    with pytest.raises(CacheError, match="cannot be written"):
        cached_texts("kind", {"a": 1}, lambda: ["text"])
    with pytest.raises(CacheError, match="cannot be written") as caught:
        cached_tensors("kind", {"a": 1}, lambda: {"x": torch.ones(1)})
    assert caught.value.exit_code == 2


def test_errors_of_the_computation_are_not_cache_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))

    def make() -> list[str]:
        raise FileNotFoundError("corpus.txt")

    with pytest.raises(FileNotFoundError, match=r"corpus\.txt"):
        cached_texts("kind", {"a": 1}, make)


def test_a_cache_of_an_unknown_user_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", "~no-such-user-of-editkit/cache")
    with pytest.raises(CacheError, match="is unknown"):
        cache_folder()


# ---------------------------------------------------------------- records


class _Given(Dataset[None]):
    def __init__(self, records: Records) -> None:
        self.records = records

    def load(self) -> Records:
        return self.records


@pytest.mark.parametrize("loaded", [None, [], 5, "x", Records(("x",), "d"), Records(5, "d")])
def test_a_dataset_that_does_not_load_records_is_an_error(loaded: object) -> None:
    with pytest.raises(DatasetError, match="dataset 'mine' of test loaded .*, expected"):
        load_records(_Given(loaded), _Offer())


class _Offer:
    name = "mine"
    source = "test"


def test_a_dataset_whose_records_are_all_broken_says_why() -> None:
    rejected = [
        *(RejectedRecord(str(i), f"paraphrases[{i}]", "is missing") for i in range(5)),
        *(RejectedRecord(str(i), "subject", "is 3, expected a text") for i in range(5, 7)),
        *(RejectedRecord(str(i), f"field {i}", "is empty") for i in range(7, 10)),
    ]
    with pytest.raises(DatasetError) as caught:
        load_records(_Given(Records((), "d", tuple(rejected))), _Offer())  # type: ignore[arg-type]
    message = caught.value.message
    assert "(10 were rejected): 5 x paraphrases[]: is missing (first: 0, paraphrases[0])" in message
    assert "2 x subject: is 3, expected a text (first: 5)" in message
    assert "2 other reasons" in message


@pytest.mark.parametrize("case_id", ["1", 1.0, True, -1, 2**63, None])
def test_case_ids_are_whole_numbers(case_id: object) -> None:
    record = Record(case_id, EditRequest("{} is in", "Rome", "Oslo"))  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="case id"):
        load_records(_Given(Records((record,), "d")), _Offer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"a": 1, "a": 2}]', "the key 'a' occurs twice"),
        ("[" * 100_000, "is not JSON"),
        ("[" + "9" * 5000 + "]", "is not JSON"),
        ("[1", "is not JSON"),
    ],
)
def test_ambiguous_json_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=problem):
        read_json(tmp_path / "records.json")


@pytest.mark.parametrize("name", ["nul\0", "x" * 5000, "."])
def test_records_from_paths_that_are_not_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        read_json(tmp_path / name)


BAD_CASE_IDS = ['"1"', "1.0", "true", "NaN", "-1", "1e3", str(2**63), "null", "[1]"]


@pytest.mark.parametrize("case_id", BAD_CASE_IDS)
def test_case_ids_in_a_file_are_whole_numbers(case_id: str, tmp_path: Path) -> None:
    from editkit.records.reading import BrokenFieldError, Node

    (tmp_path / "r.json").write_text(f'[{{"case_id": {case_id}}}]', encoding="utf-8")
    [raw] = read_json(tmp_path / "r.json")  # type: ignore[misc]
    with pytest.raises(BrokenFieldError):
        Node(raw)["case_id"].case_id()
    assert json.dumps(raw)
