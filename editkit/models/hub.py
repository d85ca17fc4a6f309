"""Models of the Hugging Face hub: their folders in its cache, their files, their names."""

from __future__ import annotations

import json
from pathlib import Path

from editkit.errors import ModelError, first_line

_WANTED = (
    "*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt", "*.model",
    "*.jinja",  # chat templates
    "LICENSE*", "NOTICE*", "README.md",  # belong to exported copies
)  # fmt: skip
_ADDRESSES = ("https://huggingface.co/", "http://huggingface.co/", "https://hf.co/", "hf://")


def refuse_path(name: str, known: str) -> None:
    """Refuse a name that is neither a folder nor a possible hub id.

    Args:
        name: The name as the user typed it.
        known: A sentence that lists the registered models, for the errors' hints.

    Raises:
        ModelError: It is a file, a path to nothing, an address, or empty.
    """
    wanted = "Give the folder that holds config.json and model.safetensors."
    if not name.strip() or "\0" in name:
        raise ModelError(f"the model is {name!r}, expected a name.", hint=known)
    for address in _ADDRESSES:
        if name.startswith(address):
            raise ModelError(
                f"{name!r} is an address, expected a hub id.",
                hint=f"Use {'/'.join(name.removeprefix(address).split('/')[:2])!r}.",
            )
    path = Path(name).expanduser()
    if path.is_dir():  # shells expand ~, files do not
        raise ModelError(f"{name!r} begins with '~'.", hint=f"Write {str(path)!r}.")
    if path.is_symlink() and not path.exists():
        raise ModelError(f"{name!r} is a link to a folder that does not exist.", hint=wanted)
    if path.exists():
        hint = wanted
        if path.name == "config.json" or path.suffix == ".safetensors":
            hint = f"Give its folder: {str(path.parent)!r}."
        raise ModelError(f"{name!r} is a file, expected a folder or a GGUF file.", hint=hint)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"the folder {name!r} does not exist.", hint=wanted)
    if "gguf" in name.lower():
        raise ModelError(
            f"{name!r} has GGUF files, and editkit does not choose one of them.",
            hint=f"Download one with 'hf download {name} FILE.gguf --local-dir FOLDER', and give "
            "its path.",
        )


def hub_config(name: str, revision: str | None, download: bool) -> Path | None:
    """The path of a hub model's ``config.json`` in the hub's cache; None if it is not available.

    Args:
        name: The hub id.
        revision: Branch, tag or commit.
        download: Whether to download the file if it is not in the cache.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if not download:
            return None
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except (OSError, ValueError):  # no such model, no network, or not a valid model name
        return None


def cached_snapshot(name: str) -> Path | None:
    """The folder of a hub model in the hub's cache; None if a file is missing there."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> Path | None:
        try:
            path = try_to_load_from_cache(name, file)
        except ValueError:  # not a valid model name
            return None
        return Path(path) if isinstance(path, str) else None

    single, index = cached("model.safetensors"), cached("model.safetensors.index.json")
    if single is not None:
        return single.parent
    try:
        if index is None:
            return None
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return index.parent if all((index.parent / file).is_file() for file in shards) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def hub_files(name: str) -> frozenset[str] | None:
    """The names of a hub model's files; None if the hub does not answer."""
    from huggingface_hub import list_repo_files

    try:
        return frozenset(list_repo_files(name))
    except (OSError, ValueError):  # no such model, no network, or not a valid model name
        return None


def hub_folder(name: str, revision: str | None, known: str) -> Path:
    """The folder of a hub model, from the hub's cache or downloaded into it.

    Args:
        name: The hub id.
        revision: Branch, tag or commit.
        known: A sentence that lists the registered models, for the errors' hints.

    Raises:
        ModelError: The model or the revision does not exist, or cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except GatedRepoError:  # a subclass of RepositoryNotFoundError, so it comes first
        raise ModelError(
            f"model {name!r} is gated: only users whom its owner has accepted can download it.",
            hint=f"Accept its terms on https://huggingface.co/{name}, then run `hf auth login`.",
        ) from None
    except DisabledRepoError:
        raise ModelError(
            f"the hub has disabled the model {name!r}.", hint="Use another copy, or a folder."
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"model {name!r} has no revision {revision!r}.",
            hint=f"Choose a branch, tag or commit from https://huggingface.co/{name}/tree/main.",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(
            f"model {name!r} was not found: it is not a registered model, a folder, or a hub id.",
            hint=f"{known} If it is private, run `hf auth login`.",
        ) from None
    except OSError as error:  # offline, unreachable, interrupted, disk full
        raise ModelError(
            f"model {name!r} is not a registered model or a folder, is not in the hub's cache, "
            f"and could not be downloaded ({_reason(error)}).",
            hint=f"{known} Or go online once, or copy the model's folder to this machine.",
        ) from None


def _reason(error: OSError) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "the hub could not be reached, or HF_HUB_OFFLINE is set"
    return first_line(error, named=True).rstrip(" .")
