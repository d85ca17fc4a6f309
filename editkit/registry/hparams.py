"""Hyperparameters per model, from a plugin's files of values; without a file, a layer by a rule.

A folder of values has ``<model>.yaml`` for single models and ``models.yaml`` for groups of models.
``sizes.yaml``, in that folder or at the root of its package, states the sizes of the named models:
a model's name alone, such as that of its folder, does not prove that the values are for it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from editkit.errors import ConfigError, did_you_mean
from editkit.registry.model_identity import RESERVED, KnownAs, ModelIdentity, Sizes, identity_of
from editkit.registry.plugins import Offer
from editkit.registry.specs import LayerRule
from editkit.storage.resources import resource
from editkit.storage.strict_yaml import decode_yaml, parse_yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SHARED_FILE = "models.yaml"
SIZES_FILE = "sizes.yaml"
_KEYS = ("config", "preset", "note")
_SIZES = ("model_type", "n_layers", "hidden_size")


@dataclasses.dataclass(frozen=True)
class ModelValues:
    """The values that a file has for a model.

    Attributes:
        values: Config values.
        file: The file, for messages.
        preset: The default preset for this model.
        note: Where the values come from.
    """

    values: Mapping[str, Any]
    file: str
    preset: str | None = None
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Match:
    """The file of values for a model, if there is one.

    Attributes:
        values: The file's values; None if no file is used.
        why: The name that matched, and where the model has it from.
        refused: Why a file with the model's name is not used.
    """

    values: ModelValues | None = None
    why: str = ""
    refused: str | None = None

    @property
    def used(self) -> str | None:
        """Which file is used, and why; None if none is."""
        return None if self.values is None else f"values of {self.values.file} {self.why}"

    @property
    def report(self) -> str | None:
        """Which file is or is not used, and why; None if none has the model's name."""
        return self.used or self.refused


NO_MATCH = Match()


def match_values(offer: Offer, model: str | ModelIdentity) -> Match:
    """The values for a model in the plugin's files; the model's own file wins over ``models.yaml``.

    Args:
        offer: The editor, locator, metric, judge or dataset.
        model: The model; if it is a name, its config is read if it is available.

    Raises:
        ConfigError: A file is malformed.
        PluginError: The spec names a folder that does not exist.
    """
    configs: str | None = getattr(offer.spec, "configs", None)
    if not configs:
        return NO_MATCH
    if isinstance(model, str):
        model = identity_of(model)
    folder = _folder(offer, configs)
    refused: Match | None = None
    for known in model.names:
        values = _values_of(folder, configs.replace(":", "/"), known.name)
        if values is None:
            continue
        doubt = _doubt(known, model.sizes, _sizes_of(folder, offer, configs, known.name))
        if doubt is None:
            also = f"; {model.sizes}" if model.sizes else ", sizes unknown"
            return Match(values, f"for {known.name!r} ({known.why}{also})")
        text = f"the values of {values.file} for {known.name!r} are not used: {doubt}"
        refused = refused or Match(refused=text)
    return refused or NO_MATCH


def match_name(offer: Offer, model: str | ModelIdentity, names: Container[str]) -> str | None:
    """Which of these names is the model's, by the same rule as for files; None if none is.

    Args:
        offer: The editor or locator; its folder of values may state the models' sizes.
        model: The model; if it is a name, its config is read if it is available.
        names: In lower case, like the names of files.
    """
    if isinstance(model, str):
        model = identity_of(model)
    configs: str | None = getattr(offer.spec, "configs", None)
    for known in model.names:
        if known.name in names:
            stated = None
            if configs:
                stated = _sizes_of(_folder(offer, configs), offer, configs, known.name)
            if _doubt(known, model.sizes, stated) is None:
                return known.name
    return None


def _doubt(known: KnownAs, sizes: Sizes | None, stated: Sizes | None) -> str | None:
    """Why values under this name may be for another model; None if they are for this one."""
    if stated and sizes and stated != sizes:
        return f"they are for {stated}, and this model is {sizes} ({known.why})"
    if known.proven:
        return None
    if stated is None:
        return f"{known.why} alone does not identify a model, and no {SIZES_FILE} states its sizes"
    if sizes is None:
        return f"{known.why} alone does not identify a model, and its config states no sizes"
    return None


