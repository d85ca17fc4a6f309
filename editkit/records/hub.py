"""Pins hub datasets to a commit, so that repeated and offline runs read the same content.

The commit of a dataset is looked up once and stored in the cache. Results are keyed by it. Delete
the file to look it up again.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from editkit.storage.cache import cache_folder, write_atomically
from editkit.storage.digests import digest_of_file, key_of

__all__ = ["dataset_version", "pinned_commit"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS = 10.0
_log = logging.getLogger(__name__)


def dataset_version(name: str) -> str:
    """Identify the content of a dataset: the digest of a folder, or the commit of a hub dataset.

    Args:
        name: A folder, or a hub id.

    Returns:
        ``unknown`` if the hub cannot be reached and no commit is known.
    """
    if Path(name).is_dir():
        files = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return key_of({str(p.relative_to(name)): digest_of_file(str(p)) for p in files})
    return pinned_commit(name) or "unknown"


def pinned_commit(name: str) -> str | None:
    """The commit at which a hub dataset is read. None for a folder, and if it is not known."""
    if Path(name).is_dir():
        return None
    file = cache_folder() / "hub" / f"{key_of({'dataset': name})}.json"
    try:
        pinned = json.loads(file.read_text(encoding="utf-8"))
        if pinned["dataset"] == name and _COMMIT.fullmatch(pinned["commit"]):
            return str(pinned["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not looked up yet, or damaged
    commit = _commit_on_hub(name) or _commit_in_hub_cache(name)
    if commit is not None:
        content = json.dumps({"dataset": name, "commit": commit})
        write_atomically(file, content.encode())
    return commit


def _commit_on_hub(name: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, timeout=_SECONDS).sha
    except Exception as error:  # offline, no such dataset, or an error of the HTTP library
        _log.debug("cannot look up the commit of %r on the hub", name, exc_info=error)
        return None


def _commit_in_hub_cache(name: str) -> str | None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None
