"""Making a patch: ask the model, edit, ask the edited model the same (``editkit.edit``)."""

from __future__ import annotations

import datetime
import logging
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from editkit.data_types import EditRequest
from editkit.editing.deltas import WeightDelta
from editkit.errors import ConfigError, EditkitError, RequestError, UsageError
from editkit.interfaces import Editor
from editkit.mistakes import expect, expect_list
from editkit.patches.content import Origin
from editkit.patches.measuring import measured
from editkit.patches.patch import Patch, Patches
from editkit.patches.proposals import Proposal, propose
from editkit.patches.requesting import given_prompts, request_of, request_of_mapping
from editkit.progress import counting
from editkit.registry.factories import check_values, is_offered, make_editor
from editkit.registry.models import load_model
from editkit.registry.plugins import default_registry

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = ["Made", "edit", "edit_many", "origin_of", "patches_for", "request_of"]

_log = logging.getLogger(__name__)


class Made(NamedTuple):
    """The patches of several editors for one fact.

    Attributes:
        patches: In the order of the editors.
        failures: Why the other editors made none, by name.
    """

    patches: Patches
    failures: dict[str, EditkitError]


@overload
def edit(  # type: ignore[overload-overlap]  # a str is a Sequence[str], too
    model: LanguageModel | str | Path,
    prompt: str,
    *,
    subject: str,
    to: str,
    old: str | None = None,
    editor: str | Editor[Any] = "rome",
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
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
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
    separator: str | None = None,
    chat: bool = False,
) -> Patches: ...


def edit(
    model: LanguageModel | str | Path,
    prompt: str,
    *,
    subject: str,
    to: str,
    old: str | None = None,
    editor: str | Editor[Any] | Sequence[str | Editor[Any]] = "rome",
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
    separator: str | None = None,
    chat: bool = False,
) -> Patch | Patches:
    """Change one fact, and see what that does: ``edit("atlas", PROMPT, subject=..., to=...)``.

    The model stays as it is. The patch applies to it in a block (:meth:`Patch.applied`), can be
    saved (:meth:`Patch.save`), and shows what it did.

    Args:
        model: A model, or its name or folder for :func:`editkit.load_model`.
        prompt: A sentence up to the object, with the subject as it is written there.
        subject: The entity that the fact is about. If it occurs several times in the prompt, the
            first one is edited.
        to: The object to write.
        old: The object that the model gives now; None: read from the model's answer.
        editor: An editor's name, or an editor of :func:`editkit.make_editor` with settings of your
            own. With a list, the result is a list; an editor that fails is logged and left out.
        preset: Preset of editors that are given by name.
        config: Their settings, by field: ``{"layer": 3}``.
        keep: Prompts with answers that should stay as they are; empty: proposed.
        also: The fact in other words, up to the object; empty: proposed.
        separator: Text between prompt and object; None: the default rule.
        chat: Whether prompts are a user's turns in a chat.

    Raises:
        RequestError: A text cannot be used, or the subject is not in the prompt.
        EditkitError: The model or an editor does not exist, or no edit could be made.
    """
    _check_arguments(model, prompt, keep, also, editor)
    request = request_of(prompt, subject=subject, to=to, old=old, separator=separator, chat=chat)
    keep, also = given_prompts(keep, "keep", request), given_prompts(also, "also", request)
    model = _loaded(model)
    single = isinstance(editor, str | Editor)
    editors = _editors(model, editor, preset, config)
    made = patches_for(model, request, editors, keep=keep, also=also)
    for name, failure in made.failures.items():
        if not made.patches:
            raise failure
        _log.warning("%s made no patch and is left out: %s", name, failure)
    return made.patches[0] if single else made.patches


def patches_for(
    model: LanguageModel,
    request: EditRequest,
    editors: Sequence[Editor[Any]],
    *,
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
) -> Made:
    """The patches of several editors for one fact; they share the unedited model's answers.

    Args:
        model: The model.
        request: The fact; without an old object, the model's answer is used.
        editors: The editors, with different names or settings.
        keep: Prompts with answers that should stay as they are; empty: proposed.
        also: The fact in other words; empty: proposed.

    Raises:
        RequestError: A text cannot be used.
        ModelError: The request is a chat and the model has no chat template, or a text is too long.
    """
    with counting("editing one fact", len(editors) + 2, unit="step") as advance:
        start = time.perf_counter()
        advance.relabel("choosing questions")
        proposal = propose(model, request, keep=keep, also=also)
        seconds = time.perf_counter() - start
        _log.info("chose %d questions in %.1f s", len(proposal.questions), seconds)
        advance()
        deltas: list[tuple[WeightDelta, Origin]] = []
        failures: dict[str, EditkitError] = {}
        for editor in editors:
            advance.relabel(f"editing with {editor.name}")
            try:
                [delta], origin = _edited(model, editor, [proposal.request])
                deltas.append((delta, origin))
            except EditkitError as error:
                failures[editor.name] = error
            advance()
        advance.relabel("asking the edited models")
        patches = _measured(model, deltas, proposal, failures)
        advance()
    return Made(Patches(patches), failures)


