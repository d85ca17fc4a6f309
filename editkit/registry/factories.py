"""Creating an editor, metric, judge, dataset or locator by name, from Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from editkit.interfaces import Dataset, Editor, Judge, Locator, Metric, ModelMetric
from editkit.mistakes import expect
from editkit.registry.config import GivenValues, resolve_config
from editkit.registry.model_identity import identity_of_loaded
from editkit.registry.models import n_layers_of
from editkit.registry.plugins import default_registry

if TYPE_CHECKING:
    from editkit.models import LanguageModel
    from editkit.registry.specs import Kind

__all__ = [
    "check_values",
    "is_offered",
    "make_dataset",
    "make_editor",
    "make_judge",
    "make_locator",
    "make_metric",
    "make_model_metric",
]

_log = logging.getLogger(__name__)


def make_editor(
    name: str, model: LanguageModel | str | Path, *, preset: str | None = None, **config: Any
) -> Editor[Any]:
    """An editor with the configuration for a model, the same as in a benchmark.

    Args:
        name: An installed editor: ``rome``, ``ft``, ``ft+l``.
        model: The model to edit, or its name or folder. The log names the file of values that is
            used for it, and the layer that the editor's rule chose if no file sets it.
        preset: A preset, which wins over the file of values in the fields that it sets; the log
            lists them. None: the default preset, and the file wins over it.
        config: Values that win over the preset and the file.

    Raises:
        PluginError: There is no such editor.
        ConfigError: A value or preset is wrong.
    """
    return cast("Editor[Any]", _make("editor", name, config, model=model, preset=preset))


def make_dataset(name: str, **config: Any) -> Dataset[Any]:
    """A dataset by name; errors as for :func:`make_editor`."""
    return cast("Dataset[Any]", _make("dataset", name, config))


def make_metric(name: str, **config: Any) -> Metric[Any]:
    """A metric by name; errors as for :func:`make_editor`."""
    return cast("Metric[Any]", _make("metric", name, config))


def make_model_metric(name: str, **config: Any) -> ModelMetric[Any]:
    """A metric of whole models by name; errors as for :func:`make_editor`."""
    return cast("ModelMetric[Any]", _make("model_metric", name, config))


def make_judge(name: str, **config: Any) -> Judge[Any]:
    """A judge by name; errors as for :func:`make_editor`."""
    return cast("Judge[Any]", _make("judge", name, config))


def make_locator(
    name: str,
    model: LanguageModel | str | Path | None = None,
    *,
    preset: str | None = None,
    **config: Any,
) -> Locator[Any]:
    """A locator by name; arguments and errors as for :func:`make_editor`."""
    return cast("Locator[Any]", _make("locator", name, config, model=model, preset=preset))


def is_offered(kind: Kind, name: str) -> bool:
    """Whether an installed plugin offers it."""
    return default_registry().has(kind, name)


def check_values(
    kind: Kind,
    name: str,
    values: Mapping[str, Any],
    *,
    place: str,
    preset: str | None = None,
    preset_place: str = "--preset",
) -> None:
    """Refuse wrong values before any model is loaded; files of values are ignored.

    Args:
        kind: Kind of what the values configure.
        name: Its name.
        values: Values by field.
        place: How messages refer to them, such as ``--set``.
        preset: A preset; None: the default.
        preset_place: How messages refer to the preset.

    Raises:
        PluginError: No plugin offers it.
        ConfigError: A field or preset is unknown, or a value is wrong.
    """
    given = [GivenValues(values, place, place)] if values else []
    offer = default_registry().get(kind, name)
    resolve_config(offer, preset=preset, given=given, place=preset_place)


def _make(
    kind: Kind,
    name: str,
    values: dict[str, Any],
    *,
    model: LanguageModel | str | Path | None = None,
    preset: str | None = None,
) -> Any:
    call = f"make_{kind}(name{', model' if kind in ('editor', 'locator') else ''})"
    expect(name, "name", "name", call)
    if isinstance(model, Path):
        model = str(model)
    if model is not None and not isinstance(model, str):
        expect(model, "LanguageModel", "model", call)
    registry = default_registry()
    offer = registry.get(kind, name)
    given = GivenValues(values, "argument", name)
    resolved = resolve_config(
        offer,
        model=model if model is None or isinstance(model, str) else identity_of_loaded(model),
        preset=preset,
        given=[given],
        n_layers=lambda: _n_layers(model),
    )
    if resolved.matched.refused:
        _log.warning("%s: %s", name, resolved.matched.refused)
    for guess in resolved.guesses:
        _log.warning("%s: %s", name, guess)
    for report in (resolved.matched.used, *resolved.remarks):
        if report and report not in resolved.guesses:
            _log.info("%s: %s", name, report)
    return registry.build(kind, name, resolved.config)


def _n_layers(model: LanguageModel | str | None) -> int | None:
    if model is None or isinstance(model, str):
        return n_layers_of(model) if model else None
    return model.n_layers
