"""Published results: data of plugins, found for a run by its model, dataset and protocols."""

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

_RESIZED = 0.02  # a few tokens may have been added to a vocabulary


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    _strict = model_validator(mode="wrap")(strict_values)


class _Table(_Section):
    model: str
    """The model's name as files of values have it: ``gpt2-xl``."""
    parameters: int | None = Field(default=None, ge=1)
    """How many weights the model has: a run on a folder with its name may be on another model."""
    records: int = Field(ge=1)
    """Over how many records."""
    rows: dict[str, tuple[float | None, ...]]
    """By editor: numbers as printed, in the order of the columns; a short row lacks the rest."""


class _File(_Section):
    source: str
    """Where the numbers were published."""
    dataset: str
    """Name of the dataset."""
    scale: float = Field(default=100.0, gt=0)
    """What the printed numbers were multiplied with."""
    columns: dict[str, dict[str, str]]
    """By score: the metrics that it comes from, with patterns of their protocols."""
    tables: tuple[_Table, ...]


@dataclasses.dataclass(frozen=True)
class Published:
    """What was published for the model, dataset and protocols of a run.

    Attributes:
        source: Where.
        n_records: Over how many records.
        rows: By editor: means by score key, as stores have them.
    """

    source: str
    n_records: int
    rows: Mapping[str, Mapping[str, float]]


def published_for(run: Run, registry: Registry) -> list[Published]:
    """All published tables that a run may be compared with; most runs have none.

    A column whose metric the run lacks, or has with another protocol, is left out.

    Raises:
        ConfigError: A plugin's file is missing or wrong.
    """
    protocols = {metric["name"]: metric["protocol"] for metric in run.metrics}
    found = []
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
                found.append(Published(file.source, table.records, rows))
    return found


def _is_model_of(table: _Table, run: Run) -> bool:
    """Whether a run is on a table's model, by its name and the number of its weights."""
    has = run.model.get("n_parameters")  # unknown until the model was loaded
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
            f"{what}: {problems_of(error, place)}.", hint="Tell the package's author."
        ) from None
