"""The store: one SQLite file with every row, written batch by batch, read at any time.

Each row carries a checksum over its key and payload; a row that fails it counts as missing and is
computed again. The file is in WAL mode, so readers and several writers do not disturb each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from editkit.benchmark.digests import canonical_json
from editkit.benchmark.run import Row
from editkit.errors import StoreError
from editkit.requests import EditRequest

__all__ = ["Store"]

VERSION = 1
_APPLICATION = 0x65646B74
_BUSY_SECONDS = 60
_TABLES = (
    "CREATE TABLE cells (fingerprint TEXT PRIMARY KEY, description TEXT NOT NULL)",
    "CREATE TABLE rows (fingerprint TEXT NOT NULL, case_id INTEGER NOT NULL, payload TEXT NOT NULL,"
    " checksum TEXT NOT NULL, PRIMARY KEY (fingerprint, case_id))",
)
_REQUESTS = (  # came later: a store without it is whole, and gets it when it is written to
    "CREATE TABLE IF NOT EXISTS requests (dataset TEXT NOT NULL, case_id INTEGER NOT NULL,"
    " request TEXT NOT NULL, PRIMARY KEY (dataset, case_id))"
)
_RATINGS = (  # came later, too
    "CREATE TABLE IF NOT EXISTS ratings (name TEXT PRIMARY KEY, payload TEXT NOT NULL,"
    " checksum TEXT NOT NULL)"
)
_UPSERT_RATING = (
    "INSERT INTO ratings VALUES (?, ?, ?) ON CONFLICT (name) "
    "DO UPDATE SET payload = excluded.payload, checksum = excluded.checksum"
)
_UPSERT_ROW = (
    "INSERT INTO rows VALUES (?, ?, ?, ?) ON CONFLICT (fingerprint, case_id) "
    "DO UPDATE SET payload = excluded.payload, checksum = excluded.checksum"
)
_INSERT_REQUEST = "INSERT OR IGNORE INTO requests VALUES (?, ?, ?)"
_UPSERT_CELL = (
    "INSERT INTO cells VALUES (?, ?) ON CONFLICT (fingerprint) "
    "DO UPDATE SET description = excluded.description"
)
_log = logging.getLogger(__name__)


class Store:
    """Rows by cell fingerprint and case id.

    Args:
        path: The file; made with its folder unless ``read_only``.
        read_only: Only look, which is safe while a run writes.

    Raises:
        StoreError: The file is missing, damaged, not a store, or of a newer editkit.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        if read_only and not path.exists():
            raise StoreError(
                f"there is no result store at {path}.",
                hint="Give the --out folder of an earlier 'editkit run-benchmark'.",
            )
        with self._told():
            self._connection = self._read_only() if read_only else self._writable()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything that was put is already on disk."""
        self._connection.close()

    # ------------------------------------------------------------ cells

    def put_cell(self, fingerprint: str, description: Mapping[str, Any]) -> None:
        """Keep a cell's description, in place of an earlier one."""
        with self._transaction() as connection:
            connection.execute(_UPSERT_CELL, (fingerprint, canonical_json(description)))

    def cells(self) -> dict[str, dict[str, Any]]:
        """Descriptions by fingerprint, in the order of their first appearance."""
        with self._told():
            found = self._connection.execute(
                "SELECT fingerprint, description FROM cells ORDER BY rowid"
            ).fetchall()
            return {fingerprint: json.loads(text) for fingerprint, text in found}

    # ------------------------------------------------------------ requests

    def put_requests(self, dataset: str, requests: Mapping[int, EditRequest]) -> None:
        """Keep the edits of a slice by case id, so that reports can say what a case was about.

        Args:
            dataset: Digest of the slice.
            requests: Those of its records that are worked on.
        """
        values = [
            (dataset, case_id, canonical_json(request.to_dict()))
            for case_id, request in requests.items()
        ]
        with self._transaction() as connection:
            connection.executemany(_INSERT_REQUEST, values)

    def requests(self, dataset: str) -> dict[int, EditRequest]:
        """The edits of a slice by case id; none where an early version wrote the store."""
        with self._told():
            return {
                case_id: EditRequest.from_dict(json.loads(text))
                for _, case_id, text in self._requests("WHERE dataset = ?", (dataset,))
            }

    def _requests(self, where: str = "", values: tuple[str, ...] = ()) -> list[Any]:
        if not self._has_table("requests"):
            return []
        query = f"SELECT dataset, case_id, request FROM requests {where} ORDER BY case_id"
        return self._connection.execute(query, values).fetchall()

    def _has_table(self, name: str) -> bool:
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._connection.execute(known, (name,)).fetchone() is not None

    # ------------------------------------------------------------ ratings

    def put_rating(self, name: str, rating: Mapping[str, Any]) -> None:
        """Keep what somebody said about texts, in place of what was said under this name before."""
        payload = canonical_json(rating)
        with self._transaction() as connection:
            connection.execute(_UPSERT_RATING, (name, payload, _checksum("rating", name, payload)))

    def ratings(self) -> dict[str, dict[str, Any]]:
        """All sound ratings by name, in the order of their first appearance."""
        return {name: json.loads(payload) for name, payload, _ in self._ratings()}

    def _ratings(self) -> list[tuple[str, str, str]]:
        with self._told():
            if not self._has_table("ratings"):
                return []
            found = self._connection.execute("SELECT * FROM ratings ORDER BY rowid").fetchall()
        sound = [row for row in found if _checksum("rating", row[0], row[1]) == row[2]]
        if len(sound) < len(found):
            _log.warning("%s: %d damaged ratings are left out.", self.path, len(found) - len(sound))
        return sound

    # ------------------------------------------------------------ rows

    def put_rows(self, fingerprint: str, rows: Iterable[Row]) -> None:
        """Keep rows in one transaction: all of them or none. Repeating it changes nothing."""
        values = [_encoded(fingerprint, row) for row in rows]
        with self._transaction() as connection:
            connection.executemany(_UPSERT_ROW, values)

    def rows(self, fingerprint: str) -> list[Row]:
        """The sound rows of a cell, by case id; damaged ones are told about and left out."""
        rows, damaged = self._read(fingerprint)
        if damaged:
            _log.warning("%s", _damage(self.path, fingerprint, damaged))
        return rows

    def drop_damaged(self, fingerprint: str) -> list[int]:
        """Remove the damaged rows of a cell and name their cases; they will be computed again."""
        damaged = self._read(fingerprint)[1]
        if damaged:
            _log.warning(
                "%s They will be computed again.", _damage(self.path, fingerprint, damaged)
            )
            self.discard(fingerprint, damaged)
        return damaged

    def discard(self, fingerprint: str, case_ids: Sequence[int]) -> None:
        """Remove rows of a cell."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM rows WHERE fingerprint = ? AND case_id = ?",
                [(fingerprint, case_id) for case_id in case_ids],
            )

    def merge(self, other: Store) -> int:
        """Take over all cells and rows of another store; the number of rows that were new.

        Raises:
            StoreError: Both have a row of the same cell and case with different results; nothing
                is taken over.
        """
        new: list[tuple[str, int, str, str]] = []
        for fingerprint in other.cells():
            own = {row.case_id: row for row in self.rows(fingerprint)}
            for row in other.rows(fingerprint):
                if row.case_id not in own:
                    new.append(_encoded(fingerprint, row))
                elif not row.same_result(own[row.case_id]):
                    raise _conflict(self, other, fingerprint, row, own[row.case_id])
        ratings = other._ratings()
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO cells VALUES (?, ?)",
                [(key, canonical_json(value)) for key, value in other.cells().items()],
            )
            connection.executemany(_INSERT_REQUEST, other._requests())
            connection.executemany("INSERT OR IGNORE INTO ratings VALUES (?, ?, ?)", ratings)
            connection.executemany(_UPSERT_ROW, new)
        return len(new)

    def _read(self, fingerprint: str) -> tuple[list[Row], list[int]]:
        with self._told():
            found = self._connection.execute(
                "SELECT case_id, payload, checksum FROM rows "
                "WHERE fingerprint = ? ORDER BY case_id",
                (fingerprint,),
            ).fetchall()
        rows: list[Row] = []
        damaged: list[int] = []
        for case_id, payload, checksum in found:
            if _checksum(fingerprint, case_id, str(payload)) == checksum:
                rows.append(Row(**json.loads(payload)))
            else:
                damaged.append(case_id)
        return rows, damaged

    # ------------------------------------------------------------ SQLite

    def _read_only(self) -> sqlite3.Connection:
        # SQLite wants to write beside a WAL file even to read it, unless told that nobody writes.
        mode = "mode=ro" if os.access(self.path.parent, os.W_OK) else "immutable=1"
        uri = f"{self.path.resolve().as_uri()}?{mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        self._check_version(connection)
        return connection

    def _writable(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=_BUSY_SECONDS):
            if not self.path.exists():
                _create(self.path)
            connection = _connect(self.path)
            self._check_version(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_REQUESTS)
            connection.execute(_RATINGS)
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION:
            connection.close()
            raise StoreError(
                f"{self.path} is a database, but not a result store of editkit.",
                hint="Choose another --out folder.",
            )
        if version != VERSION:
            connection.close()
            raise StoreError(
                f"{self.path} has schema version {version}, expected {VERSION}.",
                hint="Use the editkit that wrote it, or choose another --out folder.",
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        with self._told():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's troubles as one clear error."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:  # locked, full disk, no permission
            raise StoreError(
                f"the result store {self.path} cannot be used: {error}.",
                hint="Check the disk's space and permissions, and what else uses the folder.",
            ) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise StoreError(
                f"the result store {self.path} is damaged: {error}.",
                hint="Move it away, with its -wal and -shm files, and run the command again.",
            ) from error


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)


def _create(path: Path) -> None:
    """An empty store, complete from the moment that it can be seen."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    for leftover in path.parent.glob(f"{unfinished.name}*"):  # with SQLite's journals
        leftover.unlink()
    with contextlib.closing(_connect(unfinished)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for table in _TABLES:
            connection.execute(table)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    unfinished.replace(path)


def _encoded(fingerprint: str, row: Row) -> tuple[str, int, str, str]:
    payload = canonical_json(dataclasses.asdict(row))
    return fingerprint, row.case_id, payload, _checksum(fingerprint, row.case_id, payload)


def _checksum(fingerprint: str, case_id: int | str, payload: str) -> str:
    return hashlib.sha256(f"{fingerprint}\n{case_id}\n{payload}".encode()).hexdigest()


def _damage(path: Path, fingerprint: str, damaged: Sequence[int]) -> str:
    cases = ", ".join(str(case_id) for case_id in damaged[:8])
    more = f" and {len(damaged) - 8} more" if len(damaged) > 8 else ""
    return f"{path}: rows of cell {fingerprint[:12]} fail their checksum: case {cases}{more}."


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The keys under which two rows say different things."""
    return sorted(key for key in {*first, *second} if first.get(key) != second.get(key))


def _conflict(ours: Store, theirs: Store, fingerprint: str, row: Row, own: Row) -> StoreError:
    editor = ours.cells().get(fingerprint, {}).get("cell", {}).get("editor", "?")
    what = ", ".join(
        f"{key} {own.scores.get(key)} against {row.scores.get(key)}"
        for key in _differing(row.scores, own.scores)[:3]
    )
    if not what:
        kept = _differing(row.details, own.details) + _differing(row.texts, own.texts)
        what = ", ".join(kept[:3])
    return StoreError(
        f"case {row.case_id} of editor {editor!r} (cell {fingerprint[:12]}) differs between "
        f"{ours.path} and {theirs.path}: {what or f'{own.status} against {row.status}'}.",
        hint="One of them was computed otherwise; compute one again with --fresh. "
        "Nothing of this store was merged.",
    )
