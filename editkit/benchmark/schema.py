"""The store's file: its tables, their versions, and whether a file is really one of ours.

Version 1 had no checksums of cells and requests and no environments; its rows are read as they are,
and the file becomes version 2 when it is first written to.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from editkit.benchmark.stored import checksum_of
from editkit.errors import StoreError

__all__ = [
    "BUSY_SECONDS",
    "VERSION",
    "check_file",
    "connect",
    "create",
    "has_table",
    "open_checked",
    "upgrade",
]

VERSION = 2
BUSY_SECONDS = 60
_OLDEST = 1
_APPLICATION = 0x65646B74
_COLUMNS = {
    "cells": "fingerprint TEXT PRIMARY KEY, description TEXT NOT NULL, checksum TEXT NOT NULL",
    "rows": "fingerprint TEXT NOT NULL, case_id INTEGER NOT NULL, payload TEXT NOT NULL,"
    " checksum TEXT NOT NULL, PRIMARY KEY (fingerprint, case_id)",
    "requests": "dataset TEXT NOT NULL, case_id INTEGER NOT NULL, request TEXT NOT NULL,"
    " checksum TEXT NOT NULL, PRIMARY KEY (dataset, case_id)",
    "ratings": "name TEXT PRIMARY KEY, payload TEXT NOT NULL, checksum TEXT NOT NULL",
    "environments": "digest TEXT PRIMARY KEY, payload TEXT NOT NULL, checksum TEXT NOT NULL",
}
_NAMES = {
    "cells": ["fingerprint", "description", "checksum"],
    "rows": ["fingerprint", "case_id", "payload", "checksum"],
    "requests": ["dataset", "case_id", "request", "checksum"],
    "ratings": ["name", "payload", "checksum"],
    "environments": ["digest", "payload", "checksum"],
}
UPSERT_ROW = (
    "INSERT INTO rows VALUES (?, ?, ?, ?) ON CONFLICT (fingerprint, case_id) "
    "DO UPDATE SET payload = excluded.payload, checksum = excluded.checksum"
)
UPSERT_REQUEST = (
    "INSERT INTO requests VALUES (?, ?, ?, ?) ON CONFLICT (dataset, case_id) "
    "DO UPDATE SET request = excluded.request, checksum = excluded.checksum"
)
UPSERT_CELL = (
    "INSERT INTO cells VALUES (?, ?, ?) ON CONFLICT (fingerprint) "
    "DO UPDATE SET description = excluded.description, checksum = excluded.checksum"
)
_UPSERT = (
    "INSERT INTO {} VALUES (?, ?, ?) ON CONFLICT ({}) "
    "DO UPDATE SET payload = excluded.payload, checksum = excluded.checksum"
)
UPSERT_RATING = _UPSERT.format("ratings", "name")
UPSERT_ENVIRONMENT = _UPSERT.format("environments", "digest")
_LATER = ("requests", "ratings", "environments")  # early files of version 1 lack them


def check_file(path: Path) -> None:
    """Refuse what SQLite would wait for (a pipe), or call a broken disk (a folder).

    Raises:
        StoreError: Something else than a file has the store's name.
    """
    if path.exists() and not path.is_file():
        raise StoreError(
            f"{path} is {'a folder' if path.is_dir() else 'a device or a pipe'}, expected the "
            "file of a result store.",
            hint="Move it away, or choose another --out folder.",
        )


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may write."""
    check_file(path)
    return _prepared(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None))


def open_checked(path: Path, *, immutable: bool) -> sqlite3.Connection:
    """A connection that only reads, to a file that is a store."""
    check_file(path)
    uri = f"{path.resolve().as_uri()}?{'immutable=1' if immutable else 'mode=ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    check(_prepared(connection), path)
    return connection


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.text_factory = _text
    return connection


def _text(content: bytes) -> str | bytes:
    """A text; bytes that are none stay bytes, and the value that holds them is damaged."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def create(path: Path) -> None:
    """An empty store, complete from the moment that it can be seen."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    _remove(unfinished)
    try:
        with contextlib.closing(connect(unfinished)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, columns in _COLUMNS.items():
                connection.execute(f"CREATE TABLE {table} ({columns})")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
            # Only now: closing a WAL file on a full disk fails in silence and leaves the tables in
            # the journal, which would not move with the file.
            connection.execute("PRAGMA journal_mode = WAL")
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(unfinished)
        raise
    unfinished.replace(path)


def _remove(unfinished: Path) -> None:
    """Remove an unfinished file with SQLite's journals."""
    for leftover in unfinished.parent.glob(f"{unfinished.name}*"):
        leftover.unlink()


def version_of(connection: sqlite3.Connection) -> int:
    """The file's schema version."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Close and refuse a file that is no store, is too new, or whose tables are not ours.

    Raises:
        StoreError: It cannot be used.
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
            hint="Use the editkit that wrote it, or choose another --out folder.",
        )
    kinds = dict(connection.execute("SELECT name, type FROM sqlite_master ORDER BY name"))
    if triggers := [name for name, kind in kinds.items() if kind == "trigger"]:
        raise _damaged(path, f"it has the trigger {triggers[0]!r}, which editkit never makes")
    for table, names in _NAMES.items():
        if table not in kinds:
            if version < VERSION and table in _LATER:
                continue
            raise _damaged(path, f"the table {table} is missing")
        if kinds[table] != "table":
            raise _damaged(path, f"{table} is a {kinds[table]}, expected a table")
        expected = names[:-1] if version == 1 and table in ("cells", "requests") else names
        found = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
        if found != expected:
            raise _damaged(
                path, f"{table} has the columns {_listed(found)}, expected {_listed(expected)}"
            )


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether the file has a table; early files of version 1 lack some."""
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(known, (name,)).fetchone() is not None


def upgrade(connection: sqlite3.Connection) -> None:
    """Make a file of version 1 one of the current version, in one transaction.

    What it holds by then gets its checksum as it is: damage from before cannot be noticed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version_of(connection) < VERSION:  # another process may have been faster
            _upgrade(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk SQLite may have rolled back itself
            connection.execute("ROLLBACK")
        raise


def _upgrade(connection: sqlite3.Connection) -> None:
    keys = {"cells": ("fingerprint", "description"), "requests": ("dataset, case_id", "request")}
    kinds = {"cells": "cell", "requests": "request"}
    for table, (key, content) in keys.items():
        if not has_table(connection, table):
            continue
        connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum TEXT NOT NULL DEFAULT ''")
        found = connection.execute(f"SELECT rowid, {key}, {content} FROM {table}").fetchall()
        sums = [
            (checksum_of(kinds[table], *parts), rowid)
            for rowid, *parts in found
            if not any(part is None or isinstance(part, bytes) for part in parts)
        ]
        connection.executemany(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", sums)
    for table in _LATER:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({_COLUMNS[table]})")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _listed(names: list[str]) -> str:
    return ", ".join(name[:40] for name in names) or "none"


def _damaged(path: Path, problem: str) -> StoreError:
    return StoreError(
        f"the result store {path} is damaged: {problem}.",
        hint="Move it away, with its -wal and -shm files, and run the command again.",
    )
