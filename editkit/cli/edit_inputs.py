"""What ``editkit edit`` is given, checked before any weights are loaded."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from editkit.cli.arguments import parse_sets
from editkit.data_types import EditRequest
from editkit.errors import ConfigError, UsageError
from editkit.patches.requesting import given_prompts, request_of
from editkit.registry import models
from editkit.registry.factories import check_values, make_editor
from editkit.registry.plugins import default_registry
from editkit.storage.file_names import safe_file_name
from editkit.validation import nested_values

if TYPE_CHECKING:
    from editkit.interfaces import Editor

__all__ = [
    "DEFAULT_EDITOR",
    "GivenFact",
    "check_writable",
    "chosen_editors",
    "editor_names",
    "given_fact",
    "patch_paths",
]

DEFAULT_EDITOR = "rome"
_PLACE = "{editor}"


class GivenFact(NamedTuple):
    """A fact to edit, as far as the user gives it."""

    request: EditRequest
    keep: tuple[str, ...]
    also: tuple[str, ...]


def given_fact(
    *, keep: Sequence[str] = (), also: Sequence[str] = (), prompt: str, **texts: Any
) -> GivenFact:
    """A fact from the arguments of :func:`editkit.edit`; no model is needed.

    Raises:
        RequestError: A text cannot be used, or the subject is not in the prompt.
    """
    request = request_of(prompt, **texts)
    return GivenFact(
        request, given_prompts(keep, "keep", request), given_prompts(also, "also", request)
    )


# ---------------------------------------------------------------- editors


def editor_names(args: argparse.Namespace) -> list[str]:
    """The names of ``--editor``, each once; no editor is imported.

    Raises:
        PluginError: There is no such editor.
    """
    names = list(dict.fromkeys(args.editor)) or [DEFAULT_EDITOR]
    for name in names:
        default_registry().get("editor", name)
    return names


def chosen_editors(args: argparse.Namespace) -> list[Editor[Any]]:
    """The editors of ``--editor`` with the values of ``--preset`` and ``--set``.

    Raises:
        PluginError: There is no such editor.
        ConfigError: A value or a preset is wrong, or the editor cannot edit the model.
        ModelError: There is no such model.
    """
    chosen = editor_names(args)
    values = parse_sets(args.sets)
    per_editor = [(name, _values_of(name, chosen, values)) for name in chosen]
    for name, own in per_editor:
        try:
            check_values("editor", name, own, place="--set", preset=args.preset)
        except ConfigError as error:
            raise ConfigError(error.message.replace("--set.", "--set "), hint=error.hint) from None
    fingerprint = models.fingerprint_of(args.model)
    editors = []
    for name, own in per_editor:
        editor = make_editor(name, args.model, preset=args.preset, **own)
        editor.config.check_for(args.model, fingerprint, name)
        editors.append(editor)
    return editors


def _values_of(editor: str, chosen: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for one editor, nested; those that begin with another's name are not its own."""
    own = {}
    for name, value in values.items():
        first, dot, rest = name.partition(".")
        if dot and first in chosen:
            if first == editor:
                own[rest] = value
        else:
            own.setdefault(name, value)
    return nested_values(own)


# ---------------------------------------------------------------- files


def patch_paths(path: Path, editors: Sequence[str]) -> dict[str, Path]:
    """The file for each editor's patch; ``{editor}`` in its name stands for the editor's.

    Raises:
        UsageError: There are several editors, and the name has no ``{editor}``.
    """
    if _PLACE not in path.name and len(editors) > 1:
        suffix = "".join(path.suffixes)
        example = path.with_name(f"{path.name.removesuffix(suffix)}-{_PLACE}{suffix}")
        raise UsageError(
            f"--save: {str(path)!r} is one file, but {len(editors)} editors make a patch each.",
            hint=f"Write {_PLACE} in its name: --save {shlex.quote(str(example))}",
        )
    if _PLACE not in path.name:
        return dict.fromkeys(editors, path)
    return {
        editor: path.with_name(path.name.replace(_PLACE, safe_file_name(editor)))
        for editor in editors
    }


def check_writable(paths: Iterable[Path], *, force: bool) -> None:
    """Refuse files that exist, unless forced, and folders that cannot be written.

    Raises:
        UsageError: A patch cannot be saved there.
    """
    for path in paths:
        if path.is_dir():
            raise UsageError(
                f"--save: {str(path)!r} is a folder, expected the name of a file.",
                hint=f"Name a file in it: --save {shlex.quote(str(path / 'patch.safetensors'))}",
            )
        if path.exists() and not force:
            raise UsageError(
                f"--save: {str(path)!r} exists.",
                hint="Choose another name, or replace it with --force.",
            )
        folder = next(each for each in path.absolute().parents if each.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"--save: {str(path)!r} cannot be written: {error.strerror or error}.",
                hint="Choose another folder, or change its permissions.",
            ) from None
