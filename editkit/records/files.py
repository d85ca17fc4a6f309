"""Reading records from JSON, and saying exactly where one is broken.

A dataset of a known layout needs only a function from one decoded JSON value to a record::

    def parse(node: Node, position: int) -> Record:
        return Record(position, EditRequest(node["prompt"].text(), ...))

    records_of(read_source(config), parse)
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator
from typing_extensions import Self

from editkit.data_types import Record, Records, RejectedRecord
from editkit.errors import DatasetError, RequestError
from editkit.interfaces import Config
from editkit.prompts import clean_prompt, clean_target
from editkit.records.prompts import PromptConfig, asked
from editkit.storage.digests import sha256_of
from editkit.storage.strict_json import distinct

__all__ = [
    "BrokenFieldError",
    "Node",
    "SourceConfig",
    "as_configured",
    "digest_of_records",
    "own_prompts",
    "read_json",
    "read_json_list",
    "read_source",
    "records_of",
]

_GZIP_MAGIC = b"\x1f\x8b"
_LARGEST_ID = 2**63 - 1  # what the result store can hold


class SourceConfig(PromptConfig):
    """Where the records are, exactly one of ``path`` and ``hub``, and how prompts are asked."""

    path: Path | None = None
    """A local file in the dataset's layout: a JSON list, ``.json`` or ``.json.gz``."""

    hub: str | None = None
    """A dataset on the Hugging Face hub in the same layout, such as ``azhx/counterfact``."""

    split: str = "train"
    """Split of the hub dataset, slices included: ``train[:100]``."""

    revision: str | None = None
    """Commit, tag or branch of the hub dataset; name a commit for results that can be repeated."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            given = "neither" if self.path is None else "both"
            raise ValueError(
                f"expected exactly one of 'path' and 'hub', got {given}; for example "
                "--set dataset.path=records.json"
            )
        return self


# ---------------------------------------------------------------- files and hub datasets


def read_source(config: SourceConfig) -> Iterable[object]:
    """The decoded records of a local file or of a hub dataset.

    Raises:
        DatasetError: The file or hub dataset is absent or holds no list of records.
    """
    if config.path is not None:
        return read_json_list(config.path.expanduser())
    return _read_hub(config)


def read_json(path: Path, what: str = "dataset file") -> object:
    """The content of a JSON file, plain or gzip-compressed.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        DatasetError: The file is absent, damaged, or not JSON.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        content: object = json.loads(data.decode("utf-8-sig"), object_pairs_hook=distinct)
    except FileNotFoundError:
        raise DatasetError(
            f"{what} {str(path)!r} does not exist.",
            hint="Give the path of a file; docs/datasets.md and locators.md say what it holds.",
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{what} {str(path)!r} cannot be read: {error}.",
            hint="Check that it is a file, readable, and completely downloaded.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{what} {str(path)!r} is not JSON: {error}.",
            hint="Check that it is a JSON file and completely downloaded.",
        ) from error
    return content


