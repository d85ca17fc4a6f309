"""Which content a dataset's name stands for: a folder's files, or one commit on the hub.

The commit is asked for once and then kept in the cache: what is read later is what was read first,
offline too, and results are keyed by it. Deleting the file asks again.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from editkit.storage.cache import cache_folder, write_atomically
from editkit.storage.digests import digest_of_file, key_of

__all__ = ["commit_of", "content_of"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS = 10.0
_log = logging.getLogger(__name__)


def content_of(name: str) -> str:
    """What is in a dataset: a digest of a folder's files, or the commit of a hub dataset.

    Args:
        name: A folder, or a hub id.

    Returns:
        ``unknown`` where the hub cannot be reached and no commit was seen before.
    """
    if Path(name).is_dir():
        files = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return key_of({str(p.relative_to(name)): digest_of_file(str(p)) for p in files})
    return commit_of(name) or "unknown"


def commit_of(name: str) -> str | None:
    """The commit of a hub dataset that is read; None for a folder, and where it is not known."""
    if Path(name).is_dir():
        return None
    kept = cache_folder() / "hub" / f"{key_of({'dataset': name})}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["dataset"] == name and _COMMIT.fullmatch(found["commit"]):
            return str(found["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked yet, or damaged: asked again
    commit = _ask(name) or _downloaded(name)
    if commit is not None:
        content = json.dumps({"dataset": name, "commit": commit})
        write_atomically(kept, content.encode())
    return commit


def _ask(name: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, timeout=_SECONDS).sha
    except Exception as error:  # offline, no such dataset, or whatever the HTTP library raises
        _log.debug("the hub was not asked for the commit of %r", name, exc_info=error)
        return None


def _downloaded(name: str) -> str | None:
    """The commit of the copy in the hub's own cache."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None
