"""Digests of the files and corpora that a configuration names, for fingerprints.

Every field of type :class:`~pathlib.Path` counts. Strings that name a file or a corpus have the
type :data:`~editkit.interfaces.FileName` or :data:`~editkit.interfaces.CorpusName`. A path on whose
content results do not depend is annotated with ``Annotated[Path, NotRead()]``.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import BaseModel

from editkit.errors import ConfigError
from editkit.interfaces import Config, NamesCorpus, NamesFile, NotRead
from editkit.storage.digests import blake2b_of, digest_of_file

__all__ = ["contents_of", "dependencies"]


def dependencies(config: Config, model_fingerprint: str, *, name: str) -> dict[str, str]:
    """Digests of everything besides a configuration's values that results depend on, by field.

    Args:
        config: The configuration.
        model_fingerprint: Fingerprint of the unedited model.
        name: The plugin that the configuration is for: ``mend-cf``.

    Raises:
        ConfigError: A file or corpus that it names does not exist or cannot be read.
    """
    return {**contents_of(config), **config.depends_on(model_fingerprint, name)}


def contents_of(config: BaseModel) -> dict[str, str]:
    """Digests of all files, folders and corpora that a configuration names, by dotted field.

    Raises:
        ConfigError: One does not exist or cannot be read.
    """
    digests: dict[str, str] = {}
    for place, value, markers in _values(config):
        if any(isinstance(marker, NotRead) for marker in markers):
            continue
        if isinstance(value, PurePath):
            digests[place] = _digest_of_path(place, Path(value).expanduser())
        elif any(isinstance(marker, NamesCorpus) for marker in markers):
            from editkit.covariance.corpora import Corpus

            digests[place] = Corpus(str(value)).digest()
        elif any(isinstance(marker, NamesFile) for marker in markers):
            digests[place] = digest_of_file(str(value))
    return digests


def _values(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """All values of all fields, with their places and the markers of their types."""
    for name, field in type(config).model_fields.items():
        value, place = getattr(config, name), f"{prefix}{name}"
        yield from _inside(place, value, field.annotation, tuple(field.metadata))


def _inside(
    place: str, value: Any, annotation: Any, markers: tuple[Any, ...]
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    annotation, markers = _unwrapped(annotation, markers)
    if isinstance(value, BaseModel):
        yield from _values(value, f"{place}.")
    elif isinstance(value, Mapping):
        kinds = typing.get_args(annotation)
        ignored = tuple(marker for marker in markers if isinstance(marker, NotRead))
        for key, each in value.items():
            yield from _inside(f"{place} at {key}", key, kinds[0] if kinds else Any, ignored)
            yield from _inside(f"{place}.{key}", each, kinds[-1] if kinds else Any, markers)
    elif isinstance(value, list | tuple | set | frozenset):
        kinds = tuple(kind for kind in typing.get_args(annotation) if kind is not Ellipsis)
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        for number, each in enumerate(items):
            kind = kinds[min(number, len(kinds) - 1)] if kinds else Any
            yield from _inside(f"{place}.{number}", each, kind, markers)
    elif value is not None:
        yield place, value, markers


def _unwrapped(annotation: Any, markers: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A type without ``Annotated`` and ``| None``, and its markers.

    A union has the markers of all its members, and the item types of the first member that has any.
    """
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        inner, *more = typing.get_args(annotation)
        return _unwrapped(inner, (*markers, *more))
    if origin in (typing.Union, types.UnionType):
        parts = [_unwrapped(part, ()) for part in typing.get_args(annotation)]
        every = tuple(marker for _, own in parts for marker in own)
        with_items = [part for part, _ in parts if typing.get_args(part)]
        return (with_items[0] if with_items else parts[0][0]), (*markers, *every)
    value = getattr(annotation, "__value__", None)  # type aliases of Python 3.12
    return (annotation, markers) if value is None else _unwrapped(value, markers)


def _digest_of_path(place: str, path: Path) -> str:
    if not path.is_dir():
        return digest_of_file(str(path))
    try:
        files = sorted(_files_in(path))
        return blake2b_of(f"{file.relative_to(path)}={digest_of_file(file)};" for file in files)
    except OSError as error:
        raise ConfigError(
            f"{place}: the folder {path} cannot be read: {error}.",
            hint="Check its permissions.",
        ) from None


def _files_in(folder: Path) -> Iterator[Path]:
    """All files, following links to folders; each folder is visited once."""
    entered: set[Path] = set()
    for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(root)
        folders[:] = [name for name in sorted(folders) if (here / name).resolve() not in entered]
        entered.add(here.resolve())
        yield from (here / name for name in names if (here / name).is_file())


def _raise(error: OSError) -> None:
    raise error
