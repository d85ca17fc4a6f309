"""File names that are safe on every system, and distinct.

Names that users choose are checked (:func:`why_unsafe`); names that are derived from texts, such as
prompts, are made safe (:func:`safe_file_name`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from editkit.storage.digests import sha256_of

__all__ = ["distinct_file_names", "safe_file_name", "why_unsafe", "why_unsafe_path"]

LONGEST = 110
"""Most bytes of a name in UTF-8, without suffixes such as ``-state-mlp-severed.svg``."""

_ODD = re.compile(r"[^\w.+-]+")
_CHOSEN = re.compile(r"[\w .+()=,&-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_DIGEST = 8  # hexadecimal digits


def why_unsafe(name: str) -> str | None:
    """Why a name cannot be used for files (``"is empty"``); None if it can.

    Letters and digits of any script, spaces and ``. _ + - ( ) = , &`` are allowed. A name must not
    be empty or longer than :data:`LONGEST` bytes, begin with a dot, a space or a hyphen, end with a
    dot or a space, or be reserved by Windows (``con``, ``nul.txt``).
    """
    if not name.strip():
        return "is empty"
    if not _CHOSEN.fullmatch(name):
        odd = next(letter for letter in name if not _CHOSEN.fullmatch(letter))
        return f"contains {odd!a}, expected letters, digits, spaces and . _ + - ( ) = , &"
    if name[0] in ".- ":
        return f"begins with {name[0]!r}, expected a letter or a digit"
    if name[-1] in ". ":
        return f"ends with {name[-1]!r}, which some systems drop"
    if _is_reserved(name):
        return "is a name that Windows reserves for a device"
    size = len(name.encode())
    if size > LONGEST:
        return f"is {size} bytes long, expected at most {LONGEST}"
    return None


def why_unsafe_path(path: str) -> str | None:
    """As :func:`why_unsafe`, for a relative path with ``/`` between its parts."""
    if not path:
        return "is empty"
    if path.startswith("/"):
        return "is absolute, expected a relative path"
    for part in path.split("/"):
        trouble = why_unsafe(part)
        if trouble is not None:
            return trouble if part == path else f"has a part {part!a} that {trouble}"
    return None


def safe_file_name(text: str, *, identity: Sequence[object] = ()) -> str:
    """A file name for a text: letters and digits are kept, everything else becomes ``-``.

    If the text is changed, or has an identity, the name ends with a digest of both, so that
    different things get different files.

    Args:
        text: Any text; a safe one is returned unchanged.
        identity: Plain data that identifies the file's content.
    """
    plain = _plain(text)
    if plain == text and not identity:
        return plain
    about = json.dumps([text, *identity], default=str)  # lone surrogates are escaped
    return f"{plain}-{sha256_of(about)[:_DIGEST]}"


def distinct_file_names(texts: Sequence[str]) -> list[str]:
    """File names for several texts, in their order.

    Names that differ only in letter case or Unicode form get a digest.
    """
    plain = [_plain(text) for text in texts]
    same = Counter(name.casefold() for name in plain)
    return [
        name if same[name.casefold()] == 1 else safe_file_name(text, identity=[name])
        for text, name in zip(texts, plain, strict=True)
    ]


def _plain(text: str) -> str:
    name = _ODD.sub("-", unicodedata.normalize("NFC", text)).strip("-.")
    if _is_reserved(name):
        name = f"_{name}"
    short = name.encode()[: LONGEST - _DIGEST - 1].decode(errors="ignore").rstrip("-.")
    return short or "unnamed"


def _is_reserved(name: str) -> bool:
    return _RESERVED.fullmatch(PurePosixPath(name).name.split(".")[0].rstrip()) is not None
