"""Damaged stores: a clear error, or damaged rows that are recomputed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editkit import EditRequest, RequestError, StoreError
from editkit.benchmark.store import (
    Store,
    keep_rating,
    ratings_in,
    requests_of,
    rows_of,
    runs_in,
)
from editkit.benchmark.store_format import checksum_of
from editkit.results import STORE_FILE, Rating, Row
from tests.hostile import either

Cli = Callable[..., tuple[int, str, str]]

CASES = range(1000, 977, -1)
REQUEST = EditRequest("{} lives in", "subject 1", "Rome")


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(folder / STORE_FILE, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def first_row(folder: Path) -> tuple[str, int, dict[str, Any]]:
    with opened(folder) as connection:
        key, case, payload = connection.execute(
            "SELECT fingerprint, case_id, payload FROM rows ORDER BY fingerprint, case_id"
        ).fetchone()
    return key, case, json.loads(payload)


def row(score: float, *, case: int = 7, **changes: Any) -> Row:
    return dataclasses.replace(
        Row(case, "done", {"x/score": score}, {"xs": [score, 2.0]}, {}, {}), **changes
    )


def replace_row(folder: Path, key: str, case: int, payload: str) -> None:
    """With a checksum that fits."""
    with opened(folder) as connection:
        connection.execute(
            "UPDATE rows SET payload = ?, checksum = ? WHERE fingerprint = ? AND case_id = ?",
            (payload, checksum_of(key, case, payload), key, case),
        )


def table_of(document: str) -> Any:
    cells = json.loads(document)["cells"]
    return [{key: cell[key] for key in ("editor", "records", "metrics")} for cell in cells]


# ---------------------------------------------------------------- rows

BAD_ROWS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown key": lambda row: {**row, "extra": 1},
    "no status": lambda row: {k: v for k, v in row.items() if k != "status"},
    "another status": lambda row: {**row, "status": "finished"},
    "another case": lambda row: {**row, "case_id": 5},
    "case as text": lambda row: {**row, "case_id": str(row["case_id"])},
    "score as text": lambda row: {**row, "scores": {"fake/score": "0.5"}},
    "score true": lambda row: {**row, "scores": {"fake/score": True}},
    "score null": lambda row: {**row, "scores": {"fake/score": None}},
    "scores as list": lambda row: {**row, "scores": [0.5]},
    "huge score": lambda row: {**row, "scores": {"fake/score": 1e200}},
    "details as numbers": lambda row: {**row, "details": {"fake/prompts": 0.5}},
    "details with null": lambda row: {**row, "details": {"fake/prompts": [None]}},
    "texts as numbers": lambda row: {**row, "texts": {"generation": [1]}},
    "times as text": lambda row: {**row, "times": {"edit_s": "long"}},
    "notes as list": lambda row: {**row, "notes": []},
    "no date": lambda row: {**row, "completed_at": 1e300},
    "negative date": lambda row: {**row, "completed_at": -1.0},
    "done with error": lambda row: {**row, "error": "none"},
    "failed with scores": lambda row: {**row, "status": "failed", "error": "x"},
    "failed without reason": lambda row: {**row, "status": "failed", "scores": {}},
    "environment as number": lambda row: {**row, "environment": 3},
    "a list": lambda row: [row],
    "a number": lambda row: 3,
    "null": lambda row: None,
}
BAD_TEXTS = {
    "NaN": '"fake/score":NaN',
    "Infinity": '"fake/score":-Infinity',
    "too large": '"fake/score":1e999',
    "beyond 64 bits": f'"fake/score":{10**30}',
    "very long": f'"fake/score":{"9" * 5000}',
    "twice": '"fake/score":0.1,"fake/score":0.2',
    "surrogate": '"fake/score":0.1,"\\ud800":0.2',
    "deep": '"fake/score":' + "[" * 100_000,
}


def test_rows_of_a_wrong_shape_are_damaged_even_with_a_valid_checksum(
    out: Path, editkit: Cli
) -> None:
    command = ("run-benchmark", "small", "--out", out, "--no-mlflow", "--json", "--quiet")
    sound = table_of(editkit(*command)[1])
    with opened(out) as connection:
        rows = connection.execute("SELECT fingerprint, case_id, payload FROM rows").fetchall()
    spoilt: dict[str, set[int]] = {}
    for (key, case, payload), spoil in zip(rows, BAD_ROWS.values(), strict=False):
        replace_row(out, key, case, json.dumps(spoil(json.loads(payload))))
        spoilt.setdefault(key, set()).add(case)
    with Store(out / STORE_FILE, read_only=True) as store:
        for key, cases in spoilt.items():
            assert {row.case_id for row in store.rows(key)} == set(CASES) - cases
    assert sum(map(len, spoilt.values())) == len(BAD_ROWS)
    code, _, err = editkit("report", out)
    assert code == 0
    assert "damaged rows of cell" in err
    code, document, err = editkit(*command)
    assert code == 0, err
    assert err.count("They will be recomputed.") == len(spoilt)
    assert table_of(document) == sound
    assert "damaged" not in editkit("report", out)[2]


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_row_with_invalid_json_is_damaged(name: str, out: Path) -> None:
    key, case, _ = first_row(out)
    text = f'{{"case_id":{case},"status":"done","scores":{{{BAD_TEXTS[name]}}}}}'
    replace_row(out, key, case, text)
    with Store(out / STORE_FILE) as store:
        assert case not in {row.case_id for row in store.rows(key)}
        assert store.drop_damaged(key) == [case]
        assert store.drop_damaged(key) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("payload", b"\xff\xfe"),
        ("payload", 17),
        ("payload", "\udcff".encode(errors="surrogatepass")),
        ("checksum", b"\0"),
        ("checksum", 5),
        ("case_id", "one"),
        ("case_id", b"\xff"),
        ("case_id", 2.5),
    ],
)
def test_wrong_types_in_columns_damage_only_their_row(
    column: str, value: object, out: Path
) -> None:
    key, case, _ = first_row(out)
    with opened(out) as connection:
        connection.execute(
            f"UPDATE rows SET {column} = ? WHERE fingerprint = ? AND case_id = ?",
            (value, key, case),
        )
    with Store(out / STORE_FILE) as store:
        assert len(store.rows(key)) == len(CASES) - 1
        assert len(store.drop_damaged(key)) == 1
        assert store.drop_damaged(key) == []


def test_invalid_utf_8_damages_only_its_row(out: Path) -> None:
    key, case, _ = first_row(out)
    with opened(out) as connection:
        connection.execute(
            "UPDATE rows SET payload = CAST(x'ff7b7d' AS TEXT) "
            "WHERE fingerprint = ? AND case_id = ?",
            (key, case),
        )
    with Store(out / STORE_FILE) as store:
        assert store.drop_damaged(key) == [case]


def test_rows_without_a_cell_cause_a_warning(out: Path, editkit: Cli) -> None:
    key, case, _ = first_row(out)
    with opened(out) as connection:
        connection.execute(
            "UPDATE rows SET fingerprint = CAST(fingerprint AS BLOB) "
            "WHERE fingerprint = ? AND case_id = ?",
            (key, case),
        )
    assert "skipped 1 rows that belong to no known cell" in editkit("report", out)[2]


# ---------------------------------------------------------------- cells and requests

BAD_CELLS: dict[str, Callable[[dict[str, Any]], None]] = {
    "n_edits as text": lambda d: d["dataset"].update(n_edits="23"),
    "n_records as text": lambda d: d["dataset"].update(n_records="23"),
    "n_records true": lambda d: d["dataset"].update(n_records=True),
    "n_records negative": lambda d: d["dataset"].update(n_records=-1),
    "no n_records": lambda d: d["dataset"].pop("n_records"),
    "dataset null": lambda d: d.update(dataset=None),
    "model a text": lambda d: d.update(model="atlas"),
    "no model name": lambda d: d["model"].pop("name"),
    "metrics a mapping": lambda d: d.update(metrics={}),
    "metric a text": lambda d: d.update(metrics=["fake"]),
    "scores null": lambda d: d.update(scores=None),
    "score without key": lambda d: d["scores"][0].pop("key"),
    "score with unknown key": lambda d: d["scores"][0].update(extra=1),
    "score with failure text": lambda d: d["scores"][0].update(failure="no"),
    "score scale null": lambda d: d["scores"][0].update(scale=None),
    "seeds a number": lambda d: d.update(seeds=0),
    "batch a text": lambda d: d.update(batch="5"),
    "cell null": lambda d: d.update(cell=None),
    "cell with unknown key": lambda d: d["cell"].update(extra=1),
    "cell without seed": lambda d: d["cell"].pop("seed"),
    "cell seed text": lambda d: d["cell"].update(seed="0"),
    "cell config list": lambda d: d["cell"].update(config=[]),
    "cell params nested": lambda d: d["cell"].update(params={"a": {}}),
    "cell of another": lambda d: d["cell"].update(fingerprint="0" * 64),
    "unknown key": lambda d: d.update(extra=1),
    "benchmark a number": lambda d: d.update(benchmark=1),
}


@pytest.mark.parametrize("name", BAD_CELLS)
@pytest.mark.parametrize("checksum", ["fits", "stale"])
def test_a_damaged_description_is_a_store_error_and_rewritten_by_the_run(
    name: str, checksum: str, out: Path, editkit: Cli
) -> None:
    sound = editkit("report", out, "--format", "csv")[1] if name == "dataset null" else ""
    with opened(out) as connection:
        key, text = connection.execute("SELECT fingerprint, description FROM cells").fetchone()
        content = json.loads(text)
        BAD_CELLS[name](content)
        changed = json.dumps(content)
        total = checksum_of("cell", key, changed if checksum == "fits" else text)
        connection.execute(
            "UPDATE cells SET description = ?, checksum = ? WHERE fingerprint = ?",
            (changed, total, key),
        )
    with pytest.raises(StoreError, match=f"the description of cell {key[:12]} is damaged"):
        runs_in(out)
    if name == "dataset null":  # the slowest step, the same for all
        code, _, err = editkit("run-benchmark", "small", "--out", out, "--no-mlflow")
        assert code == 0, err
        assert editkit("report", out, "--format", "csv")[1] == sound


def test_a_changed_number_of_records_is_noticed(out: Path, editkit: Cli) -> None:
    with opened(out) as connection:
        connection.execute(
            "UPDATE cells SET description = replace(description, ?, ?)",
            ('"n_records":23', '"n_records":9'),
        )
    code, _, err = editkit("report", out)
    assert code == 4
    assert "its checksum is wrong" in err


def test_damaged_requests_are_skipped_and_rewritten(out: Path, editkit: Cli) -> None:
    [run] = runs_in(out)
    with opened(out) as connection:
        connection.execute("UPDATE requests SET request = replace(request, 'Rome', 'Oslo')")
    assert requests_of(run) == {}
    editkit("run-benchmark", "small", "--out", out, "--no-mlflow")
    assert {request.target_new for [request] in requests_of(run).values()} == {"Rome"}


BAD_ALSO = ('"abc"', "3", "[3]", '[{"prompt":"no place","subject":"a","target_new":"b"}]', "{}")


@pytest.mark.parametrize(
    "request_text",
    ['{"prompt":"no place","subject":"a","target_new":"b"}', "[]", '{"prompt":3}', '{"x":1}', "{"]
    + [f'{{"prompt":"{{}} is","subject":"a","target_new":"b","also":{also}}}' for also in BAD_ALSO],
)
def test_crafted_requests_are_skipped(
    request_text: str, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [run] = runs_in(out)
    digest = run.dataset["digest"]
    with opened(out) as connection:
        connection.execute(
            "UPDATE requests SET request = ?, checksum = ? WHERE case_id = 1000",
            (request_text, checksum_of("request", digest, 1000, request_text)),
        )
    with caplog.at_level(logging.WARNING, "editkit"):
        assert len(requests_of(run)) == len(CASES) - 1
    assert "skipped 1 damaged requests" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"cells": ["a"]}, {"answers": {"q": "up"}}, {"rated_at": "now"}, {"place": 1.5}, {"more": 1}],
)
def test_crafted_ratings_are_skipped(
    change: dict[str, Any], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rating = Rating(1000, 0, ("a" * 64, "b" * 64), "me", {"q": "left"}, 1.0)
    keep_rating(out, rating)
    assert ratings_in(out) == [rating]
    text = json.dumps({**dataclasses.asdict(rating), **change})
    with opened(out) as connection:
        connection.execute(
            "UPDATE ratings SET payload = ?, checksum = ?",
            (text, checksum_of("rating", rating.name, text)),
        )
    with caplog.at_level(logging.WARNING, "editkit"):
        assert ratings_in(out) == []
    assert "skipped 1 damaged ratings" in caplog.text


# ---------------------------------------------------------------- the file as a whole


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE rows"],
        ["DROP TABLE cells"],
        ["DROP TABLE requests"],
        ["DROP TABLE environments"],
        ["ALTER TABLE rows RENAME COLUMN payload TO content"],
        ["ALTER TABLE cells ADD COLUMN extra TEXT"],
        ["ALTER TABLE rows RENAME TO kept", "CREATE VIEW rows AS SELECT * FROM kept"],
        ["CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM rows; END"],
        ["PRAGMA user_version = 99"],
        ["PRAGMA user_version = 0"],
        ["PRAGMA user_version = -3"],
        ["PRAGMA application_id = 1"],
        ["DROP TABLE rows", "CREATE TABLE rows (fingerprint, case_id, payload)"],
    ],
    ids=lambda statements: statements[-1][:30],
)
def test_foreign_tables_are_a_store_error(
    statements: list[str], out: Path, editkit: Cli, tmp_path: Path
) -> None:
    with opened(out) as connection:
        for statement in statements:
            connection.execute(statement)
    for command in (
        ("report", out),
        ("run-benchmark", "small", "--out", out, "--no-mlflow"),
        ("show-generations", 1000, "--out", out),
        ("merge", tmp_path / "all", out),
    ):
        code, printed, err = editkit(*command)
        assert (code, printed) == (4, ""), err
        assert "unexpected" not in err


def test_a_folder_in_place_of_the_store_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / STORE_FILE).mkdir()
    for read_only in (True, False):
        with pytest.raises(StoreError):
            Store(tmp_path / STORE_FILE, read_only=read_only)


# ---------------------------------------------------------------- versions


def make_version_1(folder: Path) -> None:
    """As the first version wrote it: no checksums of cells and requests, no environments."""
    with opened(folder) as connection:
        connection.execute("DROP TABLE environments")
        for table in ("cells", "requests"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
        for rowid, key, case, payload in connection.execute(
            "SELECT rowid, fingerprint, case_id, payload FROM rows"
        ).fetchall():
            content = json.loads(payload)
            del content["environment"]
            text = json.dumps(content)
            values = (text, checksum_of(key, case, text), rowid)
            connection.execute("UPDATE rows SET payload = ?, checksum = ? WHERE rowid = ?", values)
        connection.execute("PRAGMA user_version = 1")


def test_a_store_of_version_1_is_read_unchanged_and_upgraded_on_the_first_write(
    out: Path, editkit: Cli, tmp_path: Path
) -> None:
    sound = editkit("report", out, "--format", "csv")[1]
    make_version_1(out)
    before = (out / STORE_FILE).read_bytes()
    assert editkit("report", out, "--format", "csv")[1] == sound
    assert len(requests_of(runs_in(out)[0])) == len(CASES)
    assert (out / STORE_FILE).read_bytes() == before
    assert editkit("merge", tmp_path / "all", out)[0] == 0
    assert editkit("report", tmp_path / "all", "--format", "csv")[1] == sound
    assert editkit("run-benchmark", "small", "--out", out, "--no-mlflow")[0] == 0
    assert editkit("report", out, "--format", "csv")[1] == sound
    with opened(out) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        assert not connection.execute("SELECT 1 FROM cells WHERE checksum = ''").fetchall()
        connection.execute("UPDATE cells SET description = replace(description, '23', '24')")
    assert editkit("report", out)[0] == 4


def test_entries_that_were_unreadable_before_the_upgrade_are_damaged_after_it(out: Path) -> None:
    make_version_1(out)
    with opened(out) as connection:
        connection.execute("UPDATE requests SET request = x'ff' WHERE case_id = 1000")
    Store(out / STORE_FILE).close()
    assert len(requests_of(runs_in(out)[0])) == len(CASES) - 1


# ---------------------------------------------------------------- anything

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["done", "failed", "\ud800", "http://u:p@h"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
CELL_VALUE = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=9),
    JSON.map(json.dumps),
)


@settings(
    max_examples=100,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_row_is_valid_or_skipped_with_a_warning(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "fuzz.sqlite"
    field = data.draw(st.sampled_from([each.name for each in dataclasses.fields(Row)]))
    content = {**dataclasses.asdict(row(0.5)), field: data.draw(JSON)}
    text = json.dumps(content)
    with Store(path) as store:
        store.put_rows("f", [row(0.5), row(0.5, case=8)])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(
                "UPDATE rows SET payload = ?, checksum = ? WHERE case_id = 7",
                (text, checksum_of("f", 7, text)),
            )
        rows = store.rows("f")
        assert row(0.5, case=8) in rows
        for each in rows:
            numbers = [*each.scores.values(), *(n for d in each.details.values() for n in d)]
            assert all(type(number) in (int, float) for number in numbers)
            assert struct.pack("d", sum(numbers))
        cases = store.drop_damaged("f")
        assert len(rows) + len(cases) == 2


@settings(
    max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    table=st.sampled_from(["cells", "rows", "requests"]), place=st.integers(0, 3), value=CELL_VALUE
)
def test_any_value_in_any_column_is_an_error_or_harmless(
    table: str, place: int, value: object, out: Path, editkit: Cli
) -> None:
    store = out / STORE_FILE
    kept = store.read_bytes()
    sound = table_report(out)
    with opened(out) as connection:
        names = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
        name = names[place % len(names)]
        with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
            connection.execute(
                f"UPDATE {table} SET {name} = ? WHERE rowid = (SELECT min(rowid) FROM {table})",
                (value,),
            )
    report = either(lambda: table_report(out), StoreError)
    if not isinstance(report, StoreError):
        assert report.keys() <= sound.keys()
        for key, scores in report.items():
            assert scores.items() <= sound[key].items()
    code, _, err = editkit("run-benchmark", "small", "--out", out, "--no-mlflow", "--quiet")
    assert code == 0, err
    assert table_report(out) == sound
    for extra in ("-wal", "-shm"):
        store.with_name(f"{STORE_FILE}{extra}").unlink(missing_ok=True)
    store.write_bytes(kept)


_WORDS = st.one_of(
    st.text(min_size=1, max_size=12),
    st.sampled_from(
        [
            *(
                "\\end{document}",
                "<script>alert(1)</script>",
                "a|b",
                'a,b\n"c',
                "=1+1",
                "%s{}$#_^~&",
            ),
            *(
                "\u202e",
                "\u2028",
                "\x1b[31m",
                "🙂",
                "法国",
                "عربى",
                "e\u0301",
                "\ufeff",
                "../..",
                "...",
            ),
        ]
    ),
)


@settings(
    max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=_WORDS, text=_WORDS)
def test_any_text_in_names_requests_and_results_survives_every_format(
    name: str, text: str, out: Path, editkit: Cli, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any") / "out"
    [run] = runs_in(out)
    cell = run.cells[0]
    changed = dataclasses.replace(
        run, out=folder, benchmark=name, dataset={**run.dataset, "name": text, "n_records": 1}
    )
    written = dataclasses.replace(
        row(0.5, case=1000),
        texts={"generation": [text]},
        notes={text: text},
        scores={"fake/score": 1},
    )
    request = either(lambda: EditRequest("{} lives in", text, text), RequestError)
    with Store(folder / STORE_FILE) as store:
        store.put_cell(cell.fingerprint, changed.describe(cell))
        store.put_rows(cell.fingerprint, [written])
        if isinstance(request, EditRequest):
            store.put_requests(str(run.dataset["digest"]), {1000: (request,)})
    [again] = runs_in(folder)
    assert (again.benchmark, again.dataset["name"]) == (name, text)
    assert rows_of(again, cell)[0].texts == {"generation": [text]}
    if isinstance(request, EditRequest):
        assert requests_of(again) == {1000: (request,)}
    for form in ("text", "markdown", "latex", "csv", "html"):
        target = folder / f"report.{form}"
        code, _, err = editkit("report", folder, "--format", form, "--to", target)
        assert code == 0, err
        if form == "html":
            assert "<script>alert" not in target.read_text(encoding="utf-8")
    assert editkit("show-generations", 1000, "--out", folder)[0] == 0


def table_report(folder: Path) -> dict[str, dict[int, Any]]:
    return {
        cell.fingerprint: {each.case_id: each.scores for each in rows_of(run, cell)}
        for run in runs_in(folder)
        for cell in run.cells
    }


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_folders_and_pipes_are_not_stores(kind: str, read_only: bool, tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(StoreError, match=f"is a .*{kind}, expected the file of a result store"):
        Store(path, read_only=read_only)
