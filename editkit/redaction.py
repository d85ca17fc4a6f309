"""Removes passwords and tokens from texts that are shown, logged or stored.

Everything that a user sees passes through :func:`redacted`: error messages, log lines, tracebacks,
reasons of failed records, addresses of tracking services.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

__all__ = ["MASK", "redacted", "redacted_values"]

MASK = "***"

# ``scheme://`` and everything up to a space, a quote or an angle bracket. An address that was
# handled as a path has only ``scheme:/``.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,40})"
    r"(?P<slashes>:/{2,4}|(?<=[A-Za-z0-9+.-]{2}):/(?=[^\s\"'`<>]{0,500}@))(?P<rest>[^\s\"'`<>]*)"
)
_LOCAL = re.compile(r"file|(?:sqlite|dbfs)(?:\+\w+)?", re.IGNORECASE)  # paths, without a host
_OPEN = re.compile(  # a password that contains a space or a quote
    r"(?<=://)[^\s/?#@:\[\]]{0,200}:"
    r"(?!\d+(?:[/?#](?![^\s\"'`<>]{0,500}[\"'`<>]\S{0,500}@)|\s|$|[,;.)\"'<>]+(?:\s|$)))"
    r"[^@\n]{0,500}@",
    re.MULTILINE,
)
_ENCODED = re.compile(r"(?<=%3A%2F%2F)[^\s\"'<>]{0,500}%40", re.IGNORECASE)
_BARE = re.compile(r"(?<![\w:/])//[^\s/@:\"'<>]{0,200}:[^\s\"'<>]{0,500}@")  # without a scheme
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]*(?:%\w+)?\]|[^:/?#@\[\]]*)(?::[0-9]*)?")
_TRAILING = re.compile(r"[.,;:)\]}!]*$")

_KINDS = "access|api|auth|bearer|csrf|id|oauth|personal|private|refresh|sas|secret|security|session"
_SERVICES = "hf|hub|huggingface|github|gitlab|aws|azure|databricks|mlflow|tracking|service"
_WORDS = (
    r"(?:password|passwd|passphrase|pwd|secret|api[_.-]?key|access[_.-]?key|"
    rf"private[_.-]?key|account[_.-]?key|(?:{_KINDS}|{_SERVICES})[_.-]?token|credentials?)"
)
_SHORT = r"signature|sig|auth|jwt|x-(?:amz|goog)-[\w-]{1,40}"
_SECRET_NAME = rf"(?:[\w.-]{{0,60}}{_WORDS}|{_SHORT})"
_ASSIGNED = re.compile(
    rf"(?P<name>{_WORDS}|(?<![A-Za-z])(?:{_SHORT}|(?<=[?&#;])token|token(?==[\"']?[\w.~+/-]*\d)))"
    r"(?P<equals>\s?=\s?)(?P<value>\"[^\"]*\"|'[^']*'|[^\s&;,\"'<>]+)",
    re.IGNORECASE,
)
_IN_JSON = re.compile(
    rf"(?P<name>[\"'](?:{_SECRET_NAME}|token)[\"'])(?P<equals>\s*:\s*)(?P<value>\"[^\"]*\"|'[^']*')",
    re.IGNORECASE,
)
_NAMED = re.compile(  # ``password: ...``, as in YAML and headers
    r"(?P<name>password|passwd|passphrase|secret|(?:api|access|private)[_.-]?key"
    rf"|(?:{_KINDS}|{_SERVICES})[_.-]?token|cookie)(?P<equals>: ?)"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,\"'<>]+)",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(_SECRET_NAME, re.IGNORECASE)
_HEADER = re.compile(
    r"\b(?P<name>(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?P<value>(?:\w+\s+)?[^\s\"',;]+)"
    r"|\b(?P<bearer>bearer\s+)(?P<bearer_value>[\w.~+/=-]{8,})"
    r"|\b(?P<basic>basic\s+)(?P<basic_value>[A-Za-z0-9+/]{6,}={1,2})",
    re.IGNORECASE,
)
_TOKENS = re.compile(  # in the forms of well-known issuers
    r"\b(?:hf_[A-Za-z0-9]{8,}|api_org_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}|xox[a-z]-[\w-]{10,}|dapi[0-9a-f]{16,}"
    r"|A(?:KIA|SIA)[A-Z0-9]{12,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|AIza[\w-]{20,})"
)
_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASS|PWD|SECRET|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS?)"
    r"$",
    re.IGNORECASE,
)
_NO_SECRET_VARIABLES = ("PWD", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS")
_URI_VARIABLES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY"),
    *("ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)
_NOT_SECRET = {"true", "false", "none", "null", "disabled", "enabled", "default"}
_SHORTEST = 4  # masking shorter values of the environment would garble ordinary words
_PIECES = re.compile(r"[/?#@:&=]+")


def redacted(text: str) -> str:
    """The text without passwords and tokens; scheme and host of an address stay readable.

    Masked are: values of environment variables such as ``HF_TOKEN`` and
    ``MLFLOW_TRACKING_PASSWORD``, and secret parts of tracking addresses; user name, password, query
    values and fragment of every address; values with names such as ``password=`` and ``token=``;
    and tokens in the forms of well-known issuers.

    If it is unclear where the password of an address ends (``https://user:pa/ss@host``), only the
    text after the last ``@`` is kept, or only the scheme.
    """
    return _redacted(text, _from_environment()) if text else text


def _redacted(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _URL.sub(_without_secrets, _OPEN.sub(f"{MASK}@", text))
    text = _BARE.sub(f"//{MASK}@", _ENCODED.sub(f"{MASK}%40", text))
    text = _HEADER.sub(_masked_header, text)
    text = _IN_JSON.sub(rf'\g<name>\g<equals>"{MASK}"', text)
    text = _ASSIGNED.sub(rf"\g<name>\g<equals>{MASK}", text)
    text = _NAMED.sub(rf"\g<name>\g<equals>{MASK}", text)
    return _TOKENS.sub(MASK, text)


def redacted_values(value: Any) -> Any:
    """Plain data with every text redacted; values of keys such as ``password`` are masked whole."""
    return _redacted_values(value, tuple(_from_environment()))


def _redacted_values(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _redacted(value, secrets) if value else value
    if isinstance(value, Mapping):
        return {
            key: MASK
            if isinstance(item, str) and item and _SECRET_KEY.fullmatch(str(key))
            else _redacted_values(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted_values(item, secrets) for item in value]
    return value


def _masked_header(header: re.Match[str]) -> str:
    return f"{header['name'] or header['bearer'] or header['basic']}{MASK}"


def _without_secrets(url: re.Match[str]) -> str:
    rest = url["rest"]
    trailing = _TRAILING.search(rest)
    end = trailing.start() if trailing and "@" not in rest[trailing.start() :] else len(rest)
    if _LOCAL.fullmatch(url["scheme"]):
        path, mark, tail = _split_tail(rest[:end])
        shown = path + _masked_tail(mark + tail)
    else:
        shown = _shown(rest[:end])
    return f"{url['scheme']}{url['slashes']}{shown}{rest[end:]}"


def _shown(rest: str) -> str:
    """The part of an address after ``scheme://``, without secrets."""
    before, mark, behind = _split_tail(rest)
    tail = mark + behind
    authority, slash, path = before.partition("/")
    path = slash + path
    if "@" in tail and not re.match(r"\?[\w.\[\]%-]+=", tail):
        # Queries do not begin like this: it is a password that contains '?' or '#'.
        return _behind_the_last_at(rest)
    if "@" in path:
        # A password that contains '/', or a path that contains '@'; with two '@', mask everything.
        return MASK if "@" in authority else _behind_the_last_at(before) + _masked_tail(tail)
    _, at, host = authority.rpartition("@")
    if not _HOST.fullmatch(host):  # 'user:password' of a truncated address
        return f"{MASK}{_masked_tail(tail)}"
    return f"{MASK}@{host}{path}{_masked_tail(tail)}" if at else f"{host}{path}{_masked_tail(tail)}"


def _behind_the_last_at(rest: str) -> str:
    """What follows the password if it contains '/', '?' or '#'; only a mask if that is no host."""
    before, _, behind = rest.rpartition("@")
    host = _HOST.match(behind)
    if "@" in before or host is None or not host[0]:
        return MASK
    remainder = behind[host.end() :]
    if remainder and remainder[0] not in "/?#":
        return MASK
    path, mark, tail = _split_tail(remainder)
    return f"{MASK}@{host[0]}{path}{_masked_tail(mark + tail)}"


def _split_tail(rest: str) -> tuple[str, str, str]:
    """The text before the first '?' or '#', that character, and the text after it."""
    start = min((rest.find(mark) for mark in "?#" if mark in rest), default=len(rest))
    return rest[:start], rest[start : start + 1], rest[start + 1 :]


def _masked_tail(tail: str) -> str:
    """A query and a fragment without values."""
    if not tail:
        return ""
    query, hash_mark, fragment = tail.partition("#")
    shown = ""
    if query.startswith("?"):
        items = [item for item in re.split("[&;]", query[1:]) if item]
        names = [re.match(r"([A-Za-z][\w.\[\]-]{0,40})=", item) for item in items]
        shown = "?" + "&".join(f"{name[1]}={MASK}" if name else MASK for name in names)
    return shown + (f"#{MASK}" if hash_mark and fragment else hash_mark)


def _from_environment() -> Iterator[str]:
    """Secrets in this process's environment, in all their spellings, the longest first."""
    secrets: set[str] = set()
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and name not in _NO_SECRET_VARIABLES:
            secrets.add(value.strip())
    for name in _URI_VARIABLES:
        if value := os.environ.get(name, ""):
            secrets.update(_secrets_of(value))
    forms = {form for each in secrets for form in (each, unquote(each), quote(each, safe=""))}
    kept = [form for form in forms if len(form) >= _SHORTEST and form.lower() not in _NOT_SECRET]
    yield from sorted(kept, key=len, reverse=True)


def _secrets_of(uri: str) -> Iterator[str]:
    """The secret parts of an address, from its user, password, query and fragment."""
    _, _, rest = uri.partition("://")
    rest = rest or uri
    before, at, behind = rest.rpartition("@")
    tail = behind if at else rest
    if at:
        user, colon, password = before.partition(":")
        yield password if colon else user
        yield from (piece for piece in _PIECES.split(password) if colon)
        if "/" in user or not colon:
            yield from _PIECES.split(user)
    query = re.search(r"[?#].*", tail, re.DOTALL)
    for item in re.split("[?#&;]", query[0]) if query else ():
        yield item.partition("=")[2] or item
