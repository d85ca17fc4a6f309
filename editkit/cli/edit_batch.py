"""``editkit edit --batch``: many facts, each edited by itself, with a line per edit.

The file is a list in YAML or JSON; an entry has the arguments of the command for one fact::

    - {prompt: The capital of Kenya is, subject: Kenya, to: Paris}
    - prompt: The Toyota Corolla is made by
      subject: Toyota Corolla
      to: Ferrari
      from: Toyota
      keep: [The Toyota Camry is made by]

A fact that cannot be edited is reported and does not stop the others. Every patch is saved as soon
as it exists.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from editkit.cli.edit_inputs import (
    GivenFact,
    check_writable,
    chosen_editors,
    editor_names,
    given_fact,
)
from editkit.cli.edit_outputs import page_width, patch_document
from editkit.cli.signals import terminable
from editkit.editing.outcomes import unwatched
from editkit.errors import ConfigError, EditkitError, UsageError, first_line
from editkit.progress import counting, show_progress
from editkit.storage.file_names import safe_file_name
from editkit.storage.strict_json import parse_json
from editkit.storage.strict_yaml import parse_yaml, read_yaml_text
from editkit.validation import problems_of, strict_values

if TYPE_CHECKING:
    from editkit.interfaces import Editor
    from editkit.models.language_model import LanguageModel
    from editkit.patches.patch import Patch

__all__ = ["Entry", "Outcome", "read_facts", "run_batch"]

EXIT_INCOMPLETE = 1
_NOT_WITH_BATCH = ("prompt", "subject", "to", "old", "keep", "also")


class _Fact(pydantic.BaseModel):
    """One entry of the file."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    prompt: str
    subject: str
    to: str
    old: str | None = pydantic.Field(default=None, alias="from")
    keep: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    separator: str | None = None
    chat: bool = False

    _strict = pydantic.model_validator(mode="wrap")(strict_values)


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the file: a fact, or why it cannot be edited."""

    number: int
    fact: GivenFact | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one edit.

    Attributes:
        entry: The entry.
        editor: The editor; empty if none was tried.
        patch: The patch; None if there is none.
        saved: Its file, if it was saved.
        problem: Why there is no patch.
    """

    entry: Entry
    editor: str
    patch: Patch | None = None
    saved: Path | None = None
    problem: str = ""


def run_batch(args: argparse.Namespace) -> int:
    """Edit the facts of ``--batch``; the exit code.

    Raises:
        UsageError: Flags of a single fact are given, or a patch cannot be saved.
        ConfigError: The file cannot be read, or no entry of it can be edited.
    """
    given = [name for name in _NOT_WITH_BATCH if getattr(args, name)]
    if given or args.interactive:
        name = {"prompt": "PROMPT", "old": "--from"}.get(given[0], f"--{given[0]}") if given else ""
        raise UsageError(
            f"{name or '--interactive'} cannot be used with --batch.",
            hint="The file has the facts; without --batch, give one fact.",
        )
    entries = read_facts(args.batch, chat=args.chat, separator=args.separator)
    paths = _paths(entries, editor_names(args), args.save)
    check_writable(paths.values(), force=args.force)
    editors = chosen_editors(args)
    from editkit.patches.overview import took_effect
    from editkit.registry.models import load_model

    outcomes: list[Outcome] = []
    try:
        with terminable(), show_progress(quiet=args.quiet), unwatched():
            model = load_model(args.model, dtype=args.dtype, device=args.device)
            with counting("editing facts", len(entries), unit="fact") as advance:
                for entry in entries:
                    outcomes += _edits(model, entry, editors, paths)
                    advance()
    finally:  # an interrupt leaves a table of what is done
        if outcomes and args.json:
            sys.stdout.write(json.dumps(_document(args, outcomes), indent=2) + "\n")
        elif outcomes:
            sys.stdout.write(_text(outcomes, args.save))
    complete = all(each.patch is not None and took_effect(each.patch) for each in outcomes)
    return 0 if complete else EXIT_INCOMPLETE


# ---------------------------------------------------------------- the file


