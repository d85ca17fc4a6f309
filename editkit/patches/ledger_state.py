"""What a ledger holds, as plain data: its base model, its log, and the patches that are applied.

Which patches are applied follows from the log alone: every line applies or reverts one of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import pydantic

from editkit.patches.content import PatchContent
from editkit.patches.file_records import FileRecord
from editkit.safe_text import one_line
from editkit.storage.digests import key_of
from editkit.storage.strict_json import parse_json

__all__ = [
    "BaseModel",
    "Description",
    "LedgerEntry",
    "LogLine",
    "Pending",
    "State",
    "Version",
    "canonical",
    "dumped",
    "entries_of",
    "fact_in_words",
    "parsed",
    "version_name",
]

_MOST_FACTS = 3
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """The unedited model.

    Attributes:
        name: A registered name, a hub id, or the path of a folder or GGUF file.
        revision: Revision of a hub model.
        path: Its folder or GGUF file on this machine.
        fingerprint: Its identity, as :func:`editkit.registry.models.fingerprint_of` gives it.
        legacy: Its fingerprint in earlier versions of editkit.
        copied: Whether the ledger keeps a copy of its files: the dequantised weights of a GGUF
            file.
        files: Its files by name.
    """

    name: str
    revision: str | None
    path: str
    fingerprint: str
    legacy: str
    copied: bool
    files: Mapping[str, FileRecord]

    def __str__(self) -> str:
        at = f" at revision {self.revision}" if self.revision else ""
        return f"{self.name!r}{at} ({self.fingerprint[:12]})"


@dataclasses.dataclass(frozen=True)
class Description:
    """What never changes in a ledger, apart from the place of its base model.

    Attributes:
        format: Version of the ledger's layout.
        pointer: How the served version is named: by a link, or in a file where links cannot be
            replaced atomically.
        base: The unedited model.
    """

    format: int
    pointer: Literal["link", "file"]
    base: BaseModel


@dataclasses.dataclass(frozen=True)
class LogLine:
    """One line of the log.

    Attributes:
        time: Time in UTC, ISO 8601.
        by: Who: ``user@host``, or the name that was given.
        action: ``create`` and ``rebuild`` concern the whole ledger, the others one patch.
        version: Name of the model folder that the action made.
        number: The patch's number in the ledger.
        digest: Digest of the patch's changes, as ``patch.delta.digest()`` gives it.
        facts: What it writes, in words.
        editor: Name of the editor that made it.
        created: When it was made; None if its file does not have that.
        file: Name of the ledger's copy.
        sha256: Digest of that file.
        made_on: Digests of the patches that it was made on top of.
        forced: The objections that were overruled with ``force``.
        repaired: The damage that a rebuild repaired.
    """

    time: str
    by: str
    action: Literal["create", "apply", "revert", "rebuild"]
    version: str
    number: int | None = None
    digest: str = ""
    facts: tuple[str, ...] = ()
    editor: str = ""
    created: str | None = None
    file: str = ""
    sha256: str = ""
    made_on: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The line as plain data, without entries that have their default."""
        fields = dataclasses.fields(self)
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields
            if (value := getattr(self, field.name)) != field.default
        }

    def __repr__(self) -> str:
        what = (
            f" {self.number}: {one_line('; '.join(self.facts))}" if self.number is not None else ""
        )
        forced = " (forced)" if self.forced else ""
        return f"<{self.time} {self.by}: {self.action}{what}{forced}>"


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """A patch of a ledger.

    Attributes:
        number: Its number.
        applied: Whether it is applied now.
        line: The log's line about when it was last applied.
        reverted: The line about its revert; None if it is applied.
    """

    number: int
    applied: bool
    line: LogLine
    reverted: LogLine | None = None

    @property
    def digest(self) -> str:
        """Digest of its changes."""
        return self.line.digest

    @property
    def facts(self) -> tuple[str, ...]:
        """What it writes, in words."""
        return self.line.facts

    @property
    def fact(self) -> str:
        """What it writes, in words, on one line: the first facts of many."""
        first, rest = self.facts[:_MOST_FACTS], len(self.facts) - _MOST_FACTS
        text = "; ".join(first) or "(no fact recorded)"
        return one_line(f"{text}; and {rest} more" if rest > 0 else text)

    def __str__(self) -> str:
        return f"{self.number} ({self.fact})"

    def __repr__(self) -> str:
        state = "applied" if self.applied else "reverted"
        return f"<LedgerEntry {self.number}: {self.fact}, {self.line.editor}, {state}>"


