"""The store: one SQLite file with every row, written batch by batch, read at any time.

Everything in it carries a checksum over its key and content, and is checked when it is read. A
damaged row counts as missing and is computed again. The file is in WAL mode, so readers and several
writers do not disturb each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from filelock import FileLock

from editkit.benchmark import schema
from editkit.benchmark.merging import Merged, merge
from editkit.benchmark.stored import (
    DamagedError,
    checksum_of,
    read_cell,
    read_environment,
    read_rating,
    read_request,
    read_row,
    write_row,
)
from editkit.data_types import EditRequest, Failure, Score
from editkit.errors import StoreError
from editkit.results import STORE_FILE, Cell, Row, Run
from editkit.storage.digests import canonical_json, digest
from editkit.storage.disks import space_left

__all__ = ["Store", "is_complete", "requests_of", "rows_of", "runs_in"]

T = TypeVar("T")

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
        self._environment = ""
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
        text = canonical_json(description)
        with self._transaction() as connection:
            values = (fingerprint, text, checksum_of("cell", fingerprint, text))
            connection.execute(schema.UPSERT_CELL, values)

    def cells(self) -> dict[str, dict[str, Any]]:
        """Descriptions by fingerprint, in the order of their first appearance.

        Raises:
            StoreError: One is damaged.
        """
        found: dict[str, dict[str, Any]] = {}
        for fingerprint, text, checksum in self._select("cells", "fingerprint, description"):
            try:
                found[fingerprint] = read_cell(fingerprint, text, checksum)
            except DamagedError as error:
                raise StoreError(
                    f"{self.path}: the description of cell {str(fingerprint)[:12]} is damaged: "
                    f"{error}.",
                    hint="Run the same 'editkit run-benchmark' with this --out again: it writes "
                    "the description anew and keeps all sound rows.",
                ) from None
        self._warn_of_strays()
        return found

    def known_cell(self, fingerprint: str) -> dict[str, Any] | None:
        """The description of one cell; None where there is none, or it is damaged."""
        for key, text, checksum in self._select("cells", "fingerprint, description"):
            if key == fingerprint:
                with contextlib.suppress(DamagedError):
                    return read_cell(key, text, checksum)
                _log.warning("%s: the description of cell %s is damaged.", self.path, key[:12])
        return None

    def drop_damaged_descriptions(self, keep: Collection[str] = ()) -> None:
        """Remove damaged cells, requests and environments; the runs they belong to write them anew.

        Args:
            keep: Cells that are written over in any case, and keep their place.
        """
        readers: dict[str, tuple[str, Callable[..., Any]]] = {
            "cells": ("fingerprint, description", read_cell),
            "requests": ("dataset, case_id, request", read_request),
            "environments": ("digest, payload", read_environment),
        }
        for table, (names, read) in readers.items():
            damaged = []
            for rowid, *row in self._select(table, f"rowid, {names}"):
                try:
                    read(*row)
                except DamagedError as error:
                    if table != "cells" or row[0] not in keep:
                        damaged.append((rowid, str(error)))
            if damaged:
                what = "%s: %d damaged %s are removed (%s); the runs that made them do so again."
                _log.warning(what, self.path, len(damaged), table, damaged[0][1])
                with self._transaction() as connection:
                    rowids = [(rowid,) for rowid, _ in damaged]
                    connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", rowids)

    def _warn_of_strays(self) -> None:
        """Rows whose cell is unknown are in no table: that must not go unnoticed."""
        query = "SELECT count(*) FROM rows WHERE fingerprint NOT IN (SELECT fingerprint FROM cells)"
        with self._told():
            strays = self._connection.execute(query).fetchone()[0]
        if strays:
            _log.warning("%s: %d rows belong to no known cell and are left out.", self.path, strays)

    # ------------------------------------------------------------ requests

    def put_requests(self, dataset: str, requests: Mapping[int, EditRequest]) -> None:
        """Keep the edits of a slice by case id, so that reports can say what a case was about.

        Args:
            dataset: Digest of the slice.
            requests: Those of its records that are worked on.
        """
        values = []
        for case_id, request in requests.items():
            text = canonical_json(request.to_dict())
            values.append((dataset, case_id, text, checksum_of("request", dataset, case_id, text)))
        with self._transaction() as connection:
            connection.executemany(schema.UPSERT_REQUEST, values)

    def requests(self, dataset: str) -> dict[int, EditRequest]:
        """The sound edits of a slice by case id; none where an early version wrote the store."""
        found = self._select("requests", "dataset, case_id, request", "dataset = ?", (dataset,))
        sound = self._sound(found, read_request, "requests")
        return {row[1]: request for row, request in sound}

    # ------------------------------------------------------------ ratings

    def put_rating(self, name: str, rating: Mapping[str, Any]) -> None:
        """Keep what somebody said about texts, in place of what was said under this name before."""
        payload = canonical_json(rating)
        with self._transaction() as connection:
            connection.execute(
                schema.UPSERT_RATING, (name, payload, checksum_of("rating", name, payload))
            )

    def ratings(self) -> dict[str, dict[str, Any]]:
        """All sound ratings by name, in the order of their first appearance."""
        found = self._select("ratings", "name, payload")
        return {row[0]: rating for row, rating in self._sound(found, read_rating, "ratings")}

    # ------------------------------------------------------------ environments

    def computed_with(self, environment: Mapping[str, Any]) -> str:
        """Keep what the rows that are put from now on are computed with; gives its digest."""
        payload = canonical_json(environment)
        self._environment = digest(environment)
        values = (
            self._environment,
            payload,
            checksum_of("environment", self._environment, payload),
        )
        with self._transaction() as connection:
            connection.execute(schema.UPSERT_ENVIRONMENT, values)
        return self._environment

    def environments(self) -> dict[str, dict[str, Any]]:
        """What rows were computed with, by the digest that they name (``Row.environment``)."""
        found = self._select("environments", "digest, payload")
        sound = self._sound(found, read_environment, "environments")
        return {row[0]: environment for row, environment in sound}

    # ------------------------------------------------------------ rows

    def put_rows(self, fingerprint: str, rows: Iterable[Row]) -> None:
        """Keep rows in one transaction: all of them or none. Repeating it changes nothing."""
        values = [
            write_row(fingerprint, dataclasses.replace(row, environment=self._environment))
            if self._environment
            else write_row(fingerprint, row)
            for row in rows
        ]
        with self._transaction() as connection:
            connection.executemany(schema.UPSERT_ROW, values)

    def rows(self, fingerprint: str) -> list[Row]:
        """The sound rows of a cell, by case id; damaged ones are warned of and left out."""
        rows, damaged = self._read(fingerprint)
        if damaged:
            _log.warning("%s", _damage(self.path, fingerprint, damaged))
        return rows

    def drop_damaged(self, fingerprint: str) -> list[Any]:
        """Remove the damaged rows of a cell and name their cases; they will be computed again."""
        damaged = self._read(fingerprint)[1]
        if damaged:
            _log.warning(
                "%s They will be computed again.", _damage(self.path, fingerprint, damaged)
            )
            with self._transaction() as connection:
                rowids = [(each.rowid,) for each in damaged]
                connection.executemany("DELETE FROM rows WHERE rowid = ?", rowids)
        return [each.case_id for each in damaged]

    def discard(self, fingerprint: str, case_ids: Sequence[int]) -> None:
        """Remove rows of a cell."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM rows WHERE fingerprint = ? AND case_id = ?",
                [(fingerprint, case_id) for case_id in case_ids],
            )

    def merge(self, other: Store) -> Merged:
        """Take all cells and rows of another store.

        Rows that both have must agree: exactly where they were computed in one environment, else
        within :data:`editkit.benchmark.merging.TOLERANCE`.

        Raises:
            StoreError: Both have a row of the same cell and case with different results, or the
                other one is damaged; nothing is taken.
        """
        merged = merge(self, other)
        with self._transaction() as connection:
            for table, names in (
                ("cells", "fingerprint, description"),
                ("requests", "dataset, case_id, request"),
                ("ratings", "name, payload"),
                ("environments", "digest, payload"),
            ):
                found = [_with_checksum(table, row) for row in other._select(table, names)]
                marks = ", ".join("?" * (names.count(",") + 2))
                connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", found)
            new = [write_row(fingerprint, row) for fingerprint, row in merged.rows]
            connection.executemany(schema.UPSERT_ROW, new)
        return merged

    def _read(self, fingerprint: str) -> tuple[list[Row], list[_Damaged]]:
        with self._told():
            found = self._connection.execute(
                "SELECT rowid, case_id, payload, checksum FROM rows "
                "WHERE fingerprint = ? ORDER BY case_id",
                (fingerprint,),
            ).fetchall()
        rows: list[Row] = []
        damaged: list[_Damaged] = []
        for rowid, case_id, payload, checksum in found:
            try:
                rows.append(read_row(fingerprint, case_id, payload, checksum or ""))
            except DamagedError as error:
                damaged.append(_Damaged(rowid, case_id, str(error)))
        return rows, damaged

    # ------------------------------------------------------------ SQLite

    def _select(
        self, table: str, names: str, where: str = "", values: tuple[str, ...] = ()
    ) -> list[tuple[Any, ...]]:
        """Columns of a table and its checksum, which is None in a file of version 1."""
        with self._told():
            if not schema.has_table(self._connection, table):
                return []
            early = self._version == 1 and table in ("cells", "requests")
            checksum = "NULL" if early else "coalesce(checksum, '')"
            query = f"SELECT {names}, {checksum} FROM {table}"
            query += f" WHERE {where}" if where else ""
            return self._connection.execute(f"{query} ORDER BY rowid", values).fetchall()

    def _sound(
        self, found: Iterable[tuple[Any, ...]], read: Callable[..., T], what: str
    ) -> list[tuple[tuple[Any, ...], T]]:
        """What can be read; what cannot is warned of and left out."""
        sound: list[tuple[tuple[Any, ...], T]] = []
        problems = []
        for row in found:
            try:
                sound.append((row, read(*row)))
            except DamagedError as error:
                problems.append(str(error))
        if problems:
            _log.warning(
                "%s: %d damaged %s are left out (%s).",
                *(self.path, len(problems), what, problems[0]),
            )
        return sound

    def _read_only(self) -> sqlite3.Connection:
        # SQLite wants to write beside a WAL file even to read it, unless told that nobody writes.
        immutable = not os.access(self.path.parent, os.W_OK)
        connection = schema.open_checked(self.path, immutable=immutable)
        self._version = schema.version_of(connection)
        return connection

    def _writable(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=schema.BUSY_SECONDS):
            if not self.path.exists():
                schema.create(self.path)
            connection = schema.connect(self.path)
            schema.check(connection, self.path)
            connection.execute("PRAGMA synchronous = FULL")
            if schema.version_of(connection) < schema.VERSION:
                schema.upgrade(connection)
        self._version = schema.VERSION
        return connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        with self._told():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # on a full disk SQLite may have rolled back itself
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's troubles as one clear error."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:  # locked, full disk, no permission
            raise StoreError(
                f"the result store {self.path} cannot be used: {error}{space_left(self.path)}.",
                hint="Check the disk's space and permissions, and what else uses the folder.",
            ) from error
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise StoreError(
                f"the result store {self.path} is damaged: {error}.",
                hint="Move it away, with its -wal and -shm files, and run the command again.",
            ) from error