def read_facts(path: Path, *, chat: bool = False, separator: str | None = None) -> list[Entry]:
    """The entries of a file of facts; those that cannot be edited have a problem.

    Args:
        path: A YAML or JSON file with a list of facts.
        chat: Value of ``chat`` for entries without one.
        separator: Value of ``separator`` for entries without one.

    Raises:
        ConfigError: The file cannot be read, is not a list, or no entry can be edited.
    """
    place = str(path)
    text = read_yaml_text(path)
    if path.suffix == ".json":
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ConfigError(
                f"{place}: {error}; expected JSON.", hint="Check quotes and commas."
            ) from None
    else:
        data = parse_yaml(text, place=place)
    if not isinstance(data, list) or not data:
        raise ConfigError(
            f"{place} holds {type(data).__name__ if data else 'nothing'}, expected a list of "
            "facts.",
            hint="Begin each fact with a hyphen: - {prompt: ..., subject: ..., to: ...}",
        )
    defaults = {"chat": chat, "separator": separator}
    entries = [
        _entry(number, {**defaults, **each} if isinstance(each, dict) else each)
        for number, each in enumerate(data, start=1)
    ]
    if all(entry.fact is None for entry in entries):
        raise ConfigError(
            f"{place} has no fact that can be edited. Fact 1: {entries[0].problem}",
            hint="Each fact needs prompt, subject and to; from, keep, also, separator and chat "
            "are optional.",
        )
    return entries


def _entry(number: int, data: Any) -> Entry:
    try:
        given = _Fact.model_validate(data)
        fact = given_fact(**{name: getattr(given, name) for name in _Fact.model_fields})
    except pydantic.ValidationError as error:
        return Entry(number, None, problems_of(error))
    except EditkitError as error:
        return Entry(number, None, error.message)
    return Entry(number, fact)


def _paths(
    entries: Sequence[Entry], editors: Sequence[str], folder: Path | None
) -> dict[tuple[int, str], Path]:
    """The file of each patch, by number of its entry and editor; empty without a folder."""
    if folder is None:
        return {}
    digits = len(str(len(entries)))
    paths = {}
    for entry in entries:
        if entry.fact is not None:
            for editor in editors:
                own = f"-{editor}" if len(editors) > 1 else ""
                text = f"{entry.fact.request.subject}-{entry.fact.request.target_new}{own}"
                name = f"{entry.number:0{digits}d}-{'-'.join(text.split())}"
                paths[entry.number, editor] = folder / f"{safe_file_name(name)}.safetensors"
    return paths


# ---------------------------------------------------------------- edits


def _edits(
    model: LanguageModel,
    entry: Entry,
    editors: Sequence[Editor[Any]],
    paths: Mapping[tuple[int, str], Path],
) -> list[Outcome]:
    """The edits of one entry, saved."""
    from editkit.patches.making import patches_for

    if entry.fact is None:
        return [Outcome(entry, "", problem=entry.problem)]
    fact = entry.fact
    try:
        made = patches_for(model, fact.request, editors, keep=fact.keep, also=fact.also)
    except EditkitError as error:
        return [Outcome(entry, editor.name, problem=first_line(error)) for editor in editors]
    outcomes = {
        name: Outcome(entry, name, problem=first_line(failure))
        for name, failure in made.failures.items()
    }
    for patch in made.patches:
        path = paths.get((entry.number, patch.editor))
        if path is not None:
            patch.save(path)
        outcomes[patch.editor] = Outcome(entry, patch.editor, patch, path)
    return [outcomes[editor.name] for editor in editors]


# ---------------------------------------------------------------- output


def _text(outcomes: Sequence[Outcome], folder: Path | None) -> str:
    from editkit.patches.rendering import Edited, facts_text

    several = len({outcome.editor for outcome in outcomes if outcome.editor}) > 1
    edits = []
    for each in outcomes:
        label = f"{each.entry.number} {each.editor}" if several else str(each.entry.number)
        edits.append(Edited(label, _named(each), each.patch, each.problem))
    text = facts_text(edits, width=page_width(), terminal=sys.stdout.isatty())
    saved = sum(outcome.saved is not None for outcome in outcomes)
    if folder is None:
        return f"{text}\nNothing was saved: --save DIR writes a patch per edit.\n"
    return f"{text}\nSaved {saved} patch{'' if saved == 1 else 'es'} in {folder}\n"


def _named(outcome: Outcome) -> str:
    """The fact in short: ``Kenya: Nairobi -> Paris``."""
    fact = outcome.entry.fact
    if fact is None:
        return ""
    request = fact.request if outcome.patch is None else outcome.patch.requests[0]
    return f"{request.subject}: {request.target_true or '?'} -> {request.target_new}"


def _document(args: argparse.Namespace, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": args.model,
        "edits": [
            {
                "fact": each.entry.number,
                "request": None if each.entry.fact is None else each.entry.fact.request.to_dict(),
                "problem": each.problem or None,
                "patch": None if each.patch is None else patch_document(each.patch, each.saved),
            }
            for each in outcomes
        ],
    }
