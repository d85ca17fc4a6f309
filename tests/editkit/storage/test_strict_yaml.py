"""YAML from unknown writers: plain values or one clear error, quickly."""

from __future__ import annotations

import codecs
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit import Config, ConfigError
from editkit.benchmark.spec import load_benchmark, parse_benchmark
from editkit.registry.plugins import default_registry
from editkit.storage.strict_yaml import decode_yaml, parse_yaml, read_yaml_text
from editkit.validation import problems_of
from tests.hostile import either

SMALL = (
    "name: small\nmodel: atlas\ndataset: atlas\nmetrics: [efficacy]\neditors: [none]\nlimit: 3\n"
)


def bomb(layers: int = 9, *, merged: bool = False) -> str:
    """Ten times more values with every line."""
    lines = ["a0: &a0 {x: 1}" if merged else "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for layer in range(1, layers):
        ten = f"[{', '.join([f'*a{layer - 1}'] * 10)}]"
        lines.append(f"a{layer}: &a{layer} " + (f"{{<<: {ten}, k{layer}: 1}}" if merged else ten))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1e-3", 1e-3),
        ("5e-1", 0.5),
        (".5", 0.5),
        ("~", None),
        ("", None),
        ("=", "="),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    read = parse_yaml(text, place="f.yaml")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3", r"f\.yaml line 3, column 1: the key 'a' occurs twice"),
        ("a:\n  b: 1\n  'b': 2", r"line 3, column 3: the key 'b' occurs twice"),
        ("{<<: {a: 1}, <<: {a: 2}}", "the key '<<' occurs twice"),
        ("1: a", "the key '1' is not a text"),
        ("true: a", "the key 'true' is not a text"),
        ("? [a]\n: b", "the key of a sequence is not a text"),
        ("a: !!python/object/apply:os.system [ls]", "the tag .* is not allowed"),
        ("a: !!binary aGk=", "the tag .* is not allowed"),
        ("a: !!set {b}", "the tag .* is not allowed"),
        ("a: !own b", "the tag '!own' is not allowed"),
        ("a: !!int x", "'x' is not an integer"),
        ("a: !!bool no", "'no' is neither true nor false"),
        ("a: &x [*x]", r"the alias \*x refers to itself"),
        ("a: *x", "undefined alias"),
        ("--- 1\n--- 2", "another document"),
        ("a: 9" + "0" * 5000, "an integer beyond 64 bits"),
        ("a: 9223372036854775808", "an integer beyond 64 bits"),
        ("a: \x00", r"line 1: the character U\+0000 is not allowed"),
        ("a: b\nc: \ud800", r"line 2: the character U\+D800 is not allowed"),
        ("[" * 3000, "nested more than 50 levels deep"),
        ("- " * 3000 + "a", "nested more than 50 levels deep"),
        ("{a: " * 3000, "nested more than 50 levels deep"),
        (bomb(), "more than 20,000 values, counting what aliases repeat"),
        (bomb(merged=True), "more than 20,000 values"),
        ("[" + "1, " * 30_000 + "]", "more than 20,000 values"),
        ("#" * 10_000_000, "is larger than 1 MiB"),
        ("a: '", "expected YAML"),
        ("a:\t- b", "expected YAML"),
        ("a: b: c", "expected YAML"),
        ("a: !!map [b]", "expected YAML"),
        ("a: !!merge b", "expected YAML"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_anything_but_plain_data_is_refused_quickly(text: str, complaint: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=complaint):
        parse_yaml(text, place="f.yaml")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("name: café".encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        (b"a: 1\nb: \xff", "line 2: byte 0xff is not UTF-8"),
        ("name: a".encode("utf-16"), "is encoded as UTF-16, expected UTF-8"),
        (codecs.BOM_UTF16_BE + "a".encode("utf-16-be"), "is encoded as UTF-16"),
        ("name: a".encode("utf-32"), "is encoded as UTF-32"),
        ("name: a".encode("utf-16-le"), "U[+]0000 is not allowed"),
        (b"\0" * 100, "U[+]0000 is not allowed"),
        (b"#" * 10_000_000, "is larger than 1 MiB"),
    ],
)
def test_files_in_other_encodings_are_refused_with_the_line(
    content: bytes, complaint: str, tmp_path: Path
) -> None:
    file = tmp_path / "b.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        load_benchmark(str(file), default_registry())


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_bytes(codecs.BOM_UTF8 + SMALL.encode())
    assert load_benchmark(str(file), default_registry())[0].limit == 3
    assert decode_yaml(codecs.BOM_UTF8 + b"a", place="f") == "a"


@pytest.mark.parametrize("name", ["nul\0", "", ".", "absent.yaml", "x" * 5000])
def test_a_file_that_cannot_be_opened_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml_text(Path(name))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("limit: true", "limit: got True, expected an integer"),
        ("batch: true", "batch: got True, expected an integer"),
        ("seeds: [0, false]", r"seeds\.1: got False, expected an integer"),
        ("seeds: [-1]", r"seeds\.0: got -1"),
        ("seeds: [4294967296]", r"seeds\.0: got 4294967296"),
        ("limit: 010x", "limit: got '010x', expected an integer"),
        ("limit: 1.5", "limit: got 1.5, expected an integer"),
        ("limit: .nan", "limit: got nan"),
        ('name: "a\\0b"', "name: got 'a.x00b'; it holds a NUL character"),
        ("limit: 4\nlimit: 5", "the key 'limit' occurs twice"),
        ("model: {name: atlas, name: gpt2}", "the key 'name' occurs twice"),
    ],
)
def test_values_of_a_benchmark_file_are_strict(line: str, complaint: str) -> None:
    key = line.partition(":")[0]
    rest = "".join(f"{kept}\n" for kept in SMALL.splitlines() if not kept.startswith(f"{key}:"))
    with pytest.raises(ConfigError, match=complaint):
        parse_benchmark(rest + line, place="f.yaml")


