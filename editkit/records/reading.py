"""Reading records from JSON files and hub datasets. Broken records are reported with their place.

A dataset with a layout of its own needs only a function from one decoded JSON value to a record::

    def parse(node: Node, position: int) -> Record:
        return Record(position, EditRequest(node["prompt"].text(), ...))

    read_records(read_source(config), parse)
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from editkit.data_types import Record, Records, RejectedRecord
from editkit.errors import DatasetError, RequestError
from editkit.prompts import clean_prompt, clean_target
from editkit.records.config import PromptConfig, SourceConfig, with_prompt_config
from editkit.records.digests import digest_of_records
from editkit.storage.strict_json import distinct

__all__ = [
    "BrokenFieldError",
    "Node",
    "place_of",
    "prompt_config_of",
    "read_hub_file",
    "read_json",
    "read_json_list",
    "read_records",
    "read_source",
]

_GZIP_MAGIC = b"\x1f\x8b"
_LARGEST_ID = 2**63 - 1  # the store's largest integer


# ---------------------------------------------------------------- files and hub datasets


def read_source(config: SourceConfig) -> Iterable[object]:
    """The decoded records of a local file or a hub dataset.

    Raises:
        DatasetError: The file or hub dataset does not exist, or is not a list of records.
    """
    if config.path is not None:
        return read_json_list(config.path.expanduser())
    return _read_hub(config)


def read_json(path: Path, what: str = "dataset file") -> object:
    """The content of a JSON file, plain or gzip-compressed.

    Args:
        path: The file.
        what: The kind of file, for error messages.

    Raises:
        DatasetError: The file does not exist, is damaged, or is not JSON.
    """
    data = b""
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        content: object = json.loads(data.decode("utf-8-sig"), object_pairs_hook=distinct)
    except FileNotFoundError:
        raise DatasetError(
            f"{what} {str(path)!r} does not exist.",
            hint="Give the path of a file. 'editkit explain datasets' and 'editkit explain "
            "locators' show the layouts.",
        ) from None
    except IsADirectoryError:
        raise DatasetError(
            f"{what} {str(path)!r} is a folder, expected a file.",
            hint="Give the path of a file in it.",
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{what} {str(path)!r} cannot be read: {error}.",
            hint="Check that it is a readable file and was downloaded completely.",
        ) from error
    except (ValueError, RecursionError) as error:
        reason, hint = _why_not_json(data, error)
        raise DatasetError(f"{what} {str(path)!r} {reason}.", hint=hint) from error
    return content


def _why_not_json(data: bytes, error: Exception) -> tuple[str, str]:
    """What is wrong with the content of a file, and what to do."""
    if not data.strip():
        return "is empty", "Check that it was downloaded completely."
    lines = [line for line in data.splitlines() if line.strip()]
    try:
        values = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        values = []
    if len(values) > 1:
        return (
            f"has a JSON value in each of its {len(values)} lines (JSON Lines), expected one list",
            "Put the lines into one list: jq -s . FILE.jsonl > FILE.json",
        )
    return f"is not JSON: {error}", "Check that it is a JSON file and was downloaded completely."


def read_json_list(path: Path) -> list[object]:
    """The elements of a JSON list, from a plain or gzip-compressed file.

    Raises:
        DatasetError: The file does not exist, is damaged, or is not a list, or the list is empty.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise DatasetError(
            f"dataset file {str(path)!r} holds {Node(content)}, expected a list of records.",
            hint="'editkit explain datasets' shows the layout of a record.",
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
            hint="Check the name, the split and the network. Offline, give a local file as 'path', "
            "or a dataset that is in the hub's cache.",
        ) from error
    if not isinstance(table, HubDataset) or not len(table):
        raise DatasetError(
            f"hub dataset {config.hub!r} has no records in split {config.split!r}.",
            hint="Give a single existing split, such as 'train'.",
        )
    rows: Iterable[object] = table
    return rows


