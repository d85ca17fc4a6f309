"""Finding a model: a registered name, a folder, or a hub id. Loads no machine-learning library."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from editkit.errors import ModelError, PluginError
from editkit.models.fingerprints import fingerprint_of_folder

if TYPE_CHECKING:
    from editkit.interfaces import ModelSpec

_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt", "*.model")
_LAYERS = ("num_hidden_layers", "n_layer")
_ADDRESSES = ("https://huggingface.co/", "http://huggingface.co/", "https://hf.co/", "hf://")


def fingerprint_of(name: str, *, revision: str | None = None) -> str:
    """The fingerprint that the model would have once loaded, read from its files.

    Raises:
        ModelError: The model cannot be found, or its files are not those of a model that can be
            used.
    """
    from editkit.models.checkpoint import refuse

    folder = model_folder(name, revision=revision)
    refuse(folder, name)
    return digest_of_files(folder)


def model_folder(name: str, *, revision: str | None = None) -> Path:
    """The folder with the model's files; a hub model is downloaded, or found in the hub's cache.

    Raises:
        ModelError: The model cannot be found.
    """
    folder = local_folder(name)
    if folder is not None:
        return folder
    refuse_path(name)
    return _hub_folder(name, revision)


def refuse_path(name: str) -> None:
    """Refuse a name that is neither a folder, nor can be the id of a model on the hub.

    Raises:
        ModelError: It is a file, a path to nothing, an address, or empty.
    """
    wanted = "Give the folder that holds config.json and model.safetensors."
    if not name.strip() or "\0" in name:
        raise ModelError(f"the model is {name!r}, expected a name.", hint=known_models())
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


def n_layers_of(name: str, *, revision: str | None = None, download: bool = False) -> int | None:
    """The number of layers that a model's ``config.json`` tells; no weights are looked at.

    Args:
        name: A registered name, a folder, or a hub id.
        revision: Branch, tag or commit of a hub model.
        download: Whether to ask the hub for this one file, if the hub's cache has it not.

    Returns:
        None where there is no such model, the file is not at hand, or it does not tell.
    """
    config = config_of(name, revision=revision, download=download) or {}
    found = [config[key] for key in _LAYERS if isinstance(config.get(key), int)]
    return found[0] if found else None


def config_of(
    name: str, *, revision: str | None = None, download: bool = False
) -> dict[str, Any] | None:
    """What a model's ``config.json`` holds; None where there is none, or it cannot be read.

    Arguments as for :func:`n_layers_of`.
    """
    folder = local_folder(name)
    file = folder / "config.json" if folder else _hub_config(name, revision, download)
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def is_registered(name: str) -> bool:
    """Whether a plugin ships a model under that name."""
    from editkit.plugins import default_registry

    return name in default_registry().names("model")


def local_folder(name: str) -> Path | None:
    """The folder of a registered model, or the folder that the name is the path of, if any."""
    from editkit.plugins import default_registry

    if is_registered(name):
        spec = cast("ModelSpec", default_registry().get("model", name).spec)
        package, _, inside = spec.folder.partition(":")
        return Path(str(importlib.resources.files(package) / inside))
    return Path(name) if name and Path(name).is_dir() else None


def _hub_config(name: str, revision: str | None, download: bool) -> Path | None:
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


def _hub_folder(name: str, revision: str | None) -> Path:
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
            hint=f"{known_models()} If it is private, run `hf auth login`.",
        ) from None
    except OSError as error:  # offline, unreachable, interrupted, disk full
        raise ModelError(
            f"model {name!r} is no registered model and no folder, is not in the hub's cache, and "
            f"could not be downloaded ({_reason(error)}).",
            hint=f"{known_models()} Or go online once, or copy the model's folder here.",
        ) from None


def _reason(error: OSError) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "the hub could not be reached, or HF_HUB_OFFLINE is set"
    first = next(iter(str(error).strip().splitlines()), "").rstrip(" .")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def known_models() -> str:
    """The names of registered models, for hints."""
    from editkit.plugins import default_registry

    try:
        names = ", ".join(default_registry().names("model"))
    except PluginError:
        names = ""
    return f"Registered models: {names or 'none'}."


def digest_of_files(folder: Path) -> str:
    """Digest of what makes a model what it is: tensors, config and tokenizer, by content."""
    return fingerprint_of_folder(folder)
