"""YAML files that ship with a plugin's package."""

from __future__ import annotations

import importlib.resources

from editkit.errors import ConfigError
from editkit.storage.strict_yaml import decode_yaml


def packaged_text(reference: str, *, what: str) -> str:
    """The text of a YAML file ``"package:folder/file.yaml"``.

    Args:
        reference: The package and the file in it.
        what: Whose file it is, for the error message.

    Raises:
        ConfigError: There is no such file, or it is not UTF-8.
    """
    package, _, inside = reference.partition(":")
    try:
        content = importlib.resources.files(package).joinpath(inside).read_bytes()
    except (OSError, ValueError, ModuleNotFoundError):
        raise ConfigError(
            f"{what} names the file {reference!r}, which is not there.",
            hint="Install the package again, or tell its author.",
        ) from None
    return decode_yaml(content, place=reference)
