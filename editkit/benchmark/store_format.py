"""The format of ``results.sqlite``: its tables, versions and checksums.

Each entry has a key, a content in JSON (:mod:`editkit.benchmark.store_contents`) and a checksum
over both.

Version 1 had no checksums of cells and requests, and no environments; version 2 had no rows of
earlier checkpoints and of models. Such files are read as they are, and upgraded on the first write.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editkit.errors import StoreError
from editkit.storage.digests import sha256_of

__all__ = [
    "BUSY_SECONDS",
    "VERSION",
    "check",
    "checksum",
    "checksum_of",
    "columns_of",
    "connect",
    "create",
    "has_checksum",
    "has_table",
    "lacks_checksums",
    "open_read_only",
    "upgrade",
    "upsert",
    "version_of",
]

VERSION = 3
BUSY_SECONDS = 60
"""How long to wait for another process that is writing."""

_OLDEST = 1
_APPLICATION = 0x65646B74
_TABLES = {  # name: the columns of its key, and the column of its content
    "cells": ({"fingerprint": "TEXT"}, "description"),
    "rows": ({"fingerprint": "TEXT", "case_id": "INTEGER"}, "payload"),
    "requests": ({"dataset": "TEXT", "case_id": "INTEGER"}, "request"),
    "ratings": ({"name": "TEXT"}, "payload"),
    "environments": ({"digest": "TEXT"}, "payload"),
    "history": ({"fingerprint": "TEXT", "checkpoint": "INTEGER", "case_id": "INTEGER"}, "payload"),
    "models": ({"fingerprint": "TEXT", "checkpoint": "INTEGER", "model": "INTEGER"}, "payload"),
}
_SINCE = {"requests": 2, "ratings": 2, "environments": 2, "history": 3, "models": 3}
"""The version from which on a file has a table; early files of version 1 lack some."""
_WITHOUT_CHECKSUM = ("cells", "requests")  # in version 1


# ---------------------------------------------------------------- tables


def columns_of(table: str) -> list[str]:
    """Names of a table's columns in the current version, the checksum last."""
    key, content = _TABLES[table]
    return [*key, content, "checksum"]


def _create_table(table: str) -> str:
    key, content = _TABLES[table]
    columns = [f"{name} {kind} NOT NULL" for name, kind in key.items()]
    columns += [f"{content} TEXT NOT NULL", "checksum TEXT NOT NULL"]
    return (
        f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}, PRIMARY KEY ({', '.join(key)}))"
    )


def upsert(table: str) -> str:
    """The statement that inserts an entry, or replaces the one with the same key."""
    key, content = _TABLES[table]
    return (
        f"INSERT INTO {table} VALUES ({', '.join('?' * (len(key) + 2))}) "
        f"ON CONFLICT ({', '.join(key)}) "
        f"DO UPDATE SET {content} = excluded.{content}, checksum = excluded.checksum"
    )


def checksum(table: str, *parts: int | str) -> str:
    """The checksum of an entry: its key and content."""
    if table == "rows":
        return checksum_of(*parts)
    return checksum_of(table if table == "history" else table[:-1], *parts)


def has_checksum(table: str, parts: Sequence[Any], stored: object) -> bool:
    """Whether an entry, its key and content, has the checksum that is stored with it."""
    if any(part is None or isinstance(part, bytes) for part in parts):
        return False
    return stored is None or checksum(table, *parts) == stored


def checksum_of(*parts: int | str) -> str:
    """SHA-256 of the parts, one per line."""
    return sha256_of("\n".join(str(part) for part in parts))


# ---------------------------------------------------------------- the file


def connect(path: Path) -> sqlite3.Connection:
    """Open a store for writing.

    Raises:
        StoreError: The path is not a regular file.
    """
    _check_regular(path)
    return _prepared(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None))


def open_read_only(path: Path, *, immutable: bool) -> sqlite3.Connection:
    """Open a store for reading and check it.

    Args:
        path: The file.
        immutable: The folder is not writable, so SQLite cannot keep its shared memory file there.

    Raises:
        StoreError: The file is not a store that this version reads.
    """
    _check_regular(path)
    uri = f"{path.resolve().as_uri()}?{'immutable=1' if immutable else 'mode=ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    check(_prepared(connection), path)
    return connection


