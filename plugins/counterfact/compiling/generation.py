"""Generation prompts by relation: those that ship with editkit, and those of a user's file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from editkit import DatasetError
from editkit.records.reading import BrokenFieldError, Node, read_json
from editkit.storage.resources import resource_text


def read_generation_prompts(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a file of generation prompts: relation -> texts with one ``{}`` for the subject.

    Raises:
        DatasetError: The file cannot be read, or one of its texts is broken.
    """
    root = Node(read_json(path, "file of generation prompts"))
    try:
        return dict(_generation_prompts(root))
    except BrokenFieldError as broken:
        raise DatasetError(
            f"file of generation prompts {str(path)!r}: {broken}.",
            hint="Expected an object of lists: relation -> texts with one '{}' for the subject.",
        ) from None


@cache
def shipped_generation_prompts() -> Mapping[str, tuple[str, ...]]:
    """Our own generation prompts for the relations of ParaRel."""
    text = resource_text("editkit_plugins.counterfact.compiling:generation.json")
    return dict(_generation_prompts(Node(json.loads(text))))


def _generation_prompts(root: Node) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not isinstance(root.value, Mapping):
        raise root.error(f"is {root}, expected an object")
    for name in root.value:
        yield name, tuple(item.template() for item in root[name].items())
