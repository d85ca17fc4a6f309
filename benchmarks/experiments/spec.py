"""The experiment file: a benchmark, a sweep over settings of editors, traces, and figures."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from editkit import ConfigError, UsageError
from editkit.benchmark.spec import Benchmark, ModelChoice, validated
from editkit.errors import did_you_mean
from editkit.storage.file_names import why_unsafe
from editkit.storage.resources import resource
from editkit.storage.strict_yaml import parse_yaml, read_yaml_text
from editkit.validation import problems_of, strict_values
from editkit_plugins.tracing.averages import ROLES

EVERY_LAYER = "every"
"""In place of a list of layers: all that the model has."""

Values = Mapping[str, Any] | list[Any] | Literal["every"]


def _file_name(name: str) -> str:
    trouble = why_unsafe(name)
    if trouble is not None:
        raise ValueError(f"a name that files are called by {trouble}")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
"""A name that files and folders are called by."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _strict = model_validator(mode="wrap")(strict_values)


class Sweep(_Section):
    """One editor with all combinations of some values."""

    editor: str
    preset: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """Values that all have in common."""
    grid: dict[str, Values]
    """By field: values, or values by a name for figures, or ``every`` layer."""


class Tracing(_Section):
    """Average traces of many facts: under several settings, or after several edits."""

    locator: str = "causal-tracing"
    facts: str | None = None
    """A JSON file of facts; null: the true facts of the benchmark's records."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many facts, where the benchmark's limit is not smaller."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Values of the locator's configuration that all have in common."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By name for figures: values of the locator's configuration, each traced by itself."""
    after: tuple[str, ...] = ()
    """Editors of the benchmark: besides the true facts of the model, the new ones of the records
    are traced, each after its own edit."""


class FigureSpec(_Section):
    """One figure, with panels for scores or for what is traced."""

    name: FileName
    """What its files are called."""
    kind: Literal["lines", "bars", "violins", "effects", "effects-and-score"]
    scores: tuple[str, ...] = ()
    """The scores; of ``effects-and-score`` one, of ``effects`` none."""
    x: str | None = None
    """Of lines: the field along the horizontal axis."""
    series: str | None = None
    """Of lines: the field that tells lines apart; of effects: ``setting`` (the default) or
    ``kind``, of site."""
    roles: tuple[str, ...] = ("last subject token", "last token")
    """Of effects: the tokens, panels for each."""
    title: str = ""

    @property
    def of_traces(self) -> bool:
        """Whether it shows traces."""
        return self.kind in ("effects", "effects-and-score")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> FigureSpec:
        wanted = {"effects": "none", "effects-and-score": "one"}.get(self.kind, "some")
        fits = {"none": not self.scores, "one": len(self.scores) == 1, "some": bool(self.scores)}
        if not fits[wanted]:
            raise ValueError(f"{self.kind} takes {wanted} of scores, got {len(self.scores)}")
        if self.kind == "lines" and self.x is None:
            raise ValueError("lines need x, the field along the horizontal axis")
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown:
            raise ValueError(f"no role is called {unknown[0]!r}; there are {', '.join(ROLES)}")
        if self.kind == "effects" and self.series not in (None, "setting", "kind"):
            raise ValueError(f"series of effects is {self.series!r}, expected setting or kind")
        return self


class Elsewhere(_Section):
    """What is otherwise on any other model than the file's."""

    benchmark: dict[str, Any] = Field(default_factory=dict)
    sweep: tuple[Sweep, ...] | None = None
    tracing: dict[str, Any] = Field(default_factory=dict)


