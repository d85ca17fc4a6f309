"""JSON from files, plain or compressed, with plain words where it cannot be had."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

from editkit import DatasetError

_GZIP_MAGIC = b"\x1f\x8b"


def read_json(path: Path, *, what: str = "dataset file") -> object:
    """The content of a plain or gzip-compressed JSON file.

    Args:
        path: The file.
        what: What it is called in messages.

    Raises:
        DatasetError: The file is absent, damaged, or no JSON.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        content: object = json.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(
            f"{what} {str(path)!r} does not exist.",
            hint="Give the path of a CounterFact file; docs/datasets.md says where to get one.",
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{what} {str(path)!r} cannot be read: {error}.",
            hint="Check that it is a file, readable, and completely downloaded.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{what} {str(path)!r} is not JSON: {error}.",
            hint="Expected JSON; check that it is completely downloaded.",
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
