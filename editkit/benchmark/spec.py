"""The benchmark file: which model, records, metrics and editors. Checked, with places named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from editkit.errors import ConfigError, did_you_mean
from editkit.registry.plugins import Registry
from editkit.storage.resources import resource_text
from editkit.storage.strict_yaml import parse_yaml, read_yaml_text
from editkit.validation import problems_of, strict_values


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _strict = model_validator(mode="wrap")(strict_values)


def _named(value: Any) -> Any:
    """``rome`` is short for ``{name: rome}``."""
    return {"name": value} if isinstance(value, str) else value


class ModelChoice(_Section):
    """Which model, and how to load it."""

    name: str = Field(min_length=1)
    """A registered name, a folder, or a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights."""
    device: str = "cpu"
    """Where the model goes, as torch names it."""
    device_map: str | dict[str, int | str] | None = None
    """Spreads the model over several devices: auto, or devices by name of module."""
    attention: Literal["sdpa", "eager"] | None = None
    """How attention is computed; null: the library's choice."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""


class PluginChoice(_Section):
    """A dataset or metric, with values of its configuration."""

    name: str = Field(min_length=1)
    config: dict[str, Any] = Field(default_factory=dict)


class EditorChoice(PluginChoice):
    """An editor, with its preset and values of its configuration."""

    preset: str | None = None


class Benchmark(_Section):
    """The content of a benchmark file."""

    name: str = Field(min_length=1)
    """Name of the benchmark in results."""
    model: Annotated[ModelChoice, BeforeValidator(_named)]
    """The model: a name, or name, dtype, device, device_map, attention and revision."""
    dataset: Annotated[PluginChoice, BeforeValidator(_named)]
    """The dataset: a name, or name and config."""
    limit: int | None = Field(default=None, ge=1)
    """Use this many of the first records; null: all."""
    batch: int = Field(default=20, ge=1)
    """Records that are edited and scored together."""
    metrics: tuple[Annotated[PluginChoice, BeforeValidator(_named)], ...] = Field(min_length=1)
    """The metrics: names, or name and config."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(default=(0,), min_length=1)
    """Every editor runs once with each."""
    editors: tuple[Annotated[EditorChoice, BeforeValidator(_named)], ...] = Field(min_length=1)
    """The editors: names, or name, preset and config."""


def load_benchmark(name: str, registry: Registry) -> tuple[Benchmark, str]:
    """A benchmark and the place it was read from.

    Args:
        name: A registered benchmark, or the path of a YAML file.
        registry: Where registered benchmarks are looked up.

    Raises:
        ConfigError: The file is missing or wrong.
        PluginError: No benchmark has this name.
    """
    if Path(name).suffix in (".yaml", ".yml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise ConfigError(
                f"there is no benchmark file {name!r}.",
                hint="Give the path of a YAML file, or a name that 'editkit plugins' lists.",
            )
        return parse_benchmark(read_yaml_text(path), place=name), name
    spec: Any = registry.get("benchmark", name).spec
    place = Path(spec.file.partition(":")[2]).name
    text = resource_text(spec.file, owner=f"benchmark {name!r}")
    return parse_benchmark(text, place=place), place


def parse_benchmark(text: str, *, place: str) -> Benchmark:
    """The benchmark that a YAML text describes.

    Raises:
        ConfigError: With the place of everything that is wrong.
    """
    return checked(parse_yaml(text, place=place), place=place)


def checked(content: Any, *, place: str) -> Benchmark:
    """The benchmark that plain data describes.

    Raises:
        ConfigError: With the place of everything that is wrong.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{place}: got {content!r:.60}, expected a mapping with name, model, dataset, ..."
        )
    try:
        return Benchmark.model_validate(dict(content))
    except ValidationError as error:
        unknown = [e["loc"][-1] for e in error.errors() if e["type"] == "extra_forbidden"]
        hint = did_you_mean(str(unknown[0]), Benchmark.model_fields) if unknown else None
        raise ConfigError(
            f"{place}: {problems_of(error)}.", hint=hint or "See docs/config.md for the format."
        ) from None
