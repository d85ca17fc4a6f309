"""Making a patch: ask the model, edit, ask the edited model the same (``editkit.edit``)."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import re
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from editkit.data_types import EditRequest
from editkit.editing.deltas import WeightDelta
from editkit.editing.edited_models import EditedModels
from editkit.errors import RequestError
from editkit.interfaces import Editor
from editkit.mistakes import expect, expect_list
from editkit.patches.asking import ask
from editkit.patches.content import Origin, Question, Role
from editkit.patches.measuring import measured
from editkit.patches.patch import Patch
from editkit.registry.factories import is_offered, make_editor
from editkit.registry.models import load_model
from editkit.registry.plugins import default_registry

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = ["edit", "origin_of", "request_of"]

_OBJECT = re.compile(r"\s*(.+?)(?=[.,;:!?\n(]|\s+[^\W\d_A-Z]|$)")


@overload
def edit(
    model: LanguageModel | str | Path,
    prompt: str,
    *,
    subject: str,
    to: str,
    old: str | None = None,
    editor: str | Editor[Any] = "rome",
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
    separator: str | None = None,
    chat: bool = False,
) -> Patch: ...


@overload
def edit(
    model: LanguageModel | str | Path,
    prompt: str,
    *,
    subject: str,
    to: str,
    old: str | None = None,
    editor: Sequence[str | Editor[Any]],
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
    separator: str | None = None,
    chat: bool = False,
) -> list[Patch]: ...


def edit(
    model: LanguageModel | str | Path,
    prompt: str,
    *,
    subject: str,
    to: str,
    old: str | None = None,
    editor: str | Editor[Any] | Sequence[str | Editor[Any]] = "rome",
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
    separator: str | None = None,
    chat: bool = False,
) -> Patch | list[Patch]:
    """Change one fact, and see what that does: ``edit("atlas", PROMPT, subject=..., to=...)``.

    The model stays as it is. The patch applies to it in a block (:meth:`Patch.applied`), can be
    saved (:meth:`Patch.save`), and shows what it did.

    Args:
        model: A model, or its name or folder for :func:`editkit.load_model`.
        prompt: A sentence up to the object, with the subject as it is written there.
        subject: The entity that the fact is about.
        to: The object to write.
        old: The object that the model gives now; None: read from the model's answer.
        editor: An editor's name, or an editor of :func:`editkit.make_editor` with settings of your
            own; with several, the result is a list.
        keep: Prompts with answers that should stay as they are; empty: proposed.
        also: The fact in other words, up to the object; empty: proposed.
        separator: Text between prompt and object; None: the default rule.
        chat: Whether prompts are a user's turns in a chat.

    Raises:
        RequestError: A text cannot be used, or the subject is not in the prompt.
        EditkitError: The model or an editor does not exist, or the edit failed.
    """
    _check_arguments(model, prompt, keep, also, editor)
    if isinstance(model, str | Path):
        model = load_model(model)
    request = request_of(prompt, subject=subject, to=to, old=old, separator=separator, chat=chat)
    single = isinstance(editor, str | Editor)
    methods = [
        make_editor(each, model) if isinstance(each, str) else each
        for each in ([editor] if isinstance(editor, str | Editor) else editor)
    ]
    if request.target_true is None:
        request = _with_old_object(model, request)
    asked = [
        _question(request, "edit", request.sentence),
        *(_question(request, "wording", each) for each in also),
        *(_question(request, "neighbor", each) for each in keep),
    ]
    deltas, origins = [], []
    for method in methods:
        method.prepare(model)
        start = time.perf_counter()
        [delta] = method.edit(model, [request])
        origins.append(origin_of(model, delta.editor, time.perf_counter() - start))
        deltas.append(delta)
    patches = [
        Patch(delta, origin, *result)
        for delta, origin, result in zip(
            deltas, origins, measured(model, deltas, asked), strict=True
        )
    ]
    return patches[0] if single else patches


def _check_arguments(
    model: object, prompt: object, keep: Sequence[str], also: Sequence[str], editor: object
) -> None:
    call = "edit(model, prompt, subject=..., to=...)"
    if not isinstance(model, str | Path):
        expect(model, "LanguageModel", "model", call)
    expect(prompt, "text", "prompt", call)
    expect_list(keep, "text", "keep", call)
    expect_list(also, "text", "also", call)
    for each in editor if isinstance(editor, list | tuple) else [editor]:
        if not isinstance(each, str):
            expect(each, "Editor", "editor", call)


def request_of(
    prompt: str,
    *,
    subject: str,
    to: str,
    old: str | None = None,
    separator: str | None = None,
    chat: bool = False,
) -> EditRequest:
    """The request for a sentence with its subject written out.

    Raises:
        RequestError: The subject is not in the prompt, or a text cannot be used.
    """
    if subject not in prompt:
        raise RequestError(
            f"the subject {subject!r} is not in the prompt {prompt!r}.",
            hint="Write the subject exactly as it is spelled in the prompt.",
        )
    template = prompt.replace(subject, "{}", 1)
    return EditRequest(template, subject, to, target_true=old, separator=separator, chat=chat)


def _question(request: EditRequest, role: Role, prompt: str) -> Question:
    answers = tuple(filter(None, (request.target_new, request.target_true)))
    return Question(role, prompt, answers, request.separator, request.chat, role != "edit")


def _with_old_object(model: LanguageModel, request: EditRequest) -> EditRequest:
    """The request with the object that the model gives now."""
    question = Question("edit", request.sentence, (request.target_new,), request.separator)
    none = WeightDelta({}, None, "none", {}, model.fingerprint)
    [answer] = ask(EditedModels(model, [none]), [question])
    found = _OBJECT.match(answer.text)
    old = found.group(1).strip() if found else answer.text.strip()
    return dataclasses.replace(request, target_true=old or None)


def origin_of(model: LanguageModel, editor: str, seconds: float) -> Origin:
    """Provenance of a patch that an editor has just made on a model."""
    versions = {"python": platform.python_version()}
    if is_offered("editor", editor):
        source = default_registry().get("editor", editor).source
        versions[source.distribution] = source.version
    for package in ("editkit", "torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    described = model.describe()
    return Origin(
        model=model.name,
        revision=model.revision,
        architecture=str(described["architecture"]),
        dtype=str(described["dtype"]),
        device=str(described["device"]),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=seconds,
        versions=versions,
    )
