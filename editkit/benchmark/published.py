"""Published results that plugins ship, matched to a run by model, dataset and protocols."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from editkit.benchmark.intervals import Estimate
from editkit.errors import ConfigError
from editkit.registry.model_identity import short_name
from editkit.registry.plugins import Registry
from editkit.results import Run
from editkit.storage.resources import resource_text
from editkit.storage.strict_yaml import parse_yaml
from editkit.validation import problems_of, strict_values

__all__ = [
    "Published",
    "PublishedNumber",
    "PublishedTable",
    "published_for",
    "published_numbers",
    "published_tables",
]

_RESIZED = 0.02  # relative difference: a vocabulary may have been extended
_PRINTED = re.compile(r"(-?\d+(?:\.\d+)?)(?: \((\d+(?:\.\d+)?)\))?")


@dataclasses.dataclass(frozen=True)
class _Printed:
    """A number as printed; None for half the width of an interval that is not printed."""

    mean: float
    half_width: float | None = None


def _as_printed(value: object) -> object:
    """``22.2`` or ``22.2 (0.9)``, read.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Printed(float(value))
    match = _PRINTED.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a number, or a number and half its interval: 22.2 (0.9)")
    return _Printed(float(match[1]), None if match[2] is None else float(match[2]))


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
    place: str = ""
    """Where it is printed: ``table 4``."""
    rows: dict[str, tuple[Annotated[_Printed, BeforeValidator(_as_printed)] | None, ...]]
    """By editor: numbers as printed, in the order of the columns; trailing ones may be missing.
    Half the width of the 95% interval follows in parentheses: ``22.2 (0.9)``."""


class _Number(_Section):
    about: str
    """Its subject: ``causal tracing``."""
    what: str
    """What it measures."""
    value: int | float | str
    """The number as printed, with its unit: ``8.7 %``."""
    model: str = ""
    """As in a table; empty if it is about no model."""
    records: int | None = Field(default=None, ge=1)
    """Number of records or facts, if the text has it."""
    place: str
    """Where it is printed: ``section 3.6``."""


class _File(_Section):
    source: str
    """The publication."""
    label: str = "published"
    """How lines with its numbers are called in tables."""
    dataset: str
    """Name of the dataset."""
    scale: float = Field(default=100.0, gt=0)
    """Factor of the printed numbers: 100 for percentages."""
    scales: dict[str, float] = {}
    """Other factors, by score."""
    columns: dict[str, dict[str, str]] = {}
    """By score: its metrics, with patterns of their protocols."""
    tables: tuple[_Table, ...] = ()
    numbers: tuple[_Number, ...] = ()
    """Numbers that no table has."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A published table for the model, dataset and protocols of a run.

    Attributes:
        source: The publication.
        n_records: Number of records.
        rows: By editor: means with their intervals by score key, as fractions.
        label: How its lines are called: ``published``, ``first version``.
    """

    source: str
    n_records: int
    rows: Mapping[str, Mapping[str, Estimate]]
    label: str = "published"


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A published table.

    Attributes:
        name: Name of the file that it is in, as registered: ``rome-2022-zsre``.
        source: The publication.
        label: How its lines are called: ``published``, ``first version``.
        place: Where it is printed: ``table 4``.
        dataset: Name of the dataset.
        model: Short name of the model: ``gpt2-xl``.
        n_records: Number of records.
        protocols: By score key: its metrics, with patterns of their protocols.
        rows: By editor: means with their intervals by score key, as fractions.
    """

    name: str
    source: str
    label: str
    place: str
    dataset: str
    model: str
    n_records: int
    protocols: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, Mapping[str, Estimate]]
    n_parameters: int | None = None

    def is_measured_on(self, run: Run) -> bool:
        """Whether a run is on this table's model, by name and number of weights."""
        has = run.model.get("n_parameters")  # unknown before the model is loaded
        if self.n_parameters and has and abs(has / self.n_parameters - 1) > _RESIZED:
            return False
        return self.model == short_name(run.model["name"])

    def same_procedure(self, run: Run, key: str) -> bool:
        """Whether a run measures a score with the protocols of this table."""
        protocols = {metric["name"]: metric["protocol"] for metric in run.metrics}
        return all(
            metric in protocols and fnmatchcase(protocols[metric], pattern)
            for metric, pattern in self.protocols[key].items()
        )


@dataclasses.dataclass(frozen=True)
class PublishedNumber:
    """A published number that is in no table.

    Attributes:
        name: Name of the file that it is in, as registered.
        source: The publication.
        about: Its subject: ``causal tracing``.
        what: What it measures.
        value: The number as printed, with its unit.
        model: Short name of the model; empty if it is about no model.
        dataset: Name of the dataset.
        n_records: Number of records or facts; None if the text does not have it.
        place: Where it is printed.
    """

    name: str
    source: str
    about: str
    what: str
    value: str
    model: str
    dataset: str
    n_records: int | None
    place: str


def published_tables(registry: Registry) -> list[PublishedTable]:
    """All published tables, in the order of their files.

    Raises:
        ConfigError: A plugin's file is invalid.
        PluginError: A plugin's file is missing.
    """
    return [
        PublishedTable(
            name=name,
            source=file.source,
            label=file.label,
            place=table.place,
            dataset=file.dataset,
            model=table.model,
            n_records=table.records,
            protocols=file.columns,
            rows={
                editor: {
                    key: _estimate(number, file.scales.get(key, file.scale), table.records)
                    for key, number in zip(file.columns, numbers, strict=False)
                    if number is not None
                }
                for editor, numbers in table.rows.items()
            },
            n_parameters=table.parameters,
        )
        for name, file in _files(registry)
        for table in file.tables
    ]


def published_numbers(registry: Registry) -> list[PublishedNumber]:
    """All published numbers that are in no table; errors as for :func:`published_tables`."""
    return [
        PublishedNumber(
            name=name,
            source=file.source,
            about=number.about,
            what=number.what,
            value=str(number.value),
            model=number.model,
            dataset=file.dataset,
            n_records=number.records,
            place=number.place,
        )
        for name, file in _files(registry)
        for number in file.numbers
    ]


def published_for(run: Run, registry: Registry) -> list[Published]:
    """All published tables that are comparable with a run; most runs have none.

    Columns whose metrics the run lacks, or has with other protocols, are omitted.

    Raises:
        ConfigError: A plugin's file is invalid.
        PluginError: A plugin's file is missing.
    """
    comparable = []
    for table in published_tables(registry):
        shown = {key for key in table.protocols if table.same_procedure(run, key)}
        if shown and table.dataset == run.dataset["name"] and table.is_measured_on(run):
            rows = {
                editor: {key: number for key, number in row.items() if key in shown}
                for editor, row in table.rows.items()
            }
            comparable.append(Published(table.source, table.n_records, rows, table.label))
    return comparable


def _estimate(number: _Printed, scale: float, n: int) -> Estimate:
    mean = number.mean / scale
    if number.half_width is None:
        return Estimate(mean, None, None, n)
    low, high = (
        (number.mean + sign * number.half_width) / scale for sign in (-1, 1)
    )  # by the papers' formula, so it can leave the score's range
    return Estimate(mean, low, high, n, low, high)


def _files(registry: Registry) -> Iterator[tuple[str, _File]]:
    for offer in registry.offers("published_table"):
        spec: Any = offer.spec
        yield (
            offer.name,
            _read(spec.file, what=f"published table {offer.name!r} of {offer.source}"),
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
