from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
import threading
from pathlib import Path

import pytest

from editkit import StoreError
from editkit.benchmark.merge import merge
from editkit.benchmark.output_lock import check_folder, exclusive
from editkit.benchmark.store import Store
from editkit.results import ModelRow, Row


def row(case_id: int, score: float = 0.5) -> Row:
    return Row(case_id, "done", {"x/score": score}, {"xs": [score]}, {"edit_s": 0.1}, {"loss": 0.2})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "results.sqlite"


def spoil(path: Path, case_id: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE rows SET payload = replace(payload, '0.5', '0.9') WHERE case_id = ?", (case_id,)
        )
    connection.close()


def test_rows_come_back_as_they_were_and_in_order(path: Path) -> None:
    with Store(path) as store:
        store.put_cell("f", {"cell": {"editor": "one"}})
        store.put_rows("f", [row(3), row(1, 1 / 3)])
        store.put_rows("f", [row(1, 1 / 3)])
    with Store(path) as store:
        assert store.rows("f") == [row(1, 1 / 3), row(3)]
        assert store.cells() == {"f": {"cell": {"editor": "one"}}}
        assert store.rows("g") == []


def test_a_batch_is_stored_whole_or_not_at_all(path: Path) -> None:
    bad = Row(2, "done", {"x": float("nan")})
    with Store(path) as store:
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.put_rows("f", [row(1), bad])
        assert store.rows("f") == []


def test_a_damaged_row_is_reported_dropped_and_missing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(path) as store:
        store.put_rows("f", [row(1), row(2)])
        spoil(path, 2)
        assert store.rows("f") == [row(1)]
        assert "case 2" in caplog.text
        assert store.drop_damaged("f") == [2]
        assert store.drop_damaged("f") == []


def test_a_swapped_row_is_damaged(path: Path) -> None:
    with Store(path) as store:
        store.put_rows("f", [row(1), row(2, 0.25)])
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM rows WHERE case_id = 1")
            connection.execute("UPDATE rows SET case_id = 1")
        connection.close()
        assert store.drop_damaged("f") == [1]


def test_readers_see_committed_rows_while_a_writer_is_open(path: Path) -> None:
    with Store(path) as writer:
        writer.put_rows("f", [row(1)])
        with Store(path, read_only=True) as reader:
            assert reader.rows("f") == [row(1)]
            writer.put_rows("f", [row(2)])
            assert len(reader.rows("f")) == 2
            with pytest.raises(StoreError):
                reader.put_rows("f", [row(3)])


def test_writers_at_the_same_time_do_not_lose_rows(path: Path) -> None:
    def write(part: int) -> None:
        with Store(path) as store:
            for i in range(20):
                store.put_rows("f", [row(100 * part + i)])

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store(path) as store:
        assert len(store.rows("f")) == 80


def test_files_that_are_not_our_stores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, not at all " * 40, encoding="utf-8")
    with pytest.raises(StoreError, match="damaged"):
        Store(tmp_path / "text")
    with sqlite3.connect(tmp_path / "foreign") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreError, match="not a result store of editkit"):
        Store(tmp_path / "foreign")
    with pytest.raises(StoreError, match="there is no result store"):
        Store(tmp_path / "absent", read_only=True)


