"""Files and folders that ship in Python packages, named ``"package:folder/file"``.

The package alone (``"package"``) names its top folder. This module is the only one that resolves
such references.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["path_of", "resource", "resource_path", "resource_text"]


class _MissingError(Exception):
    """Why a package, or something in it, cannot be found."""


def resource(reference: str, *, owner: str | None = None) -> Traversable:
    """A file or folder in a package; the package may be a zip archive.

    Args:
        reference: ``"package:folder/file"``.
        owner: The plugin or spec that names it, for the error: ``"benchmark 'atlas'"``.

    Raises:
        PluginError: The package cannot be imported, or there is nothing of that name in it.
    """
    try:
        entry = _locate(reference)
        if not (entry.is_file() or entry.is_dir()):
            package, _, inside = reference.partition(":")
            raise _MissingError(f"package {package!r} has no {inside!r}")
    except _MissingError as error:
        raise _broken(reference, owner, str(error)) from None
    return entry


def resource_text(reference: str, *, owner: str | None = None) -> str:
    """The text of a UTF-8 file in a package.

    Arguments as for :func:`resource`.

    Raises:
        PluginError: There is no such file, or it is not UTF-8.
    """
    file = resource(reference, owner=owner)
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise _broken(reference, owner, f"it cannot be read ({error})") from None


def resource_path(reference: str, *, owner: str | None = None) -> Path:
    """The path of a file or folder in a package, for libraries that open paths themselves.

    Arguments as for :func:`resource`.

    Raises:
        PluginError: There is nothing of that name, or the package is inside a zip archive.
    """
    path = Path(str(resource(reference, owner=owner)))
    if not path.exists():
        raise _broken(reference, owner, "its package is installed as a zip archive")
    return path


def path_of(name: str) -> Path:
    """The path that a user's value names: a path, or ``"package:file"``.

    The path need not exist. A path that happens to contain a colon is a path if it exists.

    Raises:
        ConfigError: The package cannot be imported, or ``~user`` names an unknown user.
    """
    package, colon, _ = name.partition(":")
    try:
        if colon and package.replace(".", "").isidentifier() and not Path(name).exists():
            return Path(str(_locate(name)))
        return Path(name).expanduser()
    except ValueError:  # a NUL in the name; whoever opens it reports that
        return Path(name)
    except (_MissingError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            f"cannot find {name!r}: {reason}.",
            hint="Give the path of a file, or 'package:file' in an installed package.",
        ) from None


def _locate(reference: str) -> Traversable:
    """What a reference names; only its package is known to exist."""
    package, _, inside = reference.partition(":")
    try:
        folder = importlib.resources.files(package)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{package}.".startswith(f"{error.name}."):
            raise _MissingError(f"there is no package {package!r}") from None
        raise _MissingError(f"importing {package!r} failed: {error}") from None
    except TypeError:
        raise _MissingError(f"{package!r} is a module, not a package") from None
    except Exception as error:  # importing runs the package's own code
        raise _MissingError(
            f"importing {package!r} failed: {type(error).__name__}: {error}"
        ) from None
    for part in inside.split("/"):
        folder = folder / part if part else folder
    return folder


def _broken(reference: str, owner: str | None, reason: str) -> PluginError:
    by = f", named by {owner}" if owner else ""
    return PluginError(
        f"cannot find {reference!r}{by}: {reason}.",
        hint=f"Reinstall the package {reference.partition(':')[0]!r}, or report this to its "
        "author.",
    )
