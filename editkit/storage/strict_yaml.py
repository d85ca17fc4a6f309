"""Plain data from YAML: texts, numbers, booleans, null, lists, and mappings with text keys.

Scalars follow YAML 1.2: ``no``, ``on`` and ``2020-01-01`` are texts, ``1e-3`` is a number. ``010``
and ``1_000``, which other readers read as various numbers, are texts too. Duplicate keys, tags such
as ``!!python/object`` and exploding aliases are refused, with their line and column.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from editkit.errors import ConfigError, first_line

__all__ = ["decode_yaml", "parse_yaml", "read_yaml_text"]

_LARGEST_FILE = 2**20  # bytes
_MOST_VALUES = 20_000  # counting repetitions by aliases
_DEEPEST = 50
_LONGEST_INT = 24  # characters of an integer of 64 bits, in any notation
_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map", "merge")
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16: this mark begins with that of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_yaml_text(path: Path, *, place: str | None = None) -> str:
    """The text of a YAML file; a byte order mark of UTF-8 is dropped.

    Args:
        path: The file.
        place: Its name in messages; by default its path.

    Raises:
        ConfigError: It cannot be read, is too large, or is not UTF-8.
    """
    place = place or str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(
            f"{place!r} cannot be read: {getattr(error, 'strerror', None) or error}.",
            hint="Give the path of a readable YAML file.",
        ) from None
    return decode_yaml(content, place=place)


def decode_yaml(content: bytes, *, place: str) -> str:
    """The text of a YAML file's bytes; errors as for :func:`read_yaml_text`."""
    if len(content) > _LARGEST_FILE:
        raise _too_large(place)
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            raise ConfigError(
                f"{place} is encoded as {name}, expected UTF-8.", hint="Save it as UTF-8."
            )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{place} line {line}: byte 0x{content[error.start]:02x} is not UTF-8.",
            hint="Save the file as UTF-8; it seems to be Latin-1 or another older encoding.",
        ) from None


def parse_yaml(text: str, *, place: str) -> Any:
    """Plain data from YAML.

    Args:
        text: One YAML document.
        place: Its name in messages.

    Raises:
        ConfigError: It is not YAML, contains more than plain data, repeats a key, or is too large
            or too deeply nested.
    """
    if len(text) > _LARGEST_FILE:
        raise _too_large(place)
    try:
        loader = _Loader(text.removeprefix("\ufeff"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{place} line {line}: the character U+{ord(text[error.position]):04X} is not allowed "
            "in YAML.",
            hint="Save the file as plain UTF-8 text.",
        ) from None
    except _RefusedError as error:
        raise ConfigError(
            f"{place}{_where(error)}: {error.problem}.",
            hint="Write plain values, each key once: 'editkit explain config' has the rules.",
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{place}{_where(error)}: {error.problem or type(error).__name__}; expected YAML.",
            hint="Check quotes and indentation there.",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{place}: {first_line(error)}; expected YAML.", hint="Check quotes and indentation."
        ) from None


def _where(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _too_large(place: str) -> ConfigError:
    return ConfigError(
        f"{place} is larger than {_LARGEST_FILE // 2**20} MiB, too large for a configuration.",
        hint="Give a YAML file of values; put records and texts into separate files.",
    )


class _RefusedError(yaml.MarkedYAMLError):
    """YAML that is not plain data, or exceeds a limit."""


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2 scalars and distinct text keys, within limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._counted = 0
        self._size: dict[int, int] = {}  # number of values in each finished node, by id

    @override
    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self._depth >= _DEEPEST:
            raise _problem(f"nested more than {_DEEPEST} levels deep", event.start_mark)
        before = self._counted
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._size:
                raise _problem(f"the alias *{event.anchor} refers to itself", event.start_mark)
            self._counted += self._size[id(node)]
        else:
            self._counted += 1
            self._size[id(node)] = self._counted - before
        if self._counted > _MOST_VALUES:
            what = f"more than {_MOST_VALUES:,} values, counting what aliases repeat"
            raise _problem(what, event.start_mark)
        return node

    @override
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN:
            raise _problem(f"the tag {node.tag!r} is not allowed", node.start_mark)
        return super().construct_object(node, deep=deep)

    @override
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if key.tag not in _KEYS:
                    raise _problem(
                        f"the key {_shown(key)} is not a text; put it in quotes", key.start_mark
                    )
                if key.value in seen:
                    raise _problem(f"the key {key.value!r} occurs twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=True)

    @override
    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        # Merged values come first: the mapping's own values override them.
        own = {key.value: (key, value) for key, value in node.value}
        node.value = list(own.values())


_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_Loader.yaml_implicit_resolvers = {}  # drops those of YAML 1.1
for _tag, _pattern, _first in (
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(rf"(?:{_INT.pattern})$"), "-+0123456789"),
    ("float", re.compile(rf"(?:{_FLOAT.pattern})$"), "-+.0123456789"),
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"<<$"), "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))


def _int_of(loader: _Loader, node: Any) -> int:
    text = str(loader.construct_scalar(node))
    if not _INT.fullmatch(text):  # an explicit !!int
        raise _problem(f"{text!r} is not an integer", node.start_mark)
    if len(text) > _LONGEST_INT or not -(2**63) <= int(text, 0) < 2**63:
        raise _problem("an integer beyond 64 bits", node.start_mark)
    return int(text, 0)


def _float_of(loader: _Loader, node: Any) -> float:
    text = str(loader.construct_scalar(node))
    if not (_FLOAT.fullmatch(text) or _INT.fullmatch(text)):
        raise _problem(f"{text!r} is not a number", node.start_mark)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _bool_of(loader: _Loader, node: Any) -> bool:
    text = str(loader.construct_scalar(node))
    if text.lower() not in ("true", "false"):
        raise _problem(f"{text!r} is neither true nor false", node.start_mark)
    return text.lower() == "true"


_Loader.add_constructor("tag:yaml.org,2002:int", _int_of)
_Loader.add_constructor("tag:yaml.org,2002:float", _float_of)
_Loader.add_constructor("tag:yaml.org,2002:bool", _bool_of)


def _problem(problem: str, mark: Any) -> _RefusedError:
    return _RefusedError(None, None, problem, mark)


def _shown(node: Any) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else f"of a {node.id}"
