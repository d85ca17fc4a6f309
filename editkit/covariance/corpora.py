"""Corpora for statistics: files, functions and datasets as sources of texts."""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from editkit.errors import ConfigError
from editkit.prompts import joined
from editkit.records.hub import dataset_version, pinned_commit
from editkit.storage.digests import blake2b_of, digest_of_file
from editkit.storage.resources import path_of

if TYPE_CHECKING:
    from editkit.data_types import Records

__all__ = ["Corpus", "Order"]

Order = Literal["stored", "random"]
"""The order of a corpus's texts; ``random`` is seeded."""

_DATASET = "dataset:"
_FIRST_ROWS = re.compile(r"(?P<name>[\w.-]+)(\[:(?P<rows>\d+)\])?")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A named source of texts.

    Attributes:
        source: One of: a file (``texts.txt`` with a text per line, ``texts.jsonl`` with a key
            ``text``, either also as ``.gz``); such a file in a package (``package:file.txt``); a
            function that yields texts (``package.module:function``); the facts of an installed
            dataset (``dataset:name``); a dataset that ``datasets`` can load
            (``hub:name[:config[:split]]``), where the split ``train[:1000]`` means the first 1,000
            rows in the order of the corpus.
        order: A random order has each text once, so its first texts are a random sample without
            replacement. None: random for a hub dataset, which is often sorted by age or subject,
            and stored for other sources. A hub dataset is streamed in stored order and downloaded
            first for random order.
        seed: Seed of the random order.
    """

    source: str
    order: Order | None = None
    seed: int = 0

    @property
    def shuffled(self) -> bool:
        """Whether the order is random."""
        return self._hub if self.order is None else self.order == "random"

    @property
    def _hub(self) -> bool:
        return self.source.startswith("hub:")

    def digest(self) -> str:
        """Digest of the content (for a hub dataset: its name and commit) and the order.

        Raises:
            ConfigError: The source does not exist.
        """
        content = self._content_digest()
        if not self.shuffled:
            return content
        return blake2b_of(f"{content} in random order {self.seed}")

    def _content_digest(self) -> str:
        if self._hub:
            name = self.source.removeprefix("hub:").partition(":")[0]
            return blake2b_of(f"{self.source} with {dataset_version(name)}")
        if self.source.startswith(_DATASET):
            return self._records().digest
        if (function := self._function()) is not None:
            # A text with a line break is preceded by its length, so that its end is unambiguous.
            texts = self._texts_of(function)
            return blake2b_of(f"{len(t)}:{t}\n" if "\n" in t else f"{t}\n" for t in texts)
        self._path()
        return digest_of_file(self.source)

    def texts(self) -> Iterator[str]:
        """The texts that are not empty, in the order of the corpus.

        Raises:
            ConfigError: The source does not exist or cannot be read.
        """
        try:
            for text in self._lines():
                if text.strip():
                    yield text
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"corpus {self.source!r} is not UTF-8: {error}.", hint="Convert it to UTF-8."
            ) from None
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(
                f"corpus {self.source!r} cannot be read: {error}.",
                hint="Check that it is readable and completely downloaded.",
            ) from None

    def _lines(self) -> Iterator[str]:
        if self._hub:
            return self._hub_texts()
        if not self.shuffled:
            return self._stored()
        if not self.source.startswith(_DATASET) and self._function() is None:
            return self._file_texts_at_random()
        texts = list(self._stored())
        return (texts[i] for i in self._permutation(len(texts)))

    def _permutation(self, n: int) -> Iterator[int]:
        """Numbers below ``n`` in random order; the same for all versions of NumPy."""
        import numpy as np

        return map(int, np.random.RandomState(self.seed % 2**32).permutation(n))

    def _stored(self) -> Iterator[str]:
        """The texts of any source but a hub dataset, in stored order."""
        if self.source.startswith(_DATASET):
            return self._facts()
        if (function := self._function()) is not None:
            return self._texts_of(function)
        return self._file_texts()

    def _function(self) -> Callable[[], Iterable[str]] | None:
        """The function that the source names, if any."""
        module, colon, name = self.source.partition(":")
        if not (colon and name.isidentifier() and module.replace(".", "").isidentifier()):
            return None
        try:
            function = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise self._failed(error) from error  # the module imports a missing one
            return None
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        return function if callable(function) else None

    def _texts_of(self, function: Callable[[], Iterable[str]]) -> Iterator[str]:
        try:
            for text in function():
                if not isinstance(text, str):
                    raise TypeError(f"it yields {text!r:.40}, expected texts")
                text.encode()  # half of a surrogate pair is not Unicode
                yield text
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> ConfigError:
        return ConfigError(
            f"corpus {self.source!r} failed: {type(error).__name__}: {error}.",
            hint="Give a function without arguments that yields texts.",
        )

    def _path(self) -> Path:
        path = path_of(self.source)
        try:
            is_file = path.is_file()
        except ValueError:  # NUL in the name
            is_file = False
        if not is_file:
            raise ConfigError(
                f"corpus {self.source!r} is not a file.",
                hint="Give a text file, 'package:file', 'package:function', 'dataset:name', or "
                "'hub:name:config'.",
            )
        return path

    def _file_texts(self) -> Iterator[str]:
        path = self._path()
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                yield self._text_of(line, number, as_json=".jsonl" in path.suffixes)

    def _file_texts_at_random(self) -> Iterator[str]:
        """Lines in random order; only the positions of lines are in memory."""
        path = self._path()
        as_json = ".jsonl" in path.suffixes
        with _open_bytes(path) as stream:
            starts = [0]
            starts += [stream.tell() for _ in iter(stream.readline, b"")]
            for i in self._permutation(len(starts) - 1):
                stream.seek(starts[i])
                line = stream.readline().decode("utf-8")
                yield self._text_of(line.replace("\r\n", "\n"), i + 1, as_json=as_json)

    def _text_of(self, line: str, number: int, *, as_json: bool) -> str:
        if not as_json:
            return line.rstrip("\n")
        try:
            text = json.loads(line)["text"]
            if not isinstance(text, str):
                raise TypeError
            text.encode()  # JSON can spell half of a surrogate pair
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"line {number} of {self.source} is not a JSON object with a text as 'text'.",
                hint="Write an object per line, or rename the file to .txt.",
            ) from None
        return str(text)

    def _records(self) -> Records:
        from editkit.registry.factories import make_dataset

        return make_dataset(self.source.removeprefix(_DATASET)).load()

    def _facts(self) -> Iterator[str]:
        """The true facts of the records as sentences, each once."""
        probes = (
            probe
            for record in self._records().records
            for kind in sorted(record.probes)
            for probe in record.probes[kind]
        )
        return iter(
            dict.fromkeys(
                f"{joined(probe.prompt, probe.target_true, probe.separator)}." for probe in probes
            )
        )

    def _hub_texts(self) -> Iterator[str]:
        from datasets import load_dataset

        name, _, rest = self.source.removeprefix("hub:").partition(":")
        config, _, split = rest.partition(":")
        sliced = _FIRST_ROWS.fullmatch(split or "train")
        if sliced is None:
            raise ConfigError(
                f"corpus {self.source!r} has the split {split!r}, expected a name, optionally with "
                "a number of rows.",
                hint="Write train or train[:1000], for example.",
            )
        try:
            rows = load_dataset(
                name,
                config or None,
                split=sliced["name"],
                streaming=not self.shuffled,
                revision=pinned_commit(name),
            )
            wanted = int(sliced["rows"]) if sliced["rows"] else None
            if self.shuffled:
                for i in itertools.islice(self._permutation(len(rows)), wanted):
                    yield _text_in(rows[i])
                return
            for row in rows if wanted is None else rows.take(wanted):
                yield _text_in(row)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"corpus {self.source!r} could not be read: {error}",
                hint="Check its name, config and split, and that it has a column 'text'.",
            ) from error


def _text_in(row: Any) -> str:
    """The text of a hub dataset's row; empty if it has none."""
    text = row["text"]
    if text is not None and not isinstance(text, str):
        raise TypeError(f"a row has {text!r:.40} as 'text', expected a text")
    return text or ""


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _open_bytes(path: Path) -> IO[bytes]:
    """The uncompressed bytes as a seekable stream."""
    if path.suffix == ".gz":
        return io.BytesIO(gzip.decompress(path.read_bytes()))
    return path.open("rb")