class Experiment(_Section):
    """The content of an experiment file."""

    name: FileName
    """What it and its folder are called."""
    summary: str
    benchmark: dict[str, Any]
    """As a benchmark file; its editors may be left out where there is a sweep, and where nothing
    but traces is asked for its metrics, too."""
    sweep: tuple[Sweep, ...] = ()
    tracing: Tracing | None = None
    figures: tuple[FigureSpec, ...] = ()
    elsewhere: Elsewhere = Elsewhere()

    @model_validator(mode="after")
    def _has_what_is_drawn(self) -> Experiment:
        names: dict[str, str] = {}
        for figure in self.figures:
            key = unicodedata.normalize("NFC", figure.name).casefold()
            if key in names:
                raise ValueError(
                    f"figures {names[key]!r} and {figure.name!r} would be the same files, expected "
                    "names that differ by more than letter case"
                )
            names[key] = figure.name
            if figure.of_traces and self.tracing is None:
                raise ValueError(
                    f"figure {figure.name!r} shows traces: a section tracing is missing"
                )
            if figure.kind != "effects" and not self.edits:
                raise ValueError(f"figure {figure.name!r} shows scores, and nothing is edited")
        return self

    def on(self, model: str | None) -> Experiment:
        """The experiment on a model; None for the file's own."""
        own = self.benchmark["model"]
        if model is None or model == (own["name"] if isinstance(own, Mapping) else own):
            return self
        benchmark = {**self.benchmark, **self.elsewhere.benchmark, "model": model}
        changes: dict[str, Any] = {"benchmark": benchmark}
        if self.elsewhere.sweep is not None:
            changes["sweep"] = self.elsewhere.sweep
        return self.model_copy(update=changes).tracing_with(self.elsewhere.tracing)

    def tracing_with(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with other values in its section ``tracing``; those in ``config`` that
        are not named stay.

        Raises:
            ConfigError: It has none, or a value is wrong.
        """
        if not values:
            return self
        if self.tracing is None:
            raise ConfigError(f"experiment {self.name} traces nothing: it has no section tracing.")
        content = {**self.tracing.model_dump(), **values}
        if isinstance(content["config"], Mapping):
            content["config"] = {**self.tracing.config, **content["config"]}
        try:
            return self.model_copy(update={"tracing": Tracing.model_validate(content)})
        except ValidationError as error:
            raise ConfigError(
                f"experiment {self.name}, tracing: {problems_of(error)}.", hint=_hint(error)
            ) from None

    @property
    def edits(self) -> bool:
        """Whether anything is edited and scored."""
        return bool(self.benchmark.get("editors") or self.sweep)

    def to_benchmark(self, n_layers_of: Callable[[ModelChoice], int | None]) -> Benchmark:
        """The benchmark with a line for each setting of the sweep.

        Raises:
            ConfigError: It is wrong, or the model's number of layers is needed and not known.
        """
        place = f"experiment {self.name}"
        editors = list(self.benchmark.get("editors", []))
        content = {"name": self.name, "metrics": ["efficacy"], **self.benchmark}
        model = validated({**content, "editors": editors or ["none"]}, place=place).model
        for sweep in self.sweep:
            editors += [
                {"name": sweep.editor, "preset": sweep.preset, "config": {**sweep.config, **values}}
                for values in _settings(sweep, lambda: n_layers_of(model))
            ]
        traced_only = self.tracing is not None and not editors
        return validated({**content, "editors": ["none"] if traced_only else editors}, place=place)

    def names(self) -> dict[str, dict[str, Any]]:
        """Values by their names for figures, by field."""
        return {
            field: dict(values)
            for sweep in self.sweep
            for field, values in sweep.grid.items()
            if isinstance(values, Mapping)
        }


def _settings(sweep: Sweep, n_layers: Callable[[], int | None]) -> Iterator[dict[str, Any]]:
    columns: list[list[Any]] = []
    for field, values in sweep.grid.items():
        if values == EVERY_LAYER:
            count = n_layers()
            if count is None:
                raise ConfigError(
                    f"the sweep over every {field} needs the model's number of layers, and no "
                    "config.json is at hand that tells it.",
                    hint="Download the model first, or list the layers in a file of your own.",
                )
            columns.append(list(range(count)))
        else:
            columns.append(list(values.values() if isinstance(values, Mapping) else values))
    for combination in itertools.product(*columns):
        yield dict(zip(sweep.grid, combination, strict=True))


def _hint(error: ValidationError) -> str:
    fields = {
        name for kind in (Experiment, Sweep, Tracing, FigureSpec) for name in kind.model_fields
    }
    unknown = [str(e["loc"][-1]) for e in error.errors() if e["type"] == "extra_forbidden"]
    near = did_you_mean(unknown[0], fields) if unknown else None
    return near or "See docs/experiments.md for the format."


def known_experiments() -> dict[str, Experiment]:
    """The experiments that ship with the package, by name."""
    folder = resource("editkit_benchmarks.experiments")
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda f: f.name
    )
    found = [parse_experiment(f.read_text(encoding="utf-8"), place=f.name) for f in files]
    return {experiment.name: experiment for experiment in found}


def load_experiment(name: str) -> Experiment:
    """An experiment by its name, or from a YAML file.

    Raises:
        UsageError: There is none.
        ConfigError: The file is wrong.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(
                f"there is no experiment file {name!r}.", hint="Give a file, or a name."
            )
        return parse_experiment(read_yaml_text(path), place=name)
    known = known_experiments()
    if name not in known:
        hint = did_you_mean(name, known) or f"There are {', '.join(known)}."
        raise UsageError(f"there is no experiment {name!r}.", hint=hint)
    return known[name]


def parse_experiment(text: str, *, place: str) -> Experiment:
    """The experiment that a YAML text describes.

    Raises:
        ConfigError: With the place of everything that is wrong.
    """
    content = parse_yaml(text, place=place)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{place}: got {content!r:.60}, expected name, summary, benchmark, ...")
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{place}: {problems_of(error)}.", hint=_hint(error)) from None
    if "model" not in experiment.benchmark:
        raise ConfigError(f"{place}: benchmark.model is missing.")
    return experiment