def read_hub_file(name: str, file: str, *, revision: str | None = None) -> object:
    """The content of a JSON file in a hub dataset, from the hub's cache where it has the file.

    For datasets whose files have different layouts, or lists that no table can hold.

    Args:
        name: The dataset: ``zjunlp/KnowEdit``.
        file: Path of the file in it.
        revision: Commit, tag or branch.

    Raises:
        DatasetError: There is no such file, it cannot be downloaded, or it is not JSON.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(name, file, repo_type="dataset", revision=revision)
    except Exception as error:  # the library raises whatever its HTTP library raises
        raise DatasetError(
            f"file {file!r} of the hub dataset {name!r} (revision {revision!r}) cannot be loaded: "
            f"{error}",
            hint="Check the name and the network. Offline, give a local file as 'path', or a "
            "dataset that is in the hub's cache.",
        ) from error
    return read_json(Path(path), what=f"file {file!r} of the hub dataset {name!r}, in the cache,")


# ---------------------------------------------------------------- JSON values with their place


class BrokenFieldError(ValueError):
    """A record cannot be read: ``field`` is the place in the record, ``reason`` the problem."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Node:
    """A JSON value and its place in the record.

    Args:
        value: The value.
        path: Its place in the record: ``answers[0]``.
        separator: The record's separator, if one is set. White space next to it is then an error,
            because it is unclear whether it belongs to the separator.
    """

    def __init__(self, value: object, path: str = "", *, separator: str | None = None) -> None:
        self.value = value
        self.path = path
        self.separator = separator

    def error(self, reason: str) -> BrokenFieldError:
        """An error about this value, to be raised."""
        return BrokenFieldError(self.path or "record", reason)

    def __getitem__(self, key: str) -> Node:
        child = self.get(key)
        if child is None:
            raise BrokenFieldError(self._place(key), "is missing")
        return child

    def get(self, key: str) -> Node | None:
        """The value under ``key``. None if it is missing or null; hub tables write null."""
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
        """The value as a string that is not blank and is valid Unicode."""
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
        """The value as a prompt, without trailing spaces: the separator supplies them."""
        return self._cleaned(clean_prompt)

    def answer(self) -> str:
        """The value as an answer, without surrounding white space."""
        return self._cleaned(clean_target)

    def template(self) -> str:
        """The value as a prompt with exactly one ``{}``, the place of the subject."""
        prompt = self.prompt()
        if prompt.count("{}") != 1:
            raise self.error(
                f"{_show(prompt)} holds {prompt.count('{}')} places for the subject, "
                "expected exactly one '{}'"
            )
        return prompt

    def case_id(self) -> int:
        """The value as an integer that the store can hold."""
        number = self.value
        if type(number) is not int or not 0 <= number <= _LARGEST_ID:
            raise self.error(f"is {self}, expected an integer of at least 0")
        return number

    def __str__(self) -> str:
        """The value, shortened for error messages."""
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
    """A value in JSON's words, shortened."""
    if isinstance(value, Mapping):
        keys = ", ".join(ascii(key) for key in value)
        return f"an object with {keys:.60}" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = json.dumps(value) if value is None or isinstance(value, bool) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------- records


def read_records(
    raw: Iterable[object],
    parse: Callable[[Node, int], Record],
    *,
    texts: Mapping[str, tuple[str, ...]] | None = None,
    config: PromptConfig | None = None,
) -> Records:
    """Parse every record. Broken ones are skipped and reported in ``Records.rejected``.

    A record may set ``separator`` and ``chat`` for its request and all its probes. They win over
    the configuration.

    Args:
        raw: Decoded JSON values, one per record.
        parse: Turns a value and its position in the file, from 0, into a record. It should read
            prompts with :meth:`Node.prompt` and answers with :meth:`Node.answer`.
        texts: Texts of the dataset as a whole, by kind.
        config: How prompts are asked.

    Returns:
        The valid records in their order, with a digest of their content. If a case id repeats, the
        first valid record counts.
    """
    records: dict[int, Record] = {}
    rejected = []
    for position, value in enumerate(raw):
        try:
            prompts = prompt_config_of(Node(value), config)
            node = Node(value, separator=prompts.separator)
            record = with_prompt_config(parse(node, position), prompts)
            if record.case_id in records:
                raise BrokenFieldError("case_id", f"{record.case_id} is already in use")
        except BrokenFieldError as broken:
            rejected.append(
                RejectedRecord(_name(value, position), field=broken.field, reason=broken.reason)
            )
        except RequestError as broken:  # its fields are valid, but not together
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


def prompt_config_of(node: Node, config: PromptConfig | None = None) -> PromptConfig:
    """A record's own ``separator`` and ``chat``, or the dataset's where it does not set them.

    Args:
        node: The record.
        config: The dataset's configuration. None: the default separator, no chat.

    Raises:
        BrokenFieldError: One is of the wrong type.
    """
    own = {name: node.get(name) for name in PromptConfig.model_fields}
    default = PromptConfig() if config is None else config
    values: dict[str, Any] = {"separator": default.separator, "chat": default.chat}
    for name, child in own.items():
        if child is None:
            continue
        kind, expected = (str, "a text") if name == "separator" else (bool, "true or false")
        if not isinstance(child.value, kind):
            raise child.error(f"is {child}, expected {expected}")
        values[name] = child.value
    try:
        return PromptConfig(**values)
    except ValidationError:
        raise node["separator"].error("is not valid Unicode") from None


def place_of(position: int) -> str:
    """What messages call a record without a case id. Like case ids, positions count from 0."""
    return f"position {position}"


def _name(value: object, position: int) -> str:
    """The record's case id if it has one, else its position in the file, from 0."""
    case_id = value.get("case_id") if isinstance(value, Mapping) else None
    if isinstance(case_id, (int, str)):
        return _show(case_id).strip("'")
    return place_of(position)