def read_json_list(path: Path) -> list[object]:
    """The elements of a JSON list, from a plain or gzip-compressed file.

    Raises:
        DatasetError: The file is absent, damaged, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else f"a JSON {type(content).__name__}"
        raise DatasetError(
            f"dataset file {str(path)!r} holds {found}, expected a list of records.",
            hint="docs/datasets.md shows the layout of a record.",
        )
    return content


def _read_hub(config: SourceConfig) -> Iterable[object]:
    from datasets import Dataset as HubDataset
    from datasets import load_dataset

    try:
        table = load_dataset(config.hub, split=config.split, revision=config.revision)
    except Exception as error:  # the library raises whatever its storage backends raise
        raise DatasetError(
            f"hub dataset {config.hub!r} (split {config.split!r}, revision {config.revision!r}) "
            f"cannot be loaded: {error}",
            hint="Check the name, the split and the network; without network, load it once where "
            "there is one, or give a local file as 'path'.",
        ) from error
    if not isinstance(table, HubDataset) or not len(table):
        raise DatasetError(
            f"hub dataset {config.hub!r} has no records in split {config.split!r}.",
            hint="Give one split that exists, such as 'train'.",
        )
    rows: Iterable[object] = table
    return rows


# ---------------------------------------------------------------- values that know their place


class BrokenFieldError(ValueError):
    """A record cannot be read; ``field`` says where and ``reason`` why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Node:
    """A JSON value that knows where in its record it is.

    Args:
        value: The value.
        path: Its place in the record: ``answers[0]``.
        separator: What is given to stand between prompts and answers of this record. White space
            beside it is an error then: it is not clear what is meant.
    """

    def __init__(self, value: object, path: str = "", *, separator: str | None = None) -> None:
        self.value = value
        self.path = path
        self.separator = separator

    def error(self, reason: str) -> BrokenFieldError:
        """The error that ``reason`` is wrong with this value."""
        return BrokenFieldError(self.path or "record", reason)

    def __getitem__(self, key: str) -> Node:
        child = self.get(key)
        if child is None:
            raise BrokenFieldError(self._place(key), "is missing")
        return child

    def get(self, key: str) -> Node | None:
        """The value under ``key``; None where it is absent or null (the hub's way to be absent)."""
        if not isinstance(self.value, Mapping):
            raise self.error(f"is {self}, expected an object")
        value = self.value.get(key)
        return None if value is None else self._child(value, self._place(key))

    def items(self) -> list[Node]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"is {self}, expected a list")
        return [self._child(item, f"{self.path}[{index}]") for index, item in enumerate(self.value)]

    def text(self) -> str:
        """A text that is not blank and can be encoded."""
        if not isinstance(self.value, str):
            raise self.error(f"is {self}, expected a text")
        if not self.value.strip():
            raise self.error(f"is {self}, expected a text that is not empty")
        try:
            self.value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error(f"is {self}, which is not valid Unicode") from None
        return self.value

    def prompt(self) -> str:
        """A text without the spaces at its end: a separator is put before what follows it."""
        return self._cleaned(clean_prompt)

    def answer(self) -> str:
        """A text without white space around it: a separator is put before it."""
        return self._cleaned(clean_target)

    def template(self) -> str:
        """A prompt with exactly one ``{}``, the place of the subject."""
        prompt = self.prompt()
        if prompt.count("{}") != 1:
            raise self.error(
                f"{_show(prompt)} holds {prompt.count('{}')} places for the subject, "
                "expected exactly one '{}'"
            )
        return prompt

    def case_id(self) -> int:
        """A whole number that the result store can hold."""
        number = self.value
        if type(number) is not int or not 0 <= number <= _LARGEST_ID:
            raise self.error(f"is {self}, expected a whole number from 0")
        return number

    def __str__(self) -> str:
        """A short rendering, for messages."""
        return _show(self.value)

    def _cleaned(self, clean: Callable[[object, str, str | None], str]) -> str:
        text = self.text()
        try:
            return clean(text, "text", self.separator)
        except RequestError as error:
            raise self.error(error.message.removeprefix("text ")) from None

    def _child(self, value: object, path: str) -> Node:
        return Node(value, path, separator=self.separator)

    def _place(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _show(value: object) -> str:
    if isinstance(value, (Mapping, list)):
        return f"{type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------- records


def records_of(
    raw: Iterable[object],
    parse: Callable[[Node, int], Record],
    *,
    texts: Mapping[str, tuple[str, ...]] | None = None,
    config: PromptConfig | None = None,
) -> Records:
    """Read every record; the broken ones are reported and left out.

    A record may name a ``separator`` and ``chat`` of its own, for its request and all its probes;
    they win over the configuration.

    Args:
        raw: Decoded JSON values, one per record.
        parse: Makes a record of a value and its position in the file, from 0. It takes prompts
            with :meth:`Node.prompt` and answers with :meth:`Node.answer`.
        texts: Texts of the dataset as a whole, by kind.
        config: How prompts are asked.

    Returns:
        The good records in their order, with a digest of their content. Of records with one
        case id, the first good one counts.
    """
    records: dict[int, Record] = {}
    rejected = []
    for position, value in enumerate(raw):
        try:
            how = own_prompts(Node(value), config)
            node = Node(value, separator=how.separator)
            record = asked(parse(node, position), how)
            if record.case_id in records:
                raise BrokenFieldError("case_id", f"{record.case_id} was already used")
        except BrokenFieldError as broken:
            rejected.append(
                RejectedRecord(_name(value, position), field=broken.field, reason=broken.reason)
            )
        except RequestError as broken:  # its texts cannot be used together
            rejected.append(RejectedRecord(_name(value, position), "record", broken.message))
        else:
            records[record.case_id] = record
    accepted = tuple(records.values())
    return Records(
        accepted,
        digest=digest_of_records(accepted),
        rejected=tuple(rejected),
        texts=texts or {},
        as_configured=config is not None,
    )


def as_configured(loaded: Records, config: Config | None) -> Records:
    """Records that are asked as configured, where the dataset did not see to it itself.

    Args:
        loaded: What a dataset loaded.
        config: The dataset's configuration.

    Raises:
        RequestError: The separator does not fit a prompt or an answer.
    """
    if loaded.as_configured or not isinstance(config, PromptConfig):
        return loaded
    records = tuple(asked(record, config) for record in loaded.records)
    if records == loaded.records:
        return loaded
    return dataclasses.replace(loaded, records=records, digest=digest_of_records(records))


def own_prompts(node: Node, config: PromptConfig | None = None) -> PromptConfig:
    """How a record is asked: by the ``separator`` and ``chat`` that it names itself, or as usual.

    Args:
        node: The record.
        config: What holds for records that do not name them; None: the default rule, no chat.

    Raises:
        BrokenFieldError: One is of the wrong kind.
    """
    given = {name: node.get(name) for name in PromptConfig.model_fields}
    usual = PromptConfig() if config is None else config
    values: dict[str, Any] = {"separator": usual.separator, "chat": usual.chat}
    for name, child in given.items():
        if child is None:
            continue
        kind, expected = (str, "a text") if name == "separator" else (bool, "true or false")
        if not isinstance(child.value, kind):
            raise child.error(f"is {child}, expected {expected}")
        values[name] = child.value
    try:
        return PromptConfig(**values)
    except ValidationError:
        raise given["separator"].error("is not valid Unicode") from None  # type: ignore[union-attr]


def digest_of_records(records: Iterable[Record]) -> str:
    """SHA-256 of what the records say, independent of the file's spacing and key order."""
    return sha256_of(_lines_for_digest(records))


def _lines_for_digest(records: Iterable[Record]) -> Iterator[str]:
    of_texts: dict[int, str] = {}  # many records share their reference texts
    for record in records:
        for texts in record.texts.values():
            if id(texts) not in of_texts:
                of_texts[id(texts)] = sha256_of(json.dumps(texts))
        kinds = {kind: of_texts[id(texts)] for kind, texts in record.texts.items()}
        yield json.dumps([*_content(record), kinds], sort_keys=True) + "\n"


def _content(record: Record) -> list[Any]:
    probes = {
        kind: [tuple(probe.to_dict().values()) for probe in probes]
        for kind, probes in record.probes.items()
    }
    return [record.case_id, record.request.to_dict(), probes]


def _name(value: object, position: int) -> str:
    """The record's own id if it has a readable one, else where it stands in the file."""
    case_id = value.get("case_id") if isinstance(value, Mapping) else None
    if isinstance(case_id, (int, str)):
        return _show(case_id).strip("'")
    return f"record number {position + 1}"
