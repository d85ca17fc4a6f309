"""Facts to be traced: from a file, or from a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editkit import DatasetError, EditkitError, Fact, make_dataset
from editkit.record_files import read_json

_KNOWN = "known_1000"
_LAYOUT = (
    "Expected a JSON list of objects with prompt, subject and, if you like, attribute or answer."
)


def facts_of(source: str) -> tuple[list[Fact], list[str]]:
    """Facts, and what is wrong with those that were left out.

    Args:
        source: A JSON file (the layout of ROME's ``known_1000.json``: prompt, subject, attribute),
            the name of an installed dataset, or ``known_1000``: that file of the ROME authors, in
            the working directory.

    Raises:
        DatasetError: There is no such file or dataset, or nothing in it can be used.
    """
    path = Path(f"{source}.json" if source == _KNOWN else source).expanduser()
    if source == _KNOWN and not path.exists():
        raise DatasetError(
            "known_1000 is a file of the ROME authors that does not come with editkit.",
            hint="Download known_1000.json from the ROME project into this folder, or give its "
            "path.",
        )
    if path.suffix == ".json" or path.exists():
        return _of_file(path)
    records = make_dataset(source).load().records
    facts = [
        Fact(record.request.sentence, record.request.subject, record.request.target_true)
        for record in records
    ]
    return facts, []


def _of_file(path: Path) -> tuple[list[Fact], list[str]]:
    content = read_json(path, what="file of facts")
    if not isinstance(content, list):
        raise DatasetError(f"file of facts {str(path)!r} holds no list.", hint=_LAYOUT)
    facts, wrong = [], []
    for number, entry in enumerate(content):
        try:
            facts.append(_fact(entry))
        except (TypeError, KeyError, AttributeError) as error:
            wrong.append(f"entry {number}: {type(error).__name__} {error}")
        except EditkitError as error:
            wrong.append(f"entry {number}: {error.message}")
    if not facts:
        reason = f" ({wrong[0]})" if wrong else ""
        raise DatasetError(f"file of facts {str(path)!r} has no usable fact{reason}.", hint=_LAYOUT)
    return facts, wrong


def _fact(entry: Mapping[str, Any]) -> Fact:
    answer = entry.get("attribute", entry.get("answer"))
    return Fact(
        str(entry["prompt"]).rstrip(),
        str(entry["subject"]),
        None if answer is None else str(answer).strip(),
    )
