"""Published results that plugins ship, matched to a run by model, dataset and protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from editkit.errors import ConfigError
from editkit.registry.model_identity import short_name
from editkit.registry.plugins import Registry
from editkit.results import Run
from editkit.storage.resources import resource_text
from editkit.storage.strict_yaml import parse_yaml
from editkit.validation import problems_of, strict_values

_RESIZED = 0.02  # relative difference: a vocabulary may have been extended


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    _strict = model_validator(mode="wrap")(strict_values)


class _Table(_Section):
    model: str
    """The model's name as in hyperparameter files: ``gpt2-xl``."""
    parameters: int | None = Field(default=None, ge=1)
    """Number of weights, because a folder of the same name may hold another model."""
    records: int = Field(ge=1)
    """Number of records."""
    rows: dict[str, tuple[float | None, ...]]
    """By editor: numbers as printed, in the order of the columns; trailing ones may be missing."""


class _File(_Section):
    source: str
    """The publication."""
    dataset: str
    """Name of the dataset."""
    scale: float = Field(default=100.0, gt=0)
    """Factor of the printed numbers: 100 for percentages."""
    columns: dict[str, dict[str, str]]
    """By score: its metrics, with patterns of their protocols."""
    tables: tuple[_Table, ...]


@dataclasses.dataclass(frozen=True)
class Published:
    """A published table for the model, dataset and protocols of a run.

    Attributes:
        source: The publication.
        n_records: Number of records.
        rows: By editor: means by score key, as fractions.
    """

    source: str
    n_records: int
    rows: Mapping[str, Mapping[str, float]]


def published_for(run: Run, registry: Registry) -> list[Published]:
    """All published tables that are comparable with a run; most runs have none.

    Columns whose metrics the run lacks, or has with other protocols, are omitted.

    Raises:
        ConfigError: A plugin's file is invalid.
        PluginError: A plugin's file is missing.
    """
    protocols = {metric["name"]: metric["protocol"] for metric in run.metrics}
    tables = []
    for offer in registry.offers("published_table"):
        spec: Any = offer.spec
        file = _read(spec.file, what=f"published table {offer.name!r} of {offer.source}")
        if file.dataset != run.dataset["name"]:
            continue
        shown = [_same_protocols(wanted, protocols) for wanted in file.columns.values()]
        for table in file.tables:
            if _is_model_of(table, run) and any(shown):
                rows = {
                    editor: {
                        key: number / file.scale
                        for key, number, is_shown in zip(file.columns, numbers, shown, strict=False)
                        if is_shown and number is not None
                    }
                    for editor, numbers in table.rows.items()
                }
                tables.append(Published(file.source, table.records, rows))
    return tables


def _is_model_of(table: _Table, run: Run) -> bool:
    """Whether a run is on a table's model, by name and number of weights."""
    has = run.model.get("n_parameters")  # unknown before the model is loaded
    if table.parameters and has and abs(has / table.parameters - 1) > _RESIZED:
        return False
    return table.model == short_name(run.model["name"])


def _same_protocols(wanted: Mapping[str, str], protocols: Mapping[str, str]) -> bool:
    return all(
        metric in protocols and fnmatchcase(protocols[metric], pattern)
        for metric, pattern in wanted.items()
    )


def _read(reference: str, *, what: str) -> _File:
    place = Path(reference.partition(":")[2]).name
    content = parse_yaml(resource_text(reference, owner=what), place=place)
    try:
        return _File.model_validate(content)
    except ValidationError as error:
        raise ConfigError(
            f"{what}: {problems_of(error, place)}.", hint="Report this to the plugin's author."
        ) from None
