"""The names and sizes of a model, from its name, its folder and its config; loads no weights.

:mod:`editkit.registry.hparams` looks up files of values by these names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.registry.models import config_of, is_registered, local_folder

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

RESERVED = ("models", "sizes", "tiny")
"""Files of values that are not named after a model; ``tiny`` is for editkit.testing's models."""
_HUB_CACHE = re.compile(r"^models--(?P<owner>.+?)--(?P<name>.+)$")
_HUB_ID = re.compile(r"^(?:\w[\w.-]*/)?\w[\w.-]*$")
_TYPE_IN_NAME = re.compile(r"[.-](i?q\d\w*|bf16|f16|f32)$")
"""The type of a GGUF file's weights, at the end of its name: ``-Q4_K_M``."""
_LAYERS = ("num_hidden_layers", "n_layer")
_HIDDEN = ("hidden_size", "n_embd")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The architecture and sizes of a model.

    Attributes:
        model_type: Architecture, as in ``config.json``: ``gpt2``.
        n_layers: Number of layers.
        hidden_size: Width of the residual stream.
    """

    model_type: str
    n_layers: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.model_type} with {self.n_layers} layers, {self.hidden_size} wide"


@dataclasses.dataclass(frozen=True)
class KnownAs:
    """A name of a model that files of values may use.

    Attributes:
        name: In lower case, without the part before the last slash: ``gpt2-xl``.
        why: Where the name comes from: ``its hub id 'openai-community/gpt2-xl'``.
        proven: Whether the name identifies the model. A name that does not, such as that of its
            folder, counts only if the sizes stated for it are the model's.
    """

    name: str
    why: str
    proven: bool


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """What is known about a model before it is loaded.

    Attributes:
        shown: Its name for messages: what the user typed.
        names: Names that files of values may use, the most reliable first.
        sizes: From its config; None if that is not available.
    """

    shown: str
    names: tuple[KnownAs, ...] = ()
    sizes: Sizes | None = None


def short_name(model: str) -> str:
    """The name that files use: ``gpt2-xl`` for ``openai-community/GPT2-XL``."""
    return model.rstrip("/").rpartition("/")[2].lower()


def identity_of(name: str, *, revision: str | None = None, download: bool = False) -> ModelIdentity:
    """What is known about a model that is not loaded.

    Args:
        name: A registered name, a folder, or a hub id.
        revision: Branch, tag or commit of a hub model.
        download: Whether to download the config from the hub if it is not cached.
    """
    config = config_of(name, revision=revision, download=download)
    return ModelIdentity(name, _names(name, config), _sizes(config))


def identity_of_loaded(model: LanguageModel) -> ModelIdentity:
    """What is known about a loaded model."""
    config = model.hf.config
    values = {"_name_or_path": getattr(config, "_name_or_path", None)}
    if model.source is None:
        given = _known(short_name(model.name), f"it is called {model.name!r}")
        names = (*_names_in_config(values), *given)
    else:
        names = _names(model.source, values)
    sizes = Sizes(str(config.model_type), model.n_layers, model.hidden_size)
    return ModelIdentity(model.source or model.name, names, sizes)


def _names(name: str, config: Mapping[str, Any] | None) -> tuple[KnownAs, ...]:
    """Registered names and hub ids identify a model; the name of a folder does not."""
    if is_registered(name):
        return _known(name.lower(), "its registered name", proven=True)
    folder = local_folder(name)
    if folder is not None and folder.is_file():
        return _known(_TYPE_IN_NAME.sub("", folder.stem.lower()), f"its file is {folder.name!r}")
    if folder is None:
        if not _HUB_ID.match(name):
            return ()
        return _known(short_name(name), f"its hub id {name!r}", proven=True)
    cached = _hub_id_of(folder) or _hub_id_of(folder.resolve())
    if cached is not None:
        why = f"its hub id {cached!r}, from its place in the hub's cache"
        return _known(short_name(cached), why, proven=True)
    names = {known.name: known for known in _names_in_config(config or {})}
    for called in (folder.absolute().name, folder.resolve().name):  # a link has its own name
        for known in _known(called.lower(), f"its folder is called {called!r}"):
            names.setdefault(known.name, known)
    return tuple(names.values())


def _names_in_config(config: Mapping[str, Any]) -> tuple[KnownAs, ...]:
    """The hub id in the config, if there is one."""
    written = config.get("_name_or_path")
    if not isinstance(written, str):
        return ()
    cached = _hub_id_of(Path(written))
    if cached is None and not _HUB_ID.match(written):
        return ()
    return _known(short_name(cached or written), f"its config names {cached or written!r}")


def _known(name: str, why: str, *, proven: bool = False) -> tuple[KnownAs, ...]:
    return () if not name or name in RESERVED else (KnownAs(name, why, proven),)


def _hub_id_of(folder: Path) -> str | None:
    """The hub id of a folder in the hub's cache: .../models--OWNER--NAME/snapshots/COMMIT."""
    parts = folder.absolute().parts
    if len(parts) < 3 or parts[-2] != "snapshots":
        return None
    match = _HUB_CACHE.match(parts[-3])
    if match:
        return f"{match['owner']}/{match['name']}"
    return parts[-3].removeprefix("models--") if parts[-3].startswith("models--") else None


def _sizes(config: Mapping[str, Any] | None) -> Sizes | None:
    """The sizes that a config states; None if it does not state all of them."""
    if not config:
        return None
    model_type = config.get("model_type")
    layers = next((config[k] for k in _LAYERS if type(config.get(k)) is int), None)
    hidden = next((config[k] for k in _HIDDEN if type(config.get(k)) is int), None)
    if not isinstance(model_type, str) or layers is None or hidden is None:
        return None
    return Sizes(model_type, layers, hidden)