def test_a_newer_store_is_refused(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 4")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(StoreError, match="schema version 4, expected 1 to 3") as caught:
            Store(path, read_only=read_only)
        assert caught.value.exit_code == 4


def test_merging_joins_and_repeats_without_harm(path: Path, tmp_path: Path) -> None:
    with Store(path) as ours, Store(tmp_path / "theirs") as theirs:
        ours.put_rows("f", [row(1)])
        theirs.put_cell("f", {"cell": {"editor": "one"}})
        theirs.put_rows("f", [row(1), row(2)])
        assert len(merge(ours, theirs).rows) == 1
        assert not merge(ours, theirs).rows
        assert [r.case_id for r in ours.rows("f")] == [1, 2]
        assert "f" in ours.cells()


def test_a_conflict_names_the_case_and_merges_nothing(path: Path, tmp_path: Path) -> None:
    with Store(path) as ours, Store(tmp_path / "theirs") as theirs:
        ours.put_rows("f", [row(7, 0.5)])
        theirs.put_cell("f", {"cell": {"editor": "one"}})
        theirs.put_rows("f", [row(1), row(7, 0.75)])
        with pytest.raises(StoreError, match=r"case 7 .* x/score 0\.5 against 0\.75"):
            merge(ours, theirs)
        assert [r.case_id for r in ours.rows("f")] == [7]


def test_texts_come_back_and_are_a_part_of_the_result(path: Path, tmp_path: Path) -> None:
    def written(*texts: str) -> Row:
        return dataclasses.replace(row(7), texts={"generation": list(texts)})

    with Store(path) as ours, Store(tmp_path / "theirs") as theirs:
        ours.put_rows("f", [written("Zoë writes", "\n")])
        assert ours.rows("f") == [written("Zoë writes", "\n")]
        theirs.put_cell("f", {"cell": {"editor": "one"}})
        theirs.put_rows("f", [written("Zoë wrote", "\n")])
        with pytest.raises(StoreError, match=r"case 7 .*: generation;"):
            merge(ours, theirs)
        theirs.put_rows("f", [written("Zoë writes", "\n")])
        assert not merge(ours, theirs).rows


def test_rows_of_before_texts_were_kept_are_read(path: Path) -> None:
    payload = (
        '{"case_id":1,"completed_at":2.5,"details":{},"error":null,"notes":{},"peak_rss_mb":1.0,'
        '"scores":{"x/score":0.5},"status":"done","times":{}}'
    )
    checksum = hashlib.sha256(f"f\n1\n{payload}".encode()).hexdigest()
    with Store(path) as store:
        with sqlite3.connect(path) as connection:
            connection.execute("INSERT INTO rows VALUES ('f', 1, ?, ?)", (payload, checksum))
        connection.close()
        [old] = store.rows("f")
        assert old.scores == {"x/score": 0.5}
        assert old.texts == {}
        assert store.drop_damaged("f") == []


def test_one_process_per_folder_and_shard(tmp_path: Path) -> None:
    with exclusive(tmp_path, (1, 1)):
        with (
            pytest.raises(StoreError, match=r"process \d+ is running"),
            exclusive(tmp_path, (1, 1)),
        ):
            pass
        with exclusive(tmp_path, (1, 2)), exclusive(tmp_path, (2, 2)):
            pass
    with exclusive(tmp_path, (1, 1)):
        pass


@pytest.mark.parametrize("out", ["weights.safetensors", "weights.safetensors/new"])
def test_a_file_is_not_an_output_folder(tmp_path: Path, out: str) -> None:
    (tmp_path / "weights.safetensors").touch()
    with (
        pytest.raises(StoreError, match=r"weights\.safetensors is a file, not a folder"),
        exclusive(tmp_path / out, (1, 1)),
    ):
        pass
    check_folder(tmp_path / "a" / "b", (1, 1))
    assert not (tmp_path / "a").exists()


def test_shards_that_share_a_folder_of_a_network_file_system_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editkit.benchmark.output_lock.network_file_system", lambda _: "nfs4")
    with exclusive(tmp_path / "one", (1, 2)), exclusive(tmp_path / "two", (2, 2)):
        pass
    with exclusive(tmp_path / "one", (1, 2)):  # resumed
        pass
    with (
        pytest.raises(StoreError, match=r"the lock of another shard \(shard-1-of-2\).* on nfs4"),
        exclusive(tmp_path / "one", (2, 2)),
    ):
        pass


def test_keys_and_failed_rows_are_those_of_the_sound_rows(path: Path) -> None:
    quoting = dataclasses.replace(row(5), texts={"generation": ['"status":"failed"']})
    failed = Row(3, "failed", error='it wrote "status":"done"')
    early = dataclasses.replace(row(4), checkpoint=2, place=1)
    with Store(path) as store:
        store.put_rows("f", [row(1), row(2), failed, quoting])
        store.put_rows("f", [early], [ModelRow(0, 2)], ended=False)
        store.put_rows("g", [row(9)])
        spoil(path, 2)
        assert store.keys("rows", "f") == {(each.case_id,) for each in store.rows("f")}
        assert store.keys("rows", "f") == {(1,), (3,), (5,)}
        assert store.keys("history", "f") == {(2, 4)}
        assert store.keys("models", "f") == {(2, 0)}
        assert [store.count(table, "f") for table in ("rows", "history", "models")] == [4, 1, 1]
        assert store.failed("f") == [failed]
        assert store.with_keys("rows", "f", [(1,), (2,), (9,)]) == {(1,): row(1)}
        assert store.with_keys("history", "f", [(2, 4), (1, 4)]) == {(2, 4): early}
        assert store.with_keys("rows", "f", [(n,) for n in range(10_000)]).keys() == {
            (1,), (3,), (5,),
        }  # fmt: skip


def test_commits_in_quick_succession_do_not_each_wait_for_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("editkit.benchmark.store.time.monotonic", lambda: now)
    with Store(path) as store:
        levels: list[str] = []
        store._connection.set_trace_callback(
            lambda text: levels.append(text.split()[-1]) if "synchronous" in text else None
        )
        for seconds in (0.0, 0.1, 0.05, 0.1, 5.0):
            now += seconds
            store.put_rows("f", [row(1)])
        assert levels == ["FULL", "NORMAL", "NORMAL", "FULL", "FULL"]