def _check_regular(path: Path) -> None:
    """SQLite would wait for a pipe forever, and report a folder as a disk error."""
    if path.exists() and not path.is_file():
        raise StoreError(
            f"{path} is {'a folder' if path.is_dir() else 'a device or a pipe'}, expected the "
            "file of a result store.",
            hint="Move it away, or choose another --out folder.",
        )


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.text_factory = _decoded
    return connection


def _decoded(content: bytes) -> str | bytes:
    """Invalid UTF-8 stays bytes: the entry is damaged, but the query goes through."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def create(path: Path) -> None:
    """Create an empty store. The file appears complete or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    _remove(unfinished)
    try:
        with contextlib.closing(connect(unfinished)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                connection.execute(_create_table(table))
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
            # Only now: closing a WAL file on a full disk fails silently and leaves the tables in
            # the journal, which would not be renamed with the file.
            connection.execute("PRAGMA journal_mode = WAL")
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(unfinished)
        raise
    unfinished.replace(path)


def _remove(unfinished: Path) -> None:
    """Remove an unfinished file and SQLite's journals of it."""
    for leftover in unfinished.parent.glob(f"{unfinished.name}*"):
        leftover.unlink()


def version_of(connection: sqlite3.Connection) -> int:
    """The file's schema version."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a file is a store with the expected tables; close the connection if not.

    Raises:
        StoreError: It is another database, it is too new, or its tables are damaged.
    """
    try:
        _check(connection, path)
    except BaseException:
        connection.close()
        raise


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
        raise StoreError(
            f"{path} is a database, but not a result store of editkit.",
            hint="Choose another --out folder.",
        )
    version = version_of(connection)
    if not _OLDEST <= version <= VERSION:
        raise StoreError(
            f"{path} has schema version {version}, expected {_OLDEST} to {VERSION}.",
            hint="Use the version of editkit that wrote it, or choose another --out folder.",
        )
    kinds = dict(connection.execute("SELECT name, type FROM sqlite_master ORDER BY name"))
    if triggers := [name for name, kind in kinds.items() if kind == "trigger"]:
        raise _damaged(path, f"it has the trigger {triggers[0]!r}, which editkit never creates")
    for table in _TABLES:
        if table not in kinds:
            if version < _SINCE.get(table, 1):
                continue
            raise _damaged(path, f"the table {table} is missing")
        if kinds[table] != "table":
            raise _damaged(path, f"{table} is a {kinds[table]}, expected a table")
        expected = columns_of(table)[: -1 if lacks_checksums(version, table) else None]
        columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
        if columns != expected:
            raise _damaged(
                path, f"{table} has the columns {_listed(columns)}, expected {_listed(expected)}"
            )


def lacks_checksums(version: int, table: str) -> bool:
    """Whether a table of a file of this version has no checksums."""
    return version == 1 and table in _WITHOUT_CHECKSUM


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether the file has a table; early files of version 1 lack some."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


def upgrade(connection: sqlite3.Connection) -> None:
    """Upgrade a file of an earlier version in one transaction.

    Existing entries get the checksum of their current content: earlier damage stays undetected.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection)
        if version < VERSION:  # another process may have upgraded it
            if version == 1:
                _add_checksums(connection)
            for table in _SINCE:
                connection.execute(_create_table(table))
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk SQLite may have rolled back already
            connection.execute("ROLLBACK")
        raise


def _add_checksums(connection: sqlite3.Connection) -> None:
    for table in _WITHOUT_CHECKSUM:
        if not has_table(connection, table):
            continue
        connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum TEXT NOT NULL DEFAULT ''")
        names = ", ".join(columns_of(table)[:-1])
        entries = connection.execute(f"SELECT rowid, {names} FROM {table}").fetchall()
        checksums = [
            (checksum(table, *parts), rowid)
            for rowid, *parts in entries
            if not any(part is None or isinstance(part, bytes) for part in parts)
        ]
        connection.executemany(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", checksums)


def _listed(names: list[str]) -> str:
    return ", ".join(name[:40] for name in names) or "none"


def _damaged(path: Path, problem: str) -> StoreError:
    return StoreError(
        f"the result store {path} is damaged: {problem}.",
        hint="Move it away together with its -wal and -shm files, and run the command again.",
    )
