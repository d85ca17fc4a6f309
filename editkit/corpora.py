"""Sources of plain text for statistics: a file, something of a package, or a dataset."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from editkit.errors import ConfigError

if TYPE_CHECKING:
    from editkit.interfaces import Records

__all__ = ["Corpus"]

_DATASET = "dataset:"
_FIRST_ROWS = re.compile(r"(?P<name>[\w.-]+)(\[:(?P<rows>\d+)\])?")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A named source of texts.

    Attributes:
        source: A file (``texts.txt``, one text a line; ``texts.jsonl`` with a key ``text``; either
            may end in ``.gz``), such a file of an installed package (``package:file.txt``), a
            function of a package that yields texts (``package.module:function``),
            ``dataset:name``, the facts of an installed dataset's records, or
            ``hub:name[:config[:split]]``, streamed through ``datasets``; a split such as
            ``train[:1000]`` takes the first rows only.
    """

    source: str

    def digest(self) -> str:
        """Digest of the content; for a hub dataset, of its name.

        Raises:
            ConfigError: The source does not exist.
        """
        if self.source.startswith("hub:"):
            return hashlib.blake2b(self.source.encode(), digest_size=16).hexdigest()
        if self.source.startswith(_DATASET):
            return self._records().digest
        if (function := self._function()) is not None:
            digest = hashlib.blake2b(digest_size=16)
            for text in function():
                digest.update(text.encode() + b"\n")
            return digest.hexdigest()
        return hashlib.blake2b(self._path().read_bytes(), digest_size=16).hexdigest()

    def texts(self) -> Iterator[str]:
        """The texts in order, empty ones left out.

        Raises:
            ConfigError: The source does not exist or cannot be read.
        """
        if self.source.startswith("hub:"):
            lines = self._hub_texts()
        elif self.source.startswith(_DATASET):
            lines = self._facts()
        elif (function := self._function()) is not None:
            lines = iter(function())
        else:
            lines = self._file_texts()
        return (text for text in lines if text.strip())

    def _function(self) -> Callable[[], Iterable[str]] | None:
        """The function that the source names, if it names one."""
        module, colon, name = self.source.partition(":")
        if not (colon and name.isidentifier() and module.replace(".", "").isidentifier()):
            return None
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError:
            return None
        return found if callable(found) else None

    def _path(self) -> Path:
        package, colon, inside = self.source.partition(":")
        if colon and package.replace(".", "").isidentifier():
            try:
                path = Path(str(importlib.resources.files(package) / inside))
            except ModuleNotFoundError:
                path = Path(self.source)
        else:
            path = Path(self.source).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"corpus {self.source!r} is no file.",
                hint="Give a text file, 'package:file', 'package:function', 'dataset:name', or "
                "'hub:name:config'.",
            )
        return path

    def _file_texts(self) -> Iterator[str]:
        path = self._path()
        as_json = ".jsonl" in path.suffixes
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                if not as_json:
                    yield line.rstrip("\n")
                    continue
                try:
                    yield str(json.loads(line)["text"])
                except (ValueError, KeyError, TypeError):
                    raise ConfigError(
                        f"line {number} of {self.source} is no JSON object with a key 'text'.",
                        hint="Write one object a line, or name the file .txt.",
                    ) from None

    def _records(self) -> Records:
        from editkit.making import make_dataset

        return make_dataset(self.source.removeprefix(_DATASET)).load()

    def _facts(self) -> Iterator[str]:
        """What the unedited world holds, as sentences, each once."""
        probes = (
            probe
            for record in self._records().records
            for kind in sorted(record.probes)
            for probe in record.probes[kind]
        )
        return iter(dict.fromkeys(f"{probe.prompt} {probe.target_true}." for probe in probes))

    def _hub_texts(self) -> Iterator[str]:
        from datasets import load_dataset

        name, _, rest = self.source.removeprefix("hub:").partition(":")
        config, _, split = rest.partition(":")
        sliced = _FIRST_ROWS.fullmatch(split or "train")
        if sliced is None:
            raise ConfigError(
                f"corpus {self.source!r} has the split {split!r}, expected a name, or the first "
                "rows of one.",
                hint="For example train, or train[:1000].",
            )
        try:
            rows = load_dataset(name, config or None, split=sliced["name"], streaming=True)
            for row in rows.take(int(sliced["rows"])) if sliced["rows"] else rows:
                yield str(row["text"])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"corpus {self.source!r} could not be read: {error}",
                hint="Check its name, config and split, and that it has a column 'text'.",
            ) from error


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
