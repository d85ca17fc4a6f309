"""An entry for a family that is not in the table, from the modules that its models have."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from editkit.models.architectures import Architecture
from editkit.models.families import FAMILIES

__all__ = ["entry_as_code", "proposals"]


def proposals(hf: Any) -> Iterator[tuple[str, Architecture]]:
    """Entries of the table whose modules a model has, changed to its model type.

    Entries that differ only in numbers, such as a factor on the logits, are all proposed.

    Args:
        hf: A model of transformers; its weights are not read.

    Returns:
        Pairs of the table's family and the entry.
    """
    model_type = str(hf.config.model_type)
    seen: list[Architecture] = []
    for family in FAMILIES:
        if not _has_modules(hf, family):
            continue
        plain = dataclasses.replace(family, model_types=(model_type,), for_config=None)
        entries = [plain, dataclasses.replace(plain, parallel=not plain.parallel)]
        if family.for_config is not None:
            with contextlib.suppress(Exception):  # another family's config lacks its fields
                entries.append(family.for_config(plain, hf.config))
        for entry in entries:
            if entry not in seen:
                seen.append(entry)
                yield family.model_types[0], entry


def _has_modules(hf: Any, family: Architecture) -> bool:
    """Whether the first and the last block, the head and the norm are where the entry has them."""
    last = int(hf.config.num_hidden_layers) - 1
    inside = [family.attention, *family.qkv, family.attention_out]
    inside += [*family.mlp_in, family.mlp_out] if family.experts is None else [family.experts]
    inside += [path for path in (family.mlp, family.attention_adds, family.mlp_adds) if path]
    paths = [family.path(layer, part) for layer in (0, last) for part in inside]
    paths += [family.final_norm]
    paths += [path for path in (family.position_embedding, family.project_out) if path]
    try:
        for path in paths:
            hf.get_submodule(path)
        head, embedding = hf.get_submodule(family.head), hf.get_submodule(family.embedding)
    except AttributeError:
        return False
    return head is hf.get_output_embeddings() and embedding is hf.get_input_embeddings()


def entry_as_code(entry: Architecture) -> str:
    """An entry as Python source, without the fields that have their default value."""
    lines = []
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if value != field.default:
            lines.append(f"    {field.name}={_quoted(value)},\n")
    return f"Architecture(\n{''.join(lines)})"


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        inner = ", ".join(_quoted(each) for each in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return str(getattr(value, "__name__", repr(value)))
