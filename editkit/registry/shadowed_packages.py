"""Whether a plugin's package was loaded from where it is installed.

Python treats a folder without ``__init__.py`` in the working directory as a package of that name
(a namespace package) before it asks the finders of editable installs. In the parent folder of a
clone, the clone's folder therefore hides the package that is installed from it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

__all__ = ["elsewhere", "hidden_by_folder"]


def hidden_by_folder(name: str) -> str | None:
    """How a folder hides an installed package; None if none does.

    Args:
        name: The module that an entry point names.
    """
    package = name.partition(".")[0]
    module = sys.modules.get(package)
    if module is None or not is_namespace(module):
        return None
    folders = ", ".join(str(Path(folder).resolve()) for folder in module.__path__)
    real = _installed(package)
    if real is not None:
        return (
            f"Python imported the folder {folders} as the package {package!r}, which hides the "
            f"installed one in {Path(str(real.origin)).parent}; start Python in another folder, "
            "or rename that one"
        )
    if name == package:
        return (
            f"Python imported the folder {folders} as the package {package!r}, and it has no "
            "__init__.py; start Python in another folder, or reinstall the plugin"
        )
    return None


def is_namespace(module: ModuleType) -> bool:
    """Whether a module is a folder without ``__init__.py``."""
    return getattr(module, "__file__", None) is None and hasattr(module, "__path__")


def _installed(package: str) -> ModuleSpec | None:
    """The package that the finders of editable installs know, even if a folder hides it."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if finder is PathFinder or find is None:
            continue
        with contextlib.suppress(Exception):
            spec = find(package, None)
            if spec is not None and spec.origin is not None and spec.has_location:
                installed: ModuleSpec = spec
                return installed
    return None


def elsewhere(module: ModuleType, distribution: importlib.metadata.Distribution) -> str | None:
    """Where a module was loaded from, if its distribution is somewhere else; otherwise None.

    Args:
        module: The module that an entry point names.
        distribution: The distribution of the entry point.
    """
    if not isinstance(getattr(module, "__file__", None), str):
        return None
    file = Path(str(module.__file__)).resolve()
    package = module.__name__.partition(".")[0]
    root = _editable_root(distribution)
    if root is not None:
        expected = [root]
    else:
        names = {f"{package}/__init__.py", f"{package}.py"}
        files = [entry for entry in distribution.files or () if entry.as_posix() in names]
        expected = [Path(str(entry.locate())).resolve() for entry in files]
        expected = [path.parent if path.name == "__init__.py" else path for path in expected]
    if not expected or any(file == path or path in file.parents for path in expected):
        return None
    return f"{package!r} was loaded from {file.parent}, but is installed in {expected[0]}"


def _editable_root(distribution: importlib.metadata.Distribution) -> Path | None:
    """The folder that an editable install points at."""
    try:
        facts = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not facts.get("dir_info", {}).get("editable"):
            return None
        url = urlsplit(facts["url"])
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return Path(unquote(url.path)).resolve() if url.scheme == "file" else None
