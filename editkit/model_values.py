"""The values that an editor has for a model, from its files; or a layer by a rule, without one.

A folder of values holds ``<model>.yaml`` for single models and ``models.yaml`` for many at once.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editkit.errors import ConfigError, PluginError, did_you_mean
from editkit.interfaces import LayerRule
from editkit.plugins import Offer
from editkit.yaml_values import decode_yaml, parse_yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SHARED_FILE = "models.yaml"
_KEYS = ("config", "preset", "note")


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


def short_name(model: str) -> str:
    """The name that files know a model by: ``gpt2-xl`` for ``openai-community/GPT2-XL``."""
    return model.rstrip("/").rpartition("/")[2].lower()


def model_values(offer: Offer, model: str) -> ModelValues | None:
    """What the plugin's files say about a model; its own file goes before the shared one.

    Raises:
        ConfigError: A file is not as it should be.
        PluginError: The plugin names a folder that does not exist.
    """
    configs: str | None = getattr(offer.spec, "configs", None)
    if not configs:
        return None
    folder, name = _folder(offer, configs), short_name(model)
    for file_name, read in ((f"{name}.yaml", _own_values), (SHARED_FILE, _shared_values)):
        file = folder / file_name
        if file.is_file():
            place = f"{configs.replace(':', '/')}/{file_name}"
            text = decode_yaml(file.read_bytes(), place=place)
            return read(parse_yaml(text, place=place), place, name)
    return None


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
        else (f"no file of values for {model!r}")
    )
    if n_layers is None:
        return {}, (
            f"{lacking}, and no config.json is at hand that tells its number of layers; "
            f"with one, {rule.field} is chosen by rule: {rule.why}"
        )
    layer = rule.layer_of(n_layers)
    return {rule.field: layer}, f"{lacking}: {rule.field} {layer} of {n_layers}, {rule.why}"


def _folder(offer: Offer, configs: str) -> Traversable:
    package, _, inside = configs.partition(":")
    try:
        folder = importlib.resources.files(package)
    except ModuleNotFoundError:
        raise PluginError(
            f"{offer.kind} {offer.name!r} of {offer.source} names {configs!r} for its files of "
            f"values, but there is no package {package!r}.",
            hint="Install the plugin again, or tell its author.",
        ) from None
    for part in inside.split("/"):
        folder = folder / part if part else folder
    return folder


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
