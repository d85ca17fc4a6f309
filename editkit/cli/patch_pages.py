"""One patch as ``editkit patch show`` prints it: a page of text, or plain data."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from editkit.cli.edit_outputs import page_width
from editkit.editing.delta_effects import norm_of
from editkit.editing.deltas import notes_of_facts
from editkit.errors import EditkitError
from editkit.patches.combining import form_of, parts_of
from editkit.patches.content import PatchContent
from editkit.patches.interference import base_of
from editkit.patches.rendering import patch_text
from editkit.patches.verdict import verdict_of
from editkit.registry.config import config_class, gather_config
from editkit.registry.plugins import default_registry
from editkit.safe_text import one_line, shortened
from editkit.storage.digests import plain
from editkit.terminal import aligned

__all__ = ["patch_data", "patch_page"]

_MOST_FACTS = 20
_LAYER = re.compile(r"\.(\d+)\.")
_LONGEST_VALUE = 100


def patch_page(file: Path, patch: PatchContent, *, everything: bool) -> str:
    """The report of the patch, then its settings, weights and origin.

    ``everything`` adds the editor's default settings and its notes.
    """
    rows = [
        *_labelled("facts", list(_facts(patch))),
        *_labelled("editor", [patch.editor]),
        *_labelled("settings", list(_settings(patch, everything=everything))),
        *_labelled("parts", list(_parts(patch))),
        *_labelled("changes", list(_changes(patch))),
        *_labelled("model", list(_model(patch))),
        *_labelled("made", list(_made(patch))),
        *_labelled("notes", list(_notes(patch)) if everything else []),
        *_labelled("file", [f"{file.stat().st_size:,} bytes, edit {patch.delta.digest()}"]),
    ]
    shown = patch_text(patch, width=page_width(), terminal=sys.stdout.isatty())
    return f"{one_line(str(file))}\n\n{shown}\n{aligned(rows)}"


def _labelled(label: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, value in enumerate(values):
        yield ("" if number else label), value


def _facts(patch: PatchContent) -> Iterator[str]:
    """The facts of a patch with several; a single one is its heading."""
    if len(patch.requests) < 2:
        return
    for request in patch.requests[:_MOST_FACTS]:
        old = f" (was {request.target_true})" if request.target_true else ""
        chat = ", in a chat" if request.chat else ""
        yield f"{request.sentence} -> {request.target_new}{old}{chat}"
    if (more := len(patch.requests) - _MOST_FACTS) > 0:
        yield f"... and {more} more"


def _settings(patch: PatchContent, *, everything: bool) -> Iterator[str]:
    defaults = None if everything else _defaults(patch.editor)
    hidden = 0
    for name, value in _flat(plain(patch.delta.config)):
        if defaults is not None and name in defaults and defaults[name] == value:
            hidden += 1
        else:
            yield f"{name} = {_shown(value)}"
    if hidden:
        yield f"{hidden} defaults of {patch.editor} (--all shows them)"


def _parts(patch: PatchContent) -> Iterator[str]:
    """What a stacked patch was made of."""
    for part in parts_of(patch):
        facts = "; ".join(part["facts"])
        yield f"{part['editor']}, edit {part['digest'][:12]}: {shortened(facts, _LONGEST_VALUE)}"


def _defaults(editor: str) -> dict[str, Any] | None:
    """The editor's default settings for an unknown model; None if it is not installed."""
    registry = default_registry()
    if not registry.has("editor", editor):
        return None
    try:
        offer = registry.get("editor", editor)
        values = {**_of_schema(config_class(offer)), **gather_config(offer).values}
    except EditkitError:
        return None
    return dict(_flat(plain(values)))


def _of_schema(schema: type[BaseModel]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, info in schema.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            values[name] = _of_schema(info.annotation)
        elif not info.is_required():
            values[name] = info.get_default(call_default_factory=True)
    return values


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False), _LONGEST_VALUE)


def _changes(patch: PatchContent) -> Iterator[str]:
    delta = patch.delta
    whole = {each.name: each.weight_norm for each in patch.size.parameters} if patch.size else {}
    for name, change in delta.changes.items():
        layer = _LAYER.search(name)
        place = f"layer {layer.group(1)}, " if layer else ""
        shape = " x ".join(map(str, change.shape))
        own = f"; the weight's is {whole[name]:.4g}" if name in whole else ""
        yield f"{name}: {place}{form_of(change)} of {shape}, norm {norm_of(change):.4g}{own}"
    if delta.context is not None:
        n = len(delta.context.texts)
        yield f"puts {n} text{'' if n == 1 else 's'} before prompts; weights cannot carry them"
    if len(delta.changes) != 1:
        n = len(delta.changes)
        yield f"{n} weights, norm {delta.norm():.4g}" if n else "no weights"


def _model(patch: PatchContent) -> Iterator[str]:
    origin = patch.origin
    if origin is None:
        yield "not named (a file of save_delta)"
    else:
        kind = f"{origin.architecture}, {origin.dtype} on {origin.device}"
        yield f"{origin.model_and_revision}: {kind}"
    yield f"weights {base_of(patch)}"
    if below := patch.delta.made_on[1:]:
        yield f"on top of {', '.join(edit[:12] for edit in below)}"


def _made(patch: PatchContent) -> Iterator[str]:
    if patch.origin is not None:
        yield f"{patch.origin.created}, in {patch.origin.seconds:.1f} s"
        yield ", ".join(f"{name} {version}" for name, version in patch.origin.versions.items())


def _notes(patch: PatchContent) -> Iterator[str]:
    """What the editor noted about the edit, once for each note."""
    every = (
        f"{k}: {_shown(plain(v))}"
        for notes in notes_of_facts(patch.delta)
        for k, v in notes.items()
        if k not in ("parts", "stacked")
    )
    yield from dict.fromkeys(every)


# ---------------------------------------------------------------- as data


def patch_data(file: Path, patch: PatchContent) -> dict[str, Any]:
    """Everything in the patch except the values of its weights, ready for JSON after ``plain``."""
    delta = patch.delta
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "digest": delta.digest(),
        "facts": [request.to_dict() for request in patch.requests],
        "editor": patch.editor,
        "settings": delta.config,
        "weights": [
            {
                "name": name,
                "form": form_of(change),
                "shape": change.shape,
                "norm": norm_of(change),
            }
            for name, change in delta.changes.items()
        ],
        "context": None if delta.context is None else delta.context.to_dict(),
        "norm": delta.norm(),
        "base_model": base_of(patch),
        "made_on": delta.made_on[1:],
        "origin": None if patch.origin is None else patch.origin.to_dict(),
        "notes": delta.notes,
        "remarks": patch.remarks,
        "verdict": verdict_of(patch).to_dict(),
        "checks": [
            {
                "question": check.question.to_dict(),
                "before": vars(check.before),
                "after": vars(check.after),
            }
            for check in patch.checks
        ],
        "drift": [vars(movement) for movement in patch.drift],
        "size": None if patch.size is None else patch.size.to_dict(),
    }
