"""Text files that ship with a plugin's package."""

from __future__ import annotations

import importlib.resources

from editkit.errors import ConfigError


def packaged_text(reference: str, *, what: str) -> str:
    """The text of a file ``"package:folder/file.yaml"``.

    Args:
        reference: The package and the file in it.
        what: Whose file it is, for the error message.

    Raises:
        ConfigError: There is no such file.
    """
    package, _, inside = reference.partition(":")
    try:
        return importlib.resources.files(package).joinpath(inside).read_text(encoding="utf-8")
    except (OSError, ModuleNotFoundError):
        raise ConfigError(
            f"{what} names the file {reference!r}, which is not there.",
            hint="Install the package again, or tell its author.",
        ) from None
