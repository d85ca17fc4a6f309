"""Plain data as canonical text, and digests of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space; equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """Hexadecimal digest of plain data."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_of_texts(texts: Iterable[str]) -> str:
    """Hexadecimal digest of texts in their order, however many they are."""
    total = hashlib.sha256()
    for text in texts:
        content = text.encode(errors="surrogatepass")
        total.update(f"{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it; what JSON does not know becomes text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)