def _values_of(folder: Traversable, place: str, name: str) -> ModelValues | None:
    if name in RESERVED and name != "tiny":
        return None
    for file_name, read in ((f"{name}.yaml", _own_values), (SHARED_FILE, _shared_values)):
        file = folder / file_name
        if file.is_file():
            where = f"{place}/{file_name}"
            values = read(_content(file.read_bytes(), where), where, name)
            if values is not None:
                return values
    return None


@functools.lru_cache(maxsize=64)
def _content(data: bytes, place: str) -> Any:
    """The content of a file, parsed once for a run that resolves many configurations."""
    return parse_yaml(decode_yaml(data, place=place), place=place)


def _sizes_of(folder: Traversable, offer: Offer, configs: str, name: str) -> Sizes | None:
    """The sizes that ``sizes.yaml`` in the folder, or else at the package's root, states."""
    package = configs.partition(":")[0]
    for place, where in (
        (folder, configs.replace(":", "/")),
        (_folder(offer, package), package),
    ):
        file = place / SIZES_FILE
        if not file.is_file():
            continue
        shown = f"{where}/{SIZES_FILE}"
        content = _content(file.read_bytes(), shown)
        if not isinstance(content, Mapping):
            raise ConfigError(f"{shown}: got {content!r:.60}, expected names of models.")
        if name in content:
            return _sizes(content[name], f"{shown}: {name}")
    return None


def _sizes(content: Any, place: str) -> Sizes:
    if not isinstance(content, Mapping) or set(content) != set(_SIZES):
        raise ConfigError(f"{place}: got {content!r:.80}, expected {', '.join(_SIZES)}.")
    model_type, n_layers, hidden = (content[key] for key in _SIZES)
    if not isinstance(model_type, str) or type(n_layers) is not int or type(hidden) is not int:
        raise ConfigError(f"{place}: got {dict(content)!r:.80}, expected a text and two integers.")
    return Sizes(model_type, n_layers, hidden)


def values_by_rule(
    rule: LayerRule, model: str, n_layers: int | None, *, has_file: bool
) -> tuple[dict[str, int | list[int]], str]:
    """The layer or layers that a rule chooses, as a config value, and an explanation.

    Args:
        rule: The editor's rule.
        model: Name of the model.
        n_layers: Its number of layers; None if unknown: then no value is chosen.
        has_file: Whether a file has values for this model, but no layer.
    """
    reason = (
        f"the values for {model!r} set no {rule.field}"
        if has_file
        else f"no file of values for {model!r}"
    )
    if n_layers is None:
        return {}, (
            f"{reason}, and its number of layers is unknown without a config.json; "
            f"with one, a rule chooses {rule.field}: {rule.why}"
        )
    layers = list(rule.layers_of(n_layers))
    chosen = layers[0] if rule.count is None else layers
    return {rule.field: chosen}, f"{reason}: {rule.field} {chosen} of {n_layers}, {rule.why}"


def _folder(offer: Offer, configs: str) -> Traversable:
    return resource(configs, owner=f"{offer.kind} {offer.name!r} of {offer.source}")


def _own_values(content: Any, file: str, name: str) -> ModelValues:
    return _values(content, file, file)


def _values(content: Any, file: str, place: str) -> ModelValues:
    config = content.get("config", {}) if isinstance(content, Mapping) else None
    if not isinstance(config, Mapping):
        raise ConfigError(f"{place}: got {content!r:.60}, expected 'config:' with fields below it.")
    for key in content:
        if key not in _KEYS:
            raise ConfigError(
                f"{place}: unknown key {key!r}, expected config, preset or note.",
                hint=did_you_mean(str(key), _KEYS),
            )
    return ModelValues(config, file, content.get("preset"), content.get("note"))


def _shared_values(content: Any, file: str, name: str) -> ModelValues | None:
    """The values of the first group that names the model."""
    if not isinstance(content, list):
        raise ConfigError(f"{file}: got {content!r:.60}, expected a list of groups of models.")
    for number, group in enumerate(content):
        place = f"{file} group {number + 1}"
        models = group.get("models") if isinstance(group, Mapping) else None
        if not isinstance(models, Mapping):
            raise ConfigError(f"{place}: expected 'models:' with names of models below it.")
        if name not in models:
            continue
        shared = _values({k: v for k, v in group.items() if k != "models"}, file, place)
        own = models[name] or {}
        if not isinstance(own, Mapping):
            raise ConfigError(f"{place}: {name}: got {own!r:.60}, expected fields with values.")
        return dataclasses.replace(shared, values={**shared.values, **own})
    return None