class _Inner(Config):
    n: int = 1


class _Values(Config):
    n: int = 1
    x: float = 1.0
    flag: bool = False
    several: tuple[int, ...] = ()
    named: dict[str, float] = {}
    either: int | str | None = None
    inner: _Inner = _Inner()
    inners: tuple[_Inner, ...] = ()
    path: Path | None = None


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"n": True}, "n: got True, expected an integer"),
        ({"x": False}, "x: got False, expected a number"),
        ({"several": [1, True]}, "several.1: got True, expected an integer"),
        ({"named": {"a": True}}, "named.a: got True, expected a number"),
        ({"either": True}, "either: got True, expected an integer"),
        ({"inner": {"n": True}}, "inner.n: got True, expected an integer"),
        ({"inners": [{"n": 1}, {"n": True}]}, "inners.1.n: got True, expected an integer"),
        ({"path": "a\0b"}, "path: got 'a\\x00b'; it holds a NUL character"),
        ({"path": Path("a\0b")}, "path: got 'a\\x00b'; it holds a NUL character"),
        ({"either": "\ud800"}, "either: got '\\ud800'; it holds the lone surrogate U+D800"),
    ],
)
def test_true_is_not_a_number_in_any_configuration(values: dict[str, Any], complaint: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        _Values(**values)
    assert problems_of(caught.value) == complaint


def test_booleans_where_they_belong_and_numbers_of_all_kinds_are_accepted() -> None:
    accepted = _Values(n=5.0, x=1, flag=True, several=(0, 1), named={"a": 1})
    assert (accepted.n, accepted.x, accepted.flag, accepted.several) == (5, 1.0, True, (0, 1))


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_benchmark(SMALL.replace("limit: 3", f"limit: {'x' * 100_000}"), place="f.yaml")
    assert len(str(caught.value)) < 600


_WORDS = st.sampled_from(
    [
        *("name", "model", "editors", "a", "&a", "*a", "<<", "!!int", "!!python/name:os.x"),
        *("{", "}", "[", "]", ":", ": ", ",", "-", "- ", "\n", "\n  ", "'", '"', "|", ">", "#"),
        *("?", "%", "---", "true", "010", "1e3", ".nan", "~", "\0", "\ufeff", "\ud800", "é"),
        *("\u2028", "\t", "9" * 30),
    ]
)


@settings(max_examples=400, derandomize=True)
@given(st.one_of(st.lists(_WORDS, max_size=30).map("".join), st.text(max_size=60)))
def test_any_text_gives_plain_data_or_a_config_error(text: str) -> None:
    value = either(lambda: parse_yaml(text, place="f.yaml"), ConfigError)
    if not isinstance(value, ConfigError):
        _check_plain(value)


@settings(max_examples=100, derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_text_or_a_config_error(content: bytes) -> None:
    text = either(lambda: decode_yaml(content, place="f.yaml"), ConfigError)
    if not isinstance(text, ConfigError):
        assert text.encode() == content.removeprefix(codecs.BOM_UTF8)


@settings(max_examples=150, derandomize=True)
@given(
    st.sampled_from(["limit", "batch", "seeds", "metrics", "editors", "dataset", "model", "name"]),
    st.one_of(st.text(max_size=20), st.lists(_WORDS, max_size=6).map("".join)),
)
def test_any_value_gives_a_benchmark_or_a_config_error(key: str, text: str) -> None:
    rest = "".join(f"{kept}\n" for kept in SMALL.splitlines() if not kept.startswith(f"{key}:"))
    either(lambda: parse_benchmark(f"{rest}{key}: {text}", place="f.yaml"), ConfigError)


def _check_plain(value: object) -> None:
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        for item in value.values():
            _check_plain(item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item)
    else:
        assert value is None or type(value) in (str, int, float, bool)
