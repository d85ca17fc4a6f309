"""The result store: one SQLite file with every row, written batch by batch, readable at any time.

Entries are checked when they are read (:mod:`editkit.benchmark.store_contents`). A damaged row
counts as missing, and the next run recomputes it. The file is in WAL mode: readers and several
writers can work at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from editkit.benchmark import store_contents, store_format
from editkit.benchmark.frames import frame_of_models, frame_of_records
from editkit.benchmark.store_contents import DamagedError, row_entries
from editkit.data_types import EditRequest
from editkit.errors import StoreError
from editkit.mistakes import expect_path
from editkit.results import STORE_FILE, Cell, ModelRow, Rating, Row, Run
from editkit.storage.digests import canonical_json, digest
from editkit.storage.machine import space_left

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "NewRows",
    "Runs",
    "Store",
    "keep_rating",
    "model_rows_of",
    "ratings_in",
    "requests_of",
    "rows_at",
    "rows_of",
    "runs_in",
]

_log = logging.getLogger(__name__)
_TABLES_OF_ROWS = ("rows", "history", "models")
_MOST_KEYS = 400  # in one query
_BETWEEN_SYNCS_S = 0.2  # commits that follow each other faster do not each wait for the disk


class Store:
    """Rows by cell fingerprint and case id, with what belongs to them.

    Args:
        path: The file. It is created, with its folder, unless ``read_only``.
        read_only: Open for reading only, which is safe while a run writes.

    Raises:
        StoreError: The file is missing, damaged, not a store, or written by a newer editkit.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = path = Path(path)
        self.read_only = read_only
        self._environment, self._synced = "", -math.inf
        self._written: set[str] = set()  # environments
        if read_only and not path.exists():
            raise StoreError(
                f"there is no result store at {path}.",
                hint="Give the --out folder of an earlier 'editkit run-benchmark'.",
            )
        with self._sqlite_errors():
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
        """Close the file. Every entry is on disk already."""
        self._connection.close()

    # ------------------------------------------------------------ cells

    def put_cell(self, fingerprint: str, description: Mapping[str, Any]) -> None:
        """Write a cell's description, replacing an earlier one."""
        self._put("cells", [(fingerprint, canonical_json(description))])

    def cells(self) -> dict[str, dict[str, Any]]:
        """Descriptions by fingerprint, in insertion order.

        Raises:
            StoreError: One is damaged.
        """
        sound, damaged = self._read("cells")
        if damaged:
            raise StoreError(
                f"{self.path}: the description of cell {damaged[0].key[:12]} is damaged: "
                f"{damaged[0].problem}.",
                hint="Run the same 'editkit run-benchmark' with this --out again: it rewrites the "
                "description and keeps all valid rows.",
            )
        self._warn_of_rows_without_cell()
        return {fingerprint: description for (fingerprint,), description in sound}

    def known_cell(self, fingerprint: str) -> dict[str, Any] | None:
        """The description of one cell; None if it is missing or damaged."""
        sound, damaged = self._read("cells", "fingerprint = ?", (fingerprint,))
        if damaged:
            _log.warning("%s: the description of cell %s is damaged.", self.path, fingerprint[:12])
        return sound[0][1] if sound else None

    def drop_damaged_descriptions(self, keep: Collection[str] = ()) -> None:
        """Remove damaged cells, requests and environments; the next run of each rewrites them.

        Args:
            keep: Fingerprints of cells that the caller overwrites, so that they keep their place.
        """
        for table in ("cells", "requests", "environments"):
            damaged = [
                entry for entry in self._read(table)[1] if table != "cells" or entry.key not in keep
            ]
            if damaged:
                _log.warning(
                    "%s: removed %d damaged %s (%s). The next run adds them again.",
                    *(self.path, len(damaged), table, damaged[0].problem),
                )
                self._delete(table, damaged)

    def _warn_of_rows_without_cell(self) -> None:
        """Such rows appear in no table."""
        query = "SELECT count(*) FROM rows WHERE fingerprint NOT IN (SELECT fingerprint FROM cells)"
        with self._sqlite_errors():
            strays = self._connection.execute(query).fetchone()[0]
        if strays:
            _log.warning("%s: skipped %d rows that belong to no known cell.", self.path, strays)

    # ------------------------------------------------------------ requests, ratings, environments

    def put_requests(self, dataset: str, requests: Mapping[int, Sequence[EditRequest]]) -> None:
        """Write the edit requests of a slice, for reports.

        Args:
            dataset: Digest of the slice.
            requests: Requests of each record, at least one, by case id.
        """
        self._put(
            "requests",
            [
                (dataset, case_id, store_contents.request_content(own))
                for case_id, own in requests.items()
            ],
        )

    def requests(self, dataset: str) -> dict[int, tuple[EditRequest, ...]]:
        """The edit requests of a slice by case id; damaged ones are skipped with a warning.

        Stores of early versions have none.
        """
        sound = self._sound("requests", "dataset = ?", (dataset,))
        return {case_id: requests for (_, case_id), requests in sound}

    def put_rating(self, rating: Rating) -> None:
        """Write a rating, replacing an earlier one of the same person and texts."""
        self._put("ratings", [(rating.name, canonical_json(dataclasses.asdict(rating)))])

    def ratings(self) -> list[Rating]:
        """All ratings in insertion order; damaged ones are skipped with a warning."""
        return [rating for _, rating in self._sound("ratings")]

    def computed_with(self, environment: Mapping[str, Any]) -> str:
        """Write the environment of all rows that are put from now on; returns its digest."""
        self._environment = digest(environment)
        if self._environment not in self._written:  # workers of two kinds may take turns
            self._put("environments", [(self._environment, canonical_json(environment))])
            self._written.add(self._environment)
        return self._environment

    def environments(self) -> dict[str, dict[str, Any]]:
        """Environments by the digest in ``Row.environment``; damaged ones are skipped."""
        return {key: environment for (key,), environment in self._sound("environments")}

    # ------------------------------------------------------------ rows

    def put_rows(
        self,
        fingerprint: str,
        rows: Iterable[Row],
        models: Iterable[ModelRow] = (),
        *,
        ended: bool = True,
    ) -> None:
        """Write rows in one transaction: all or none. Existing rows are replaced.

        Args:
            fingerprint: The cell.
            rows: Rows of records.
            models: Scores of the models that these records were written into.
            ended: Whether these are the records' last rows; otherwise a sequence continues.
        """
        own, of_models = [*rows], [*models]
        if self._environment:
            own = [dataclasses.replace(row, environment=self._environment) for row in own]
            of_models = [dataclasses.replace(m, environment=self._environment) for m in of_models]
        entries = {
            "rows": row_entries("rows", fingerprint, own if ended else ()),
            "history": row_entries("history", fingerprint, () if ended else own),
            "models": row_entries("models", fingerprint, of_models),
        }
        with self._transaction() as connection:
            for table, some in entries.items():
                connection.executemany(store_format.upsert(table), some)

    def history(self, fingerprint: str) -> list[Row]:
        """The rows of a cell at earlier checkpoints; damaged ones are skipped with a warning."""
        return [row for _, row in self._sound("history", "fingerprint = ?", (fingerprint,))]

    def models(self, fingerprint: str) -> list[ModelRow]:
        """The scores of a cell's models; damaged ones are skipped with a warning."""
        return [row for _, row in self._sound("models", "fingerprint = ?", (fingerprint,))]

    def rows(self, fingerprint: str) -> list[Row]:
        """The rows of a cell by case id; damaged ones are skipped with a warning."""
        rows, damaged = self._rows(fingerprint)
        if damaged:
            _log.warning("%s", _damage(self.path, fingerprint, damaged))
        return rows

    def keys(self, table: str, fingerprint: str) -> set[tuple[int, ...]]:
        """The keys of a cell's entries, without those with a wrong checksum.

        Args:
            table: ``rows``, with the keys (case id,); ``history``, with (checkpoint, case id); or
                ``models``, with (checkpoint, model).
            fingerprint: The cell.
        """
        return {
            tuple(key)
            for _, *parts, checksum in self._select(table, "fingerprint = ?", (fingerprint,))
            for key in [parts[1:-1]]
            if all(isinstance(part, int) for part in key)
            and store_format.has_checksum(table, parts, checksum)
        }

    def count(self, table: str, fingerprint: str) -> int:
        """How many entries of a cell a table has, damaged ones included; reads only an index."""
        query = f"SELECT count(*) FROM {table} WHERE fingerprint = ?"
        with self._sqlite_errors():
            return int(self._connection.execute(query, (fingerprint,)).fetchone()[0])

    def with_keys(
        self, table: str, fingerprint: str, keys: Iterable[tuple[int, ...]]
    ) -> dict[tuple[int, ...], Any]:
        """The rows of a cell with some of :meth:`keys`; damaged ones are skipped with a warning."""
        columns, wanted = store_format.columns_of(table)[1:-2], [*keys]
        rows: dict[tuple[int, ...], Any] = {}
        for start in range(0, len(wanted), _MOST_KEYS):
            some = wanted[start : start + _MOST_KEYS]
            tuples = ", ".join(f"({', '.join(map(str, key))})" for key in some)
            where = f"fingerprint = ? AND ({', '.join(columns)}) IN (VALUES {tuples})"
            rows |= {key[1:]: row for key, row in self._sound(table, where, (fingerprint,))}
        return rows

    def failed(self, fingerprint: str) -> list[Row]:
        """The rows of a cell that failed, by case id; the others are not read."""
        # JSON escapes quotes inside of texts, so that only the status itself looks like this.
        where = 'fingerprint = ? AND instr(payload, \'"status":"failed"\')'
        sound, _ = self._read("rows", where, (fingerprint,), order="case_id")
        return [row for _, row in sound if row.status == "failed"]

    def drop_damaged(self, fingerprint: str) -> list[Any]:
        """Remove the damaged rows of a cell, so that they are recomputed; returns their cases."""
        cases = []
        for table in _TABLES_OF_ROWS:
            damaged = self._read(table, "fingerprint = ?", (fingerprint,))[1]
            if damaged:
                _log.warning(
                    "%s They will be recomputed.", _damage(self.path, fingerprint, damaged)
                )
                self._delete(table, damaged)
            cases += [entry.case_id for entry in damaged]
        return cases

    def discard(
        self, fingerprint: str, case_ids: Sequence[int], groups: Sequence[int] = ()
    ) -> None:
        """Remove the rows of some records of a cell, at all checkpoints, and those of models."""
        with self._transaction() as connection:
            for table in ("rows", "history"):
                connection.executemany(
                    f"DELETE FROM {table} WHERE fingerprint = ? AND case_id = ?",
                    [(fingerprint, case_id) for case_id in case_ids],
                )
            connection.executemany(
                "DELETE FROM models WHERE fingerprint = ? AND model = ?",
                [(fingerprint, group) for group in groups],
            )

    def copy_from(self, other: Store, rows: Iterable[NewRows]) -> None:
        """Copy all cells, requests, ratings and environments of another store, and some rows.

        Entries that this store has already are kept. One transaction: all or nothing.

        Args:
            other: The other store.
            rows: Rows to add.
        """
        new: dict[str, list[tuple[Any, ...]]] = {"rows": [], "history": [], "models": []}
        for own in rows:
            new["rows"] += row_entries("rows", own.fingerprint, own.rows)
            new["history"] += row_entries("history", own.fingerprint, own.history)
            new["models"] += row_entries("models", own.fingerprint, own.models)
        with self._transaction() as connection:
            for table in ("cells", "requests", "ratings", "environments"):
                entries = [entry for _, *entry in other._select(table)]
                for entry in entries:
                    if entry[-1] is None:  # the other file is of version 1
                        entry[-1] = store_format.checksum(table, *entry[:-1])
                marks = ", ".join("?" * len(store_format.columns_of(table)))
                connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", entries)
            for table, some in new.items():
                connection.executemany(store_format.upsert(table), some)

    def _rows(self, fingerprint: str) -> tuple[list[Row], list[_Damaged]]:
        sound, damaged = self._read("rows", "fingerprint = ?", (fingerprint,), order="case_id")
        return [row for _, row in sound], damaged

    # ------------------------------------------------------------ SQLite

    def _put(self, table: str, values: Iterable[tuple[Any, ...]]) -> None:
        """Insert or replace entries, each the columns of its key and its content."""
        entries = [(*value, store_format.checksum(table, *value)) for value in values]
        with self._transaction() as connection:
            connection.executemany(store_format.upsert(table), entries)

    def _delete(self, table: str, entries: Iterable[_Damaged]) -> None:
        with self._transaction() as connection:
            rowids = [(entry.rowid,) for entry in entries]
            connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", rowids)

    def _select(
        self, table: str, where: str = "", values: tuple[str, ...] = (), order: str = "rowid"
    ) -> Iterator[tuple[Any, ...]]:
        """The row id and all columns of entries; a checksum of None in a file without checksums."""
        with self._sqlite_errors():
            if not store_format.has_table(self._connection, table):
                return
            *names, _ = store_format.columns_of(table)
            without = store_format.lacks_checksums(self._version, table)
            checksum = "NULL" if without else "coalesce(checksum, '')"
            query = f"SELECT rowid, {', '.join(names)}, {checksum} FROM {table}"
            query += f" WHERE {where}" if where else ""
            yield from self._connection.execute(f"{query} ORDER BY {order}", values)

    def _read(
        self, table: str, where: str = "", values: tuple[str, ...] = (), order: str = "rowid"
    ) -> tuple[list[tuple[tuple[Any, ...], Any]], list[_Damaged]]:
        """Sound entries as (key, content), and damaged ones."""
        sound: list[tuple[tuple[Any, ...], Any]] = []
        damaged: list[_Damaged] = []
        for rowid, *columns in self._select(table, where, values, order):
            key = tuple(columns[:-2])
            try:
                sound.append((key, store_contents.READERS[table](*columns)))
            except DamagedError as error:
                damaged.append(_Damaged(rowid, str(key[0]), key[-1], str(error)))
        return sound, damaged

    def _sound(
        self, table: str, where: str = "", values: tuple[str, ...] = ()
    ) -> list[tuple[tuple[Any, ...], Any]]:
        sound, damaged = self._read(table, where, values)
        if damaged:
            _log.warning(
                "%s: skipped %d damaged %s (%s).",
                *(self.path, len(damaged), table, damaged[0].problem),
            )
        return sound

    def _read_only(self) -> sqlite3.Connection:
        immutable = not os.access(self.path.parent, os.W_OK)
        connection = store_format.open_read_only(self.path, immutable=immutable)
        self._version = store_format.version_of(connection)
        return connection

    def _writable(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        with FileLock(lock, timeout=store_format.BUSY_SECONDS):
            if not self.path.exists():
                store_format.create(self.path)
            connection = store_format.connect(self.path)
            store_format.check(connection, self.path)
            if store_format.version_of(connection) < store_format.VERSION:
                store_format.upgrade(connection)
        self._version = store_format.VERSION
        return connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection, now = self._connection, time.monotonic()
        waits = now - self._synced >= _BETWEEN_SYNCS_S
        with self._sqlite_errors():
            # A commit that does not wait for the disk survives the process, and the next one that
            # waits makes it survive a loss of power.
            connection.execute(f"PRAGMA synchronous = {'FULL' if waits else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
                self._synced = now if waits else self._synced
            except BaseException:
                if connection.in_transaction:  # on a full disk SQLite may have rolled back already
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """Raise SQLite's errors as StoreError."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:  # locked, full disk, no permission
            raise StoreError(
                f"the result store {self.path} cannot be used: {error}{space_left(self.path)}.",
                hint="Check the disk's space and permissions, and which other process uses the "
                "folder.",
            ) from error
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise StoreError(
                f"the result store {self.path} is damaged: {error}.",
                hint="Move it away together with its -wal and -shm files, and run the command "
                "again.",
            ) from error


@dataclasses.dataclass(frozen=True)
class NewRows:
    """Rows of a cell that another store gets, by table."""

    fingerprint: str
    rows: Sequence[Row]
    history: Sequence[Row]
    models: Sequence[ModelRow]


@dataclasses.dataclass(frozen=True)
class _Damaged:
    """A damaged entry: its row id, the first column of its key, the last one, and the problem."""

    rowid: int
    key: str
    case_id: Any
    problem: str


def _damage(path: Path, fingerprint: str, damaged: Sequence[_Damaged]) -> str:
    cases = ", ".join(str(entry.case_id)[:20] for entry in damaged[:8])
    more = f" and {len(damaged) - 8} more" if len(damaged) > 8 else ""
    return (
        f"{path}: skipped {len(damaged)} damaged rows of cell {str(fingerprint)[:12]} "
        f"({damaged[0].problem}): case {cases}{more}."
    )


# ---------------------------------------------------------------- reading an output folder


class Runs(list[Run]):
    """The runs in an output folder; their results as pandas tables.

    Rows are read from the stores at each call. Errors as for :func:`runs_in`.
    """

    def to_frame(self) -> DataFrame:
        """A row per record, editor, seed and checkpoint (docs/storage.md lists the columns)."""
        return frame_of_records(
            (run, cell, row, requests.get(row.case_id, ()))
            for run in self
            for requests in [requests_of(run)]
            for cell in run.cells
            for rows in rows_at(run, cell).values()
            for row in rows
        )

    def models_to_frame(self) -> DataFrame:
        """A row per edited model and checkpoint, with the scores of whole models."""
        return frame_of_models(
            (run, cell, row)
            for run in self
            for cell in run.cells
            for row in model_rows_of(run, cell)
        )


def runs_in(out: str | Path) -> Runs:
    """The runs in an output folder.

    Cells with the same benchmark, model, slice and metrics form one run.

    Raises:
        StoreError: There is no store, or it cannot be read.
        UsageError: It is not the path of a folder.
    """
    expect_path(out, "out", "runs_in(out)", "the path of an output folder")
    out = Path(out)
    with Store(out / STORE_FILE, read_only=True) as store:
        descriptions = [d for d in store.cells().values() if "benchmark" in d]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for description in descriptions:
        identity = {
            "benchmark": description["benchmark"],
            "model": [description["model"][key] for key in ("fingerprint", "dtype")],
            "dataset": description["dataset"]["digest"],
            "metrics": description["metrics"],
            "model_metrics": description.get("model_metrics", []),
        }
        groups.setdefault(canonical_json(identity), []).append(description)
    return Runs(Run.described(out, group) for group in groups.values())


def rows_of(run: Run, cell: Cell) -> list[Row]:
    """The last row of every record of a cell, by case id.

    Outside sequences it is the only one; in a sequence, the record after all facts were written.

    Raises:
        StoreError: The store cannot be read.
    """
    with Store(run.store, read_only=True) as store:
        return store.rows(cell.fingerprint)


def rows_at(run: Run, cell: Cell) -> dict[int, list[Row]]:
    """The rows of a cell by checkpoint, ascending: all facts that were written so far.

    Outside sequences there is one checkpoint, 0.

    Raises:
        StoreError: The store cannot be read.
    """
    with Store(run.store, read_only=True) as store:
        rows = [*store.history(cell.fingerprint), *store.rows(cell.fingerprint)]
    by_checkpoint: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.checkpoint, row.case_id)):
        by_checkpoint.setdefault(row.checkpoint, []).append(row)
    return by_checkpoint


def model_rows_of(run: Run, cell: Cell) -> list[ModelRow]:
    """The scores of a cell's models, by checkpoint and group.

    Raises:
        StoreError: The store cannot be read.
    """
    with Store(run.store, read_only=True) as store:
        rows = store.models(cell.fingerprint)
    return sorted(rows, key=lambda row: (row.checkpoint, row.group))


def requests_of(run: Run) -> dict[int, tuple[EditRequest, ...]]:
    """The edit requests of a run by case id; stores of early versions have none.

    Raises:
        StoreError: The store cannot be read.
    """
    with Store(run.store, read_only=True) as store:
        return store.requests(str(run.dataset["digest"]))


def keep_rating(out: Path, rating: Rating) -> None:
    """Write a rating to the store of an output folder; returns when it is on disk.

    Raises:
        StoreError: The store cannot be used.
    """
    with Store(out / STORE_FILE) as store:
        store.put_rating(rating)


def ratings_in(out: Path) -> list[Rating]:
    """All ratings in the store of an output folder.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    with Store(out / STORE_FILE, read_only=True) as store:
        return store.ratings()
