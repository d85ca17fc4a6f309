"""The folder of a ledger, and how it changes: completely or not at all.

::

    ledger.json      the base model, with a digest of each of its files
    log.jsonl        one line per action
    patches/         copies of the patch files
    versions/NAME    the model folder with the applied patches
    versions/NAME.json   which patches these are, digests of the files, length and digest of the log
    model            a link to versions/NAME: what is served
    base/            only for a GGUF file: its dequantised weights

An action writes down its intent (``.pending.json``), builds a new version next to the old one, and
replaces the link, which is atomic. Only then is the log extended, and the old version removed. A
killed action left either the old link or the new one: the next action removes what is unfinished
or completes the log, and readers compute what it will do. The intent holds the lines of the log, so
the log always agrees with the link.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from editkit.errors import DeltaError, LedgerError
from editkit.patches.file_records import differences, flush, flushed_records
from editkit.patches.ledger_state import (
    Description,
    LedgerEntry,
    LogLine,
    Pending,
    State,
    Version,
    dumped,
    entries_of,
    parsed,
)
from editkit.storage.cache import write_atomically
from editkit.storage.digests import sha256_of
from editkit.storage.machine import is_about_space

__all__ = ["FORMAT", "LedgerFolder", "Salvaged", "can_link"]

FORMAT = 1
_VERSION = re.compile(r"\d{4,}-[0-9a-f]{12}")
_OURS = re.compile(  # versions, and what a killed process left of them
    r"\d{4,}-[0-9a-f]{12}(\.json)?|\.\d{4,}-[0-9a-f]{12}\..*"
)
_TEMPORARY = re.compile(
    r"\.(model|model\.txt|ledger\.json|log\.jsonl|\.pending\.json)\.[0-9a-f]{32}"
)
_WAIT_S = 0.02
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Salvaged:
    """What is left of a damaged ledger: enough to build its model folder again.

    Attributes:
        description: What never changes.
        log: The log.
        log_text: The log's text.
        problems: What is damaged; empty: nothing.
    """

    description: Description
    log: tuple[LogLine, ...]
    log_text: bytes
    problems: tuple[str, ...]


class LedgerFolder:
    """Reads and changes the files of a ledger.

    Args:
        folder: The folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.patches = folder / "patches"
        self.versions = folder / "versions"
        self.base = folder / "base"
        self._description = folder / "ledger.json"
        self._log = folder / "log.jsonl"
        self._pending = folder / ".pending.json"
        self._link = folder / "model"
        self._named = folder / "model.txt"

    # ------------------------------------------------------------ reading

    def exists(self) -> bool:
        """Whether there is a ledger, damaged or not; one with unfinished creation is none."""
        if not self._description.is_file():
            return False
        return self._served() is not None or self._log.exists()

    def description(self) -> Description:
        """The base model, and how the served version is named.

        Raises:
            LedgerError: The file is missing, damaged, or from a newer version.
        """
        text = self._text(self._description)
        if text is None:
            raise LedgerError(
                f"{str(self.folder)!r} is not a ledger: it has no ledger.json.",
                hint="Make one with 'editkit patch apply FILE --model M --ledger DIR', or "
                "Ledger(DIR, model=M).",
            )
        try:
            description = parsed(Description, text)
        except ValueError as error:
            raise _damaged(self._description, str(error)) from None
        if description.format > FORMAT:
            raise LedgerError(
                f"{self._description} has format {description.format}, this version reads up to "
                f"{FORMAT}.",
                hint="Install a newer editkit.",
            )
        return description

    def read(self) -> State:
        """The ledger as it is now, whatever another process does meanwhile.

        Raises:
            LedgerError: There is none, or its files contradict each other.
        """
        seen = None
        while True:
            try:
                return self._read_once()
            except LedgerError:  # real, or another process has just changed the ledger
                now = self._glimpse()
                if now == seen:
                    raise
                seen = now
                time.sleep(_WAIT_S)

    def _read_once(self) -> State:
        description = self.description()
        name = self._served()
        if name is None:
            raise LedgerError(
                f"the ledger {str(self.folder)!r} has no model folder: {self._pointer().name!r} is "
                "missing.",
                hint="Build it again with 'editkit patch apply --rebuild --ledger DIR'.",
            )
        version = self.version(name)
        text = self._whole_log(name)
        if len(text) != version.log_bytes or sha256_of(text) != version.log_sha256:
            raise _damaged(self._log, "it is not the log that editkit wrote")
        log = self._lines(text)
        applied = {entry.number for entry in entries_of(log) if entry.applied}
        if applied != set(version.applied):
            raise _damaged(self._log, f"it does not agree with versions/{name}.json")
        return State(description.base, version, log, text)

    def _glimpse(self) -> object:
        pending = self._text(self._pending) if self._pending.exists() else None
        size = self._log.stat().st_size if self._log.exists() else 0
        return self._description.exists(), self._raw_pointer(), size, pending

    def version(self, name: str) -> Version:
        """The record of a version.

        Raises:
            LedgerError: It is missing or damaged.
        """
        path = self.versions / f"{name}.json"
        text = self._text(path)
        if text is None:
            raise _damaged(path, "it is missing")
        try:
            return parsed(Version, text)
        except ValueError as error:
            raise _damaged(path, str(error)) from None

    def model(self, state: State) -> Path:
        """The folder of the served version."""
        return self.versions / state.version.name

    def shown_model(self) -> Path:
        """What names the served version: the link, or the file."""
        return self._pointer()

    def salvage(self) -> Salvaged:
        """What a rebuild can rely on. Call it with the lock.

        Raises:
            LedgerError: ``ledger.json`` or the log cannot be read, or the log lacks lines.
        """
        description = self.description()
        try:
            state = self.read()
        except LedgerError as error:
            text = self._whole_log(self._served_or_none())
            log = self._lines(text)
            applied = {entry.number for entry in entries_of(log) if entry.applied}
            recorded = self._recorded_as_applied()
            if recorded is not None and applied != recorded:
                numbers = ", ".join(map(str, sorted(recorded))) or "none"
                raise LedgerError(
                    f"{self._log} does not list the patches that are applied (numbers {numbers}).",
                    hint="Restore it from a backup.",
                ) from None
            return Salvaged(description, log, text, (error.message,))
        problems = differences(self.model(state), state.version.files, whole=True)
        return Salvaged(description, state.log, state.log_text, tuple(problems))

    def _recorded_as_applied(self) -> set[int] | None:
        """Numbers of the patches in the served version; None if its record cannot be read."""
        served = self._served_or_none()
        try:
            return None if served is None else set(self.version(served).applied)
        except LedgerError:
            return None

    def _whole_log(self, served: str | None) -> bytes:
        """The log's text, with the lines of an action that was killed before it wrote them."""
        text = self._log.read_bytes() if self._log.is_file() else b""
        pending = self._intent()
        if pending is not None and pending.version == served:
            return text[: pending.log_bytes] + pending.lines.encode()
        return text

    def _lines(self, text: bytes) -> tuple[LogLine, ...]:
        try:
            lines = [parsed(LogLine, line) for line in text.decode().split("\n")[:-1]]
            if not text.endswith(b"\n"):
                raise ValueError("its last line is not complete")
            entries_of(lines)
        except (ValueError, KeyError) as error:
            raise _damaged(self._log, str(error)) from None
        return tuple(lines)

    def _intent(self) -> Pending | None:
        text = self._text(self._pending)
        if text is None:
            return None
        try:
            return parsed(Pending, text)
        except ValueError as error:
            raise _damaged(self._pending, str(error)) from None

    def _text(self, path: Path) -> str | None:
        """A small file's text; None if it does not exist."""
        try:
            return path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError:
            raise _damaged(path, "it is not text") from None
        except OSError as error:
            raise LedgerError(
                f"{path} cannot be read: {error.strerror or error}.",
                hint="Check the file, its owner and its permissions.",
            ) from None

    # ------------------------------------------------------------ the served version

    def _pointer(self) -> Path:
        return self._link if self.description().pointer == "link" else self._named

    def _raw_pointer(self) -> str | None:
        """The text of the link or of the file; None if there is none.

        Raises:
            LedgerError: Something else has its name.
        """
        pointer = self._pointer()
        if pointer == self._named:
            text = self._text(pointer)
            return None if text is None else text.strip()
        try:
            return str(pointer.readlink())
        except FileNotFoundError:
            return None
        except OSError:  # a copy of the ledger that follows links
            raise LedgerError(
                f"{pointer} is not a link to a version of the ledger.",
                hint="Remove or rename it, then run 'editkit patch apply --rebuild --ledger DIR'.",
            ) from None

    def _served(self) -> str | None:
        """Name of the served version; None if none was ever served.

        Raises:
            LedgerError: The link does not point to a version.
        """
        raw = self._raw_pointer()
        if raw is None:
            return None
        parent, name = os.path.split(raw)
        if parent != self.versions.name or not _VERSION.fullmatch(name):
            raise LedgerError(
                f"{self._pointer()} points to {raw!r}, which is not a version of the ledger.",
                hint="Remove it, then run 'editkit patch apply --rebuild --ledger DIR'.",
            )
        return name

    def _served_or_none(self) -> str | None:
        try:
            return self._served()
        except LedgerError:
            return None

    # ------------------------------------------------------------ changing

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process changes the ledger; what a killed one left is cleaned up first.

        Raises:
            LedgerError: The folder cannot be written.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.info("another process is changing %s; waiting for it", self.folder)
                lock.acquire()
        try:
            with self._writing():
                self.recover()
            yield
        finally:
            lock.release()

    def describe(self, description: Description) -> None:
        """Write ``ledger.json``."""
        with self._writing():
            self._write(self._description, dumped(description, indent=2) + "\n")

    def change(
        self,
        name: str,
        *,
        log_text: bytes,
        lines: Sequence[LogLine],
        applied: Sequence[LedgerEntry],
        build: Callable[[Path], None],
        new_files: Mapping[str, Path],
        description: Description | None = None,
        copy_base: Callable[[Path], None] | None = None,
    ) -> None:
        """Serve a new version. Call it with the lock.

        Args:
            name: The new version.
            log_text: The log before.
            lines: What is added to the log.
            applied: The patches in the new version, in canonical order.
            build: Writes the model folder to a path that does not exist. It is called after the
                patch files were copied.
            new_files: Patch files to copy, by name.
            description: For a new ledger.
            copy_base: Writes the ledger's copy of the base model to a path, for a new ledger.

        Raises:
            LedgerError: A file cannot be written, as on a full disk; the ledger is as before.
        """
        added = "".join(f"{dumped(line)}\n" for line in lines)
        pending = Pending(name, len(log_text), added, tuple(new_files))
        built = self.versions / name
        with self._writing():
            try:
                self._write(self._pending, dumped(pending))
                flush(self.folder)
                if description is not None:
                    self._write(self._description, dumped(description, indent=2) + "\n")
                if copy_base is not None:
                    copy_base(self.base)
                    flushed_records(self.base)
                self.patches.mkdir(exist_ok=True)
                self.versions.mkdir(exist_ok=True)
                for file, source in new_files.items():
                    shutil.copyfile(source, self.patches / file)
                    flush(self.patches / file)
                build(built)
                flush(self.patches)
                whole = log_text + added.encode()
                version = Version(
                    name,
                    tuple(entry.number for entry in applied),
                    flushed_records(built),
                    len(whole),
                    sha256_of(whole),
                )
                self._write(self.versions / f"{name}.json", dumped(version))
                flush(self.versions)
                self._serve(name)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.recover()
                raise
        try:
            self.recover()
        except OSError as error:  # the next action completes it; readers see the whole log
            _log.warning("the log of %s could not be completed now: %s", self.folder, error)

    def _serve(self, name: str) -> None:
        """Name the version to serve, atomically."""
        target = f"{self.versions.name}/{name}"
        pointer = self._pointer()
        if pointer == self._named:
            self._write(pointer, f"{target}\n")
            return
        temporary = self.folder / f".model.{uuid.uuid4().hex}"
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(pointer)
        flush(self.folder)

    def recover(self) -> None:
        """Complete an action that was killed after its new version was served, undo any other.

        Call it with the lock.

        Raises:
            OSError: A file cannot be written.
            LedgerError: The ledger is damaged.
        """
        pending = self._intent()
        described = self._description.is_file()
        for path in self.folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if pending is None and not described:
            return
        served = self._served() if described else None
        if pending is not None:
            if pending.version == served:
                self._complete_log(pending)
            else:
                for file in pending.new_files:
                    (self.patches / file).unlink(missing_ok=True)
                if served is None and not self._log.exists():  # it was to create the ledger
                    shutil.rmtree(self.base, ignore_errors=True)
                    self._description.unlink(missing_ok=True)
            self._pending.unlink(missing_ok=True)
        if served is None and self._log.exists():
            return  # damaged: keep everything
        if served is not None and not (self.versions / f"{served}.json").is_file():
            return
        self._remove_leftovers(served)

    def _complete_log(self, pending: Pending) -> None:
        text = self._log.read_bytes() if self._log.is_file() else b""
        lines = pending.lines.encode()
        if len(text) == pending.log_bytes:
            with self._log.open("ab") as stream:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
        elif text[pending.log_bytes :] != lines:  # cut off in the middle
            write_atomically(self._log, text[: pending.log_bytes] + lines)

    def _remove_leftovers(self, served: str | None) -> None:
        """Remove versions that are not served."""
        if not self.versions.is_dir():
            return
        for path in self.versions.iterdir():
            if not _OURS.fullmatch(path.name) or path.name in (served, f"{served}.json"):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)  # Windows: a reader has it open
            else:
                path.unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        write_atomically(path, text.encode())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DeltaError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            hint = "Free disk space" if is_about_space(cause) else "Check its permissions"
            raise LedgerError(
                f"the ledger {str(self.folder)!r} cannot be written: {cause}.",
                hint=f"{hint}, and run the command again. The ledger is as it was.",
            ) from error


def can_link(folder: Path) -> bool:
    """Whether the folder can have links that are replaced atomically."""
    if os.name != "posix":
        return False
    temporary = folder / f".model.{uuid.uuid4().hex}"
    try:
        temporary.symlink_to("versions", target_is_directory=True)
    except (OSError, NotImplementedError):
        return False
    temporary.unlink()
    return True


def _damaged(path: Path, problem: str) -> LedgerError:
    return LedgerError(
        f"{path} is damaged: {problem}.",
        hint="Restore it from a backup, or run 'editkit patch apply --rebuild --ledger DIR', which "
        "writes down what it repairs.",
    )