def edit_many(
    model: LanguageModel | str | Path,
    facts: Iterable[Mapping[str, Any] | EditRequest],
    *,
    editor: str | Editor[Any] = "rome",
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> list[Patch]:
    """A patch for each of many facts, each made from the model as it is.

    The editor is prepared once and edits all facts in one call.

    Args:
        model: A model, or its name or folder.
        facts: Mappings with the arguments of :func:`edit` that describe a fact (``prompt``,
            ``subject``, ``to``, and perhaps ``old``, ``keep``, ``also``, ``separator``, ``chat``),
            or requests.
        editor: As for :func:`edit`.
        preset: As for :func:`edit`.
        config: As for :func:`edit`.

    Returns:
        One patch per fact.

    Raises:
        RequestError: A fact cannot be used; the message has its number, from 1.
        EditkitError: The model or the editor does not exist, or an edit failed.
    """
    call = "edit_many(model, facts)"
    if not isinstance(model, str | Path):
        expect(model, "LanguageModel", "model", call)
    if not isinstance(editor, str):
        expect(editor, "Editor", "editor", call)
    if isinstance(facts, str | Mapping | EditRequest):
        raise UsageError(
            f"{call}: got {facts!r:.80} as facts, expected a list.",
            hint="Put it in a list, or use editkit.edit for one fact.",
        )
    facts = list(facts)
    requests = [request_of_mapping(fact, number) for number, fact in enumerate(facts, start=1)]
    given = [
        {
            name: given_prompts(fact.get(name, ()), name, request)
            for name in ("keep", "also")
            if isinstance(fact, Mapping)
        }
        for fact, request in zip(facts, requests, strict=True)
    ]
    model = _loaded(model)
    [method] = _editors(model, editor, preset, config)
    if not requests:
        return []
    patches: list[Patch] = []
    with counting("editing facts", 2 * len(requests), unit="fact") as advance:
        proposals = []
        for request, prompts in zip(requests, given, strict=True):
            proposals.append(propose(model, request, **prompts))
            advance()
        deltas, origin = _edited(model, method, [proposal.request for proposal in proposals])
        for delta, proposal in zip(deltas, proposals, strict=True):
            [result] = measured(model, [delta], proposal.questions)
            patches.append(Patch(delta, origin, *result, remarks=proposal.remarks))
            advance()
    return patches


def _edited(
    model: LanguageModel, editor: Editor[Any], requests: Sequence[EditRequest]
) -> tuple[list[WeightDelta], Origin]:
    """One delta per request; the origin's time is that of one edit."""
    editor.check(model)
    editor.prepare(model)
    start = time.perf_counter()
    deltas = editor.edit(model, requests)
    seconds = (time.perf_counter() - start) / len(requests)
    return deltas, origin_of(model, deltas[0].editor, seconds)


def _measured(
    model: LanguageModel,
    deltas: Sequence[tuple[WeightDelta, Origin]],
    proposal: Proposal,
    failures: dict[str, EditkitError],
) -> list[Patch]:
    """The patches; edits that cannot be asked the questions become failures."""
    try:
        results = measured(model, [delta for delta, _ in deltas], proposal.questions)
    except EditkitError as error:
        if len(deltas) == 1:
            failures[deltas[0][0].editor] = error
            return []
        return [patch for pair in deltas for patch in _measured(model, [pair], proposal, failures)]
    return [
        Patch(delta, origin, *result, remarks=proposal.remarks)
        for (delta, origin), result in zip(deltas, results, strict=True)
    ]


# ---------------------------------------------------------------- arguments


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


def _loaded(model: LanguageModel | str | Path) -> LanguageModel:
    return load_model(model) if isinstance(model, str | Path) else model


def _editors(
    model: LanguageModel,
    editor: str | Editor[Any] | Sequence[str | Editor[Any]],
    preset: str | None,
    config: Mapping[str, Any] | None,
) -> list[Editor[Any]]:
    """The editors that are given by name or as they are.

    Raises:
        RequestError: There is none, or one is given twice.
        ConfigError: A preset or setting is wrong, or belongs to an editor that has its own.
        PluginError: There is no editor of that name.
    """
    given = [editor] if isinstance(editor, str | Editor) else editor
    if config is not None:
        expect(config, "mapping", "config", 'edit(..., config={"layer": 3})')
    editors: list[Editor[Any]] = []
    for each in given:
        if isinstance(each, str):
            check_values("editor", each, config or {}, place="config", preset=preset)
            editors.append(make_editor(each, model, preset=preset, **(config or {})))
        elif preset is not None or config:
            raise ConfigError(
                f"the editor {each.name!r} has its own settings, so preset and config cannot be "
                "given.",
                hint="Give them to editkit.make_editor.",
            )
        else:
            editors.append(each)
    if not editors:
        raise RequestError("editor is empty.", hint="Give at least one editor: editor='rome'.")
    for number, each in enumerate(editors):
        if any(
            each.name == other.name and each.config == other.config for other in editors[:number]
        ):
            raise RequestError(
                f"the editor {each.name!r} is given twice with the same settings.",
                hint="Leave one out.",
            )
    return editors


def origin_of(model: LanguageModel, editor: str, seconds: float) -> Origin:
    """Provenance of a patch that an editor has just made on a model.

    Args:
        model: The model.
        editor: The editor's name.
        seconds: Time that the edit took.
    """
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
        revision=model.commit or model.revision,
        architecture=str(described["architecture"]),
        dtype=str(described["dtype"]),
        device=str(described["device"]),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=seconds,
        versions=versions,
    )