@dataclasses.dataclass(frozen=True)
class Version:
    """A model folder that the ledger wrote.

    Attributes:
        name: Its name in the folder of versions.
        applied: Numbers of the patches in it, in canonical order.
        files: Its files by name.
        log_bytes: Length of the log that ends with the action that made it.
        log_sha256: Digest of that log.
    """

    name: str
    applied: tuple[int, ...]
    files: Mapping[str, FileRecord]
    log_bytes: int
    log_sha256: str


@dataclasses.dataclass(frozen=True)
class Pending:
    """What a process was about to do: it is done once the model link names the version.

    Attributes:
        version: The new version.
        log_bytes: Length of the log before.
        lines: The text to append to the log.
        new_files: Names of patch files that the action adds.
    """

    version: str
    log_bytes: int
    lines: str
    new_files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class State:
    """A ledger at one moment: the version that is served, and the log up to it."""

    base: BaseModel
    version: Version
    log: tuple[LogLine, ...]
    log_text: bytes = dataclasses.field(repr=False)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """Every patch that was ever applied, by number."""
        return entries_of(self.log)

    @property
    def applied(self) -> tuple[LedgerEntry, ...]:
        """The patches that are applied, in canonical order."""
        return canonical([entry for entry in self.entries if entry.applied])


def entries_of(log: Sequence[LogLine]) -> tuple[LedgerEntry, ...]:
    """The patches of a log, by number."""
    entries: dict[int, LedgerEntry] = {}
    for line in log:
        if line.number is None:
            continue
        if line.action == "apply":
            entries[line.number] = LedgerEntry(line.number, True, line)
        else:
            entry = entries[line.number]
            entries[line.number] = dataclasses.replace(entry, applied=False, reverted=line)
    return tuple(entries[number] for number in sorted(entries))


def canonical(entries: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
    """The order in which changes are summed: it depends only on which patches there are.

    Patches that were made on top of others follow them.
    """
    return tuple(sorted(entries, key=lambda e: (len(e.line.made_on), e.digest, e.number)))


def version_name(serial: int, fingerprint: str, applied: Sequence[LedgerEntry]) -> str:
    """The name of a version: its serial number, and a digest of what is in it."""
    key = key_of({"base": fingerprint, "applied": [entry.digest for entry in applied]})
    return f"{serial:04d}-{key[:12]}"


def fact_in_words(patch: PatchContent) -> tuple[str, ...]:
    """What a patch writes, a sentence for each fact."""
    return tuple(
        f"{' '.join(request.statement.split())}"
        + (f" (was {request.target_true})" if request.target_true else "")
        for request in patch.requests
    )


# ---------------------------------------------------------------- as text


def dumped(value: Any, *, indent: int | None = None) -> str:
    """One of these classes as JSON."""
    data = value.to_dict() if isinstance(value, LogLine) else dataclasses.asdict(value)
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)


_adapters: dict[type[Any], pydantic.TypeAdapter[Any]] = {}  # slow to build


def parsed(kind: type[_T], text: str) -> _T:
    """One of these classes from its JSON.

    Raises:
        ValueError: It is something else.
    """
    try:
        if kind not in _adapters:
            _adapters[kind] = pydantic.TypeAdapter(kind)
        return cast("_T", _adapters[kind].validate_python(parse_json(text)))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None
