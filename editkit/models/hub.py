"""Models of the hub: their folders in its cache, their files, and names that cannot be hub ids."""

from __future__ import annotations

import json
from pathlib import Path

from editkit.errors import ModelError, first_line

_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt", "*.model")
_ADDRESSES = ("https://huggingface.co/", "http://huggingface.co/", "https://hf.co/", "hf://")


def refuse_path(name: str, known: str) -> None:
    """Refuse a name that is neither a folder nor a possible hub id.

    Args:
        name: The name as the user typed it.
        known: A sentence that lists the models that have names, for the errors' hints.

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
    if path.is_dir():  # ~ is expanded by shells, but not in files
        raise ModelError(f"{name!r} begins with '~'.", hint=f"Write {str(path)!r}.")
    if path.is_symlink() and not path.exists():
        raise ModelError(f"{name!r} is a link to a folder that does not exist.", hint=wanted)
    if path.exists():
        if path.suffix.lower() == ".gguf":
            raise ModelError(
                f"{name!r} is a GGUF file, which is not read.",
                hint="Use the checkpoint that it was made from; or convert it to safetensors with "
                "transformers: AutoModelForCausalLM and AutoTokenizer .from_pretrained(folder, "
                "gguf_file=FILE), then save_pretrained both to a new folder.",
            )
        hint = wanted
        if path.name == "config.json" or path.suffix == ".safetensors":
            hint = f"Give its folder: {str(path.parent)!r}."
        raise ModelError(f"{name!r} is a file, expected a folder.", hint=hint)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"the folder {name!r} does not exist.", hint=wanted)
    if "gguf" in name.lower():
        raise ModelError(
            f"{name!r} names GGUF weights, which are not read.",
            hint="Use the checkpoint in safetensors that they were made from.",
        )


def hub_config(name: str, revision: str | None, download: bool) -> Path | None:
    """A hub model's ``config.json`` in the hub's cache; None if it is not there.

    Args:
        name: The hub id.
        revision: Branch, tag or commit.
        download: Whether to download this one file if it is not in the cache.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if not download:
            return None
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except (OSError, ValueError):  # no such model, no network, or no name of a model
        return None


def cached_snapshot(name: str) -> Path | None:
    """The folder of a hub model whose files are all in the hub's cache; None where some lack."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> Path | None:
        try:
            found = try_to_load_from_cache(name, file)
        except ValueError:  # no name of a model
            return None
        return Path(found) if isinstance(found, str) else None

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
    """The names of a hub model's files; None where the hub cannot be asked."""
    from huggingface_hub import list_repo_files

    try:
        return frozenset(list_repo_files(name))
    except (OSError, ValueError):  # no such model, no network, or no name of a model
        return None


def hub_folder(name: str, revision: str | None, known: str) -> Path:
    """The folder of a hub model, from the hub's cache or downloaded into it.

    Args:
        name: The hub id.
        revision: Branch, tag or commit.
        known: A sentence that lists the models that have names, for the errors' hints.

    Raises:
        ModelError: There is no such model or revision, or it cannot be downloaded.
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
    except GatedRepoError:  # a kind of RepositoryNotFoundError: first
        raise ModelError(
            f"model {name!r} is gated: its owner lets only accepted users download it.",
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
            f"model {name!r} was not found: it is no registered model, no folder, and no hub id.",
            hint=f"{known} If it is private, run `hf auth login`.",
        ) from None
    except OSError as error:  # offline, unreachable, interrupted, disk full
        raise ModelError(
            f"model {name!r} is no registered model and no folder, is not in the hub's cache, and "
            f"could not be downloaded ({_reason(error)}).",
            hint=f"{known} Or go online once, or copy the model's folder here.",
        ) from None


def _reason(error: OSError) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "the hub could not be reached, or HF_HUB_OFFLINE is set"
    return first_line(error, named=True).rstrip(" .")