@dataclasses.dataclass(frozen=True)
class _Damaged:
    """A row that cannot be read."""

    rowid: int
    case_id: Any
    problem: str


def _with_checksum(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A value of another store, which may be of version 1 and lack the checksum."""
    return row if row[-1] is not None else (*row[:-1], checksum_of(table[:-1], *row[:-1]))


def _damage(path: Path, fingerprint: str, damaged: Sequence[_Damaged]) -> str:
    cases = ", ".join(str(each.case_id)[:20] for each in damaged[:8])
    more = f" and {len(damaged) - 8} more" if len(damaged) > 8 else ""
    return (
        f"{path}: rows of cell {str(fingerprint)[:12]} are damaged ({damaged[0].problem}): "
        f"case {cases}{more}."
    )


def runs_in(out: Path) -> list[Run]:
    """The runs whose cells are in the store of an output folder.

    Cells of one benchmark, model, slice and set of metrics make one run.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    with Store(out / STORE_FILE, read_only=True) as store:
        described = {k: d for k, d in store.cells().items() if "benchmark" in d}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for description in described.values():
        identity = {
            "benchmark": description["benchmark"],
            "model": [description["model"][key] for key in ("fingerprint", "dtype")],
            "dataset": description["dataset"]["digest"],
            "metrics": description["metrics"],
        }
        groups.setdefault(canonical_json(identity), []).append(description)
    return [_run_of(out, descriptions) for descriptions in groups.values()]


def _run_of(out: Path, descriptions: list[Mapping[str, Any]]) -> Run:
    latest = descriptions[-1]
    cells = tuple(Cell(**description["cell"]) for description in descriptions)
    return Run(
        out=out,
        benchmark=latest["benchmark"],
        model=latest["model"],
        dataset=latest["dataset"],
        metrics=tuple(latest["metrics"]),
        scores=tuple(_score(score) for score in latest["scores"]),
        seeds=tuple(sorted({cell.seed for cell in cells})),
        cells=cells,
        batch=latest["batch"],
    )


def _score(described: Mapping[str, Any]) -> Score:
    failure = described.get("failure")
    return Score(**{**described, "failure": Failure(**failure) if failure else None})


def rows_of(run: Run, cell: Cell) -> list[Row]:
    """The rows of a cell that are stored by now, by case id.

    Raises:
        StoreError: The store cannot be read.
    """
    with Store(run.store, read_only=True) as store:
        return store.rows(cell.fingerprint)


def requests_of(run: Run) -> dict[int, EditRequest]:
    """The edits of a run's records by case id; stores of early versions have none.

    Raises:
        StoreError: The store cannot be read.
    """
    with Store(run.store, read_only=True) as store:
        return store.requests(str(run.dataset["digest"]))


def is_complete(run: Run, cell: Cell) -> bool:
    """Whether every record of the run has its row."""
    return len(rows_of(run, cell)) == int(run.dataset["n_records"])
