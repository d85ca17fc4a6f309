"""The values that an editor has for a model, from its files; or a layer by a rule, without one.

A folder of values holds ``<model>.yaml`` for single models and ``models.yaml`` for many at once.
``sizes.yaml``, in that folder or at the root of its package, states what the named models are: a
name alone, such as that of a folder, does not make a model the one that the values are for.
"""

from __future__ import annotations

import dataclasses
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
    """What a file says about a model.

    Attributes:
        values: Config values.
        file: The file, as messages name it.
        preset: The default preset for this model.
        note: Where the values are from.
    """

    values: Mapping[str, Any]
    file: str
    preset: str | None = None
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Match:
    """The file of values for a model, if there is one.

    Attributes:
        values: What the file says; None where no file is used.
        why: By which name the file was matched, and where that name is from.
        refused: Why a file that has the model's name is not used.
    """

    values: ModelValues | None = None
    why: str = ""
    refused: str | None = None

    @property
    def used(self) -> str | None:
        """Which file is used, and why; None where none is."""
        return None if self.values is None else f"values of {self.values.file} {self.why}"

    @property
    def report(self) -> str | None:
        """Which file is used, or is not, and why; None where none has the model's name."""
        return self.used or self.refused


NO_MATCH = Match()


def match_values(offer: Offer, model: str | ModelIdentity) -> Match:
    """What the plugin's files say about a model; its own file goes before the shared one.

    Args:
        offer: The plugin's offer.
        model: The model; of one that is given by name, the config is read if it is at hand.

    Raises:
        ConfigError: A file is not as it should be.
        PluginError: The plugin names a folder that does not exist.
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
    """Which of some names is the model's own, by the same rule as for files; None if none is.

    Args:
        offer: The plugin's offer, whose folder of values may state sizes.
        model: The model; of one that is given by name, the config is read if it is at hand.
        names: In lower case, as files would be called.
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
    """Why the values under a name are not this model's; None if they are."""
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
            found = read(
                parse_yaml(decode_yaml(file.read_bytes(), place=where), place=where), where, name
            )
            if found is not None:
                return found
    return None


def _sizes_of(folder: Traversable, offer: Offer, configs: str, name: str) -> Sizes | None:
    """What the plugin's own file of sizes states of a model, or that of its package."""
    package = configs.partition(":")[0]
    for place, where in (
        (folder, configs.replace(":", "/")),
        (_folder(offer, package), package),
    ):
        file = place / SIZES_FILE
        if not file.is_file():
            continue
        shown = f"{where}/{SIZES_FILE}"
        content = parse_yaml(decode_yaml(file.read_bytes(), place=shown), place=shown)
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
) -> tuple[dict[str, int], str]:
    """The layer that a rule chooses, as a config value, and what there is to say about it.

    Args:
        rule: The editor's rule.
        model: Name of the model.
        n_layers: Its number of layers; None if it is not known: then no value is chosen.
        has_file: Whether there are values for this model, which only lack the layer.
    """
    lacking = (
        f"the values for {model!r} set no {rule.field}"
        if has_file
        else f"no file of values for {model!r}"
    )
    if n_layers is None:
        return {}, (
            f"{lacking}, and no config.json is at hand that tells its number of layers; "
            f"with one, {rule.field} is chosen by rule: {rule.why}"
        )
    layer = rule.layer_of(n_layers)
    return {rule.field: layer}, f"{lacking}: {rule.field} {layer} of {n_layers}, {rule.why}"


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
        found = _values({k: v for k, v in group.items() if k != "models"}, file, place)
        own = models[name] or {}
        if not isinstance(own, Mapping):
            raise ConfigError(f"{place}: {name}: got {own!r:.60}, expected fields with values.")
        return dataclasses.replace(found, values={**found.values, **own})
    return None
