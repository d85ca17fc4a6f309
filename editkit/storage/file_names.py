"""File names from names that users, files and prompts give: safe on every system, and distinct.

A name that somebody chose is checked and refused (:func:`why_unsafe`); a name that is made from a
text, such as a prompt, is written so that it is safe (:func:`safe_file_name`).
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
"""Bytes of a name in UTF-8; suffixes such as ``-state-mlp-severed.svg`` come on top."""

_ODD = re.compile(r"[^\w.+-]+")
_CHOSEN = re.compile(r"[\w .+()=,&-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_DIGEST = 8  # hexadecimal digits


def why_unsafe(name: str) -> str | None:
    """What is wrong with a name that was chosen for files; None where nothing is.

    Letters and digits of any script, spaces and ``. _ + - ( ) = , &`` are allowed. A name must not
    be empty or longer than :data:`LONGEST` bytes, begin with a dot, a space or a hyphen, end with a
    dot or a space, or be one that Windows reserves (``con``, ``nul.txt``).
    """
    if not name.strip():
        return "is empty"
    if not _CHOSEN.fullmatch(name):
        odd = next(letter for letter in name if not _CHOSEN.fullmatch(letter))
        return f"holds {odd!a}, expected letters, digits, spaces and . _ + - ( ) = , &"
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
    """What is wrong with a relative path with ``/`` between its parts; None where nothing is."""
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

    Args:
        text: Any text; one that is safe already is returned as it is.
        identity: What the file is about, as plain data. Where it is given, or the text had to be
            changed, a digest is added, so that two things never share a file.
    """
    plain = _plain(text)
    if plain == text and not identity:
        return plain
    about = json.dumps([text, *identity], default=str)  # lone surrogates are escaped
    return f"{plain}-{sha256_of(about)[:_DIGEST]}"


def distinct_file_names(texts: Sequence[str]) -> list[str]:
    """File names for several texts, in their order.

    Plain where that is unambiguous, letter case and Unicode forms aside; the others get a digest.
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
