"""The format of experiment files: a benchmark, sweeps over settings, traces, and figures."""

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
from editkit.benchmark.spec import Benchmark, Edits, ModelChoice, Seeds, edits_as_data, validated
from editkit.errors import did_you_mean
from editkit.registry.model_identity import short_name
from editkit.storage.digests import canonical_json
from editkit.storage.file_names import why_unsafe
from editkit.storage.resources import resource
from editkit.storage.strict_yaml import parse_yaml, read_yaml_text
from editkit.validation import problems_of, strict_values
from editkit_plugins.tracing.averages import ROLES

EVERY_LAYER = "every"
"""Stands for the list of all layers of the model."""

NOTE = "note/"
"""Begins the keys of numbers that editors note of each edit: ``note/delta_norm``."""

PAGE_WIDTH = 7.2
"""Inches, for figures that fill the width of a page's text."""

Values = Mapping[str, Any] | list[Any] | Literal["every"]

Names = Mapping[str, Mapping[str, Any]]
"""Names of values in figures, by field of a configuration and name."""


def _file_name(name: str) -> str:
    problem = why_unsafe(name)
    if problem is not None:
        raise ValueError(f"a name of files {problem}")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
"""A name that files and folders can have."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _strict = model_validator(mode="wrap")(strict_values)


class Sweep(_Section):
    """One editor under every combination of values."""

    editor: str
    preset: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """Values of every combination."""
    grid: dict[str, Values] = Field(default_factory=dict)
    """By field: a list of values, values by name (shown in figures), or ``every`` layer."""
    edits: Edits | None = None
    """How facts reach models, instead of the benchmark's ``edits``."""
    seeds: Seeds | None = None
    """Seeds instead of the benchmark's."""


class Example(_Section):
    """A fact that is traced on its own, under every setting."""

    prompt: str
    """A sentence up to the answer."""
    subject: str
    """The subject, spelled as in the prompt."""
    answer: str | None = None
    """The answer to trace; null: the model's prediction."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Values of the locator's configuration that win over the setting's."""


class Tracing(_Section):
    """Average traces of many facts, under several settings and after edits."""

    locator: str = "causal-tracing"
    facts: str | None = None
    """A JSON file or dataset of facts; null: the true facts of the benchmark's records."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first N facts; a smaller limit of the benchmark wins."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Values of the locator's configuration, under every setting."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Further values by the setting's name; every setting is averaged on its own. ``locator`` in a
    setting names another locator, which does not take the values of ``config``."""
    examples: tuple[Example, ...] = ()
    """Single facts, for figures of kind ``fact-maps``."""
    after: tuple[str, ...] = ()
    """Editors of the benchmark: the new facts of the records are traced too, each after its own
    edit."""

    @property
    def locators(self) -> int:
        """The number of different locators in the settings."""
        named = [setting.get("locator", self.locator) for setting in self.settings.values()]
        return len({*map(str, named)})


class FigureSpec(_Section):
    """One figure: panels of scores, of average effects, or of both."""

    name: FileName
    """Name of its files."""
    kind: Literal[
        "lines",
        "bars",
        "violins",
        "edits",
        "retention",
        "steps",
        "ranked",
        "effects",
        "effects-and-score",
        "effect-bars",
        "average-maps",
        "fact-maps",
    ]
    """``edits``: scores by the number of facts in a model, of records or of models. ``retention``:
    scores at the end of sequences by the age of facts. ``steps``: notes of the edits of a sequence,
    in order. ``ranked``: scores of models, from the largest to the smallest, of the cells with one
    fact per model. ``effects``: average effects by layer, as lines. ``effect-bars``: the same as
    bars, with a group of kinds of site for each layer. ``average-maps``: roles by layers, a panel
    per setting and kind. ``fact-maps``: tokens by layers, a row per example."""
    scores: tuple[str, ...] = ()
    """Keys of scores: one for ``effects-and-score``, none for ``effects``; for ``steps``, numbers
    that editors note of each edit, such as ``note/delta_norm``."""
    log: bool = False
    """For ``edits``: a logarithmic vertical axis, with geometric means. For ``lines``: a
    logarithmic horizontal axis."""
    width: float = Field(default=PAGE_WIDTH, ge=2, le=40)
    """Width in inches, of figures of scores: 7.2 fills a page, 3.4 one of two columns. Fonts keep
    their size; there are fewer panels in a row."""
    x: str | None = None
    """For ``lines``: the field on the horizontal axis."""
    series: str | None = None
    """For ``lines``: the field with a line per value. For ``effects``: ``setting`` (the default) or
    ``kind``, for a line per setting or per kind of site."""
    kinds: tuple[str, ...] = ()
    """For effects and maps: only these kinds of site; none: all that are traced."""
    roles: tuple[str, ...] = ("last subject token", "last token")
    """For effects: roles of tokens, with a panel or a row of panels each."""
    title: str = ""

    @property
    def shows_traces(self) -> bool:
        """Whether it needs average traces."""
        return self.kind == "effects-and-score" or self.shows_traces_only

    @property
    def shows_traces_only(self) -> bool:
        """Whether it needs no scores."""
        return self.kind in ("effects", "effect-bars", "average-maps", "fact-maps")

    @model_validator(mode="after")
    def _matches_its_kind(self) -> FigureSpec:
        n = len(self.scores)
        expected = "one" if self.kind == "effects-and-score" else "at least one"
        if self.shows_traces_only:
            expected = "none"
        if not {"none": n == 0, "one": n == 1, "at least one": n > 0}[expected]:
            raise ValueError(f"{self.kind} has {n} scores, expected {expected}")
        if self.kind == "steps" and not all(key.startswith(NOTE) for key in self.scores):
            raise ValueError(f"scores of steps are notes, expected keys such as {NOTE}delta_norm")
        if self.log and self.kind not in ("edits", "lines"):
            raise ValueError(f"log is for figures of kind edits or lines, not {self.kind}")
        if self.kind == "lines" and self.x is None:
            raise ValueError("lines need x, the field on the horizontal axis")
        if self.kinds and not self.shows_traces:
            raise ValueError(f"kinds are for figures of effects and maps, not {self.kind}")
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown:
            raise ValueError(f"got role {unknown[0]!r}, expected one of {', '.join(ROLES)}")
        if self.kind == "effects" and self.series not in (None, "setting", "kind"):
            raise ValueError(f"series of effects is {self.series!r}, expected setting or kind")
        return self


class TableSpec(_Section):
    """One table below that of the scores."""

    name: FileName
    """Name of its CSV file."""
    title: str = ""
    kind: Literal["endurance", "largest"]
    """``endurance``: after how many facts in a model a score falls below a level, and after how
    many the model collapses. ``largest``: the single edits with the largest score of a model, or
    the edits of sequences with the largest note."""
    score: str
    """Key of the score: of records for ``endurance``, of models for ``largest``, or a number that
    editors note of each edit, such as ``note/delta_norm``."""
    below: float | None = Field(default=None, gt=0, lt=1)
    """For ``endurance``: the level, as a fraction."""
    top: int = Field(default=10, ge=1)
    """For ``largest``: lines per editor."""

    @model_validator(mode="after")
    def _has_a_level(self) -> TableSpec:
        if (self.kind == "endurance") != (self.below is not None):
            raise ValueError("below is the level of tables of kind endurance: needed, only there")
        return self


class PublishedSetting(_Section):
    """Published numbers of one setting."""

    editor: str
    config: dict[str, Any] = Field(default_factory=dict)
    """The values that identify the setting, or their names in a ``grid``."""
    scores: dict[str, float] = Field(min_length=1)
    """Means as printed, by key of the score."""


class PublishedNumbers(_Section):
    """Published numbers of an experiment's settings, which are shown beside ours."""

    source: str
    """The publication, with the place in it."""
    model: str
    """Name of the model."""
    dataset: str
    """Name of the dataset."""
    records: int | None = Field(default=None, ge=1)
    """Number of records, if the publication has it."""
    note: str = ""
    """One sentence on how the numbers differ from ours."""
    settings: tuple[PublishedSetting, ...] = Field(min_length=1)


class Elsewhere(_Section):
    """What changes if the model is not the file's own."""

    benchmark: dict[str, Any] = Field(default_factory=dict)
    sweep: tuple[Sweep, ...] | None = None
    tracing: dict[str, Any] = Field(default_factory=dict)


class Experiment(_Section):
    """The content of an experiment file."""

    name: FileName
    """Name of the experiment and its folder."""
    summary: str
    benchmark: dict[str, Any]
    """As a benchmark file. ``editors`` is optional with a sweep; an experiment with traces alone
    needs neither ``editors`` nor ``metrics``."""
    sweep: tuple[Sweep, ...] = ()
    tracing: Tracing | None = None
    figures: tuple[FigureSpec, ...] = ()
    tables: tuple[TableSpec, ...] = ()
    published: tuple[PublishedNumbers, ...] = ()
    """Published numbers of its settings, printed below the scores."""
    elsewhere: Elsewhere = Elsewhere()
    models: dict[str, Elsewhere] = Field(default_factory=dict)
    """What changes on single models instead, by name: a registered name, or the last part of a
    folder or hub id."""

    @model_validator(mode="after")
    def _figures_have_data(self) -> Experiment:
        names: dict[str, str] = {}
        for figure in self.figures:
            key = unicodedata.normalize("NFC", figure.name).casefold()
            if key in names:
                raise ValueError(
                    f"figures {names[key]!r} and {figure.name!r} would have the same files, "
                    "expected names that differ in more than case"
                )
            names[key] = figure.name
            if figure.shows_traces and self.tracing is None:
                raise ValueError(
                    f"figure {figure.name!r} shows traces, expected a section 'tracing'"
                )
            if figure.kind.startswith("effect") and self.tracing and self.tracing.locators > 1:
                raise ValueError(
                    f"figure {figure.name!r} would overlay scores of different locators, expected "
                    "kind average-maps or fact-maps"
                )
            if figure.kind == "fact-maps" and not (self.tracing and self.tracing.examples):
                raise ValueError(f"figure {figure.name!r} shows examples, expected some in tracing")
            if not figure.shows_traces_only and not self.edits:
                raise ValueError(
                    f"figure {figure.name!r} shows scores, expected editors or a sweep"
                )
        if self.published and not self.edits:
            raise ValueError("published numbers are scores, expected editors or a sweep")
        if self.tables and not self.edits:
            raise ValueError("tables show scores, expected editors or a sweep")
        tables = [unicodedata.normalize("NFC", table.name).casefold() for table in self.tables]
        if len({*tables}) < len(tables):
            raise ValueError("two tables would have the same file, expected different names")
        return self

    def on(self, model: str | None) -> Experiment:
        """The experiment on another model; None: the file's own."""
        own = self.benchmark["model"]
        if model is None or model == (own["name"] if isinstance(own, Mapping) else own):
            return self
        there = self.models.get(short_name(model), self.elsewhere)
        benchmark = {**self.benchmark, **there.benchmark, "model": model}
        changes: dict[str, Any] = {"benchmark": benchmark}
        if there.sweep is not None:
            changes["sweep"] = there.sweep
        return self.model_copy(update=changes).with_tracing(there.tracing)

    def with_tracing(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with values replaced in ``tracing``; ``config`` is merged field by field.

        Raises:
            ConfigError: There is no such section, or a value is wrong.
        """
        if not values:
            return self
        if self.tracing is None:
            raise ConfigError(f"experiment {self.name} has no section 'tracing'.")
        content = {**self.tracing.model_dump(), **values}
        if isinstance(content["config"], Mapping):
            content["config"] = {**self.tracing.config, **content["config"]}
        try:
            return self.model_copy(update={"tracing": Tracing.model_validate(content)})
        except ValidationError as error:
            raise ConfigError(
                f"experiment {self.name}, tracing: {problems_of(error)}.", hint=_hint(error)
            ) from None

    def with_figures(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with values replaced in every figure: ``{"width": 3.4}``.

        Raises:
            ConfigError: There are no figures, or a value is wrong.
        """
        if not values:
            return self
        if not self.figures:
            raise ConfigError(f"experiment {self.name} has no section 'figures'.")
        try:
            figures = [
                FigureSpec.model_validate({**figure.model_dump(), **values})
                for figure in self.figures
            ]
        except ValidationError as error:
            raise ConfigError(
                f"experiment {self.name}, figures: {problems_of(error)}.", hint=_hint(error)
            ) from None
        return self.model_copy(update={"figures": tuple(figures)})

    @property
    def edits(self) -> bool:
        """Whether anything is edited and scored."""
        return bool(self.benchmark.get("editors") or self.sweep)

    def to_benchmark(self, n_layers_of: Callable[[ModelChoice], int | None]) -> Benchmark:
        """The benchmark, with an editor for each combination of the sweeps.

        Args:
            n_layers_of: The number of layers of a model; None if unknown.

        Raises:
            ConfigError: The benchmark is wrong, or a sweep over every layer does not know them.
        """
        place = f"experiment {self.name}"
        editors = list(self.benchmark.get("editors", []))
        content = {"name": self.name, "metrics": ["efficacy"], **self.benchmark}
        model = validated({**content, "editors": editors or ["none"]}, place=place).model
        for sweep in self.sweep:
            common = {
                "name": sweep.editor,
                "preset": sweep.preset,
                "edits": edits_as_data(sweep.edits),
                "seeds": sweep.seeds,
            }
            editors += [
                {**common, "config": {**sweep.config, **values}}
                for values in _settings(sweep, lambda: n_layers_of(model))
            ]
        traced_only = self.tracing is not None and not editors
        return validated({**content, "editors": ["none"] if traced_only else editors}, place=place)

    def names(self) -> dict[str, dict[str, Any]]:
        """The named values of the sweeps, by field and name."""
        return {
            field: dict(values)
            for sweep in self.sweep
            for field, values in sweep.grid.items()
            if isinstance(values, Mapping)
        }


def value_name(field: str, value: Any, names: Names) -> str | None:
    """The name that an experiment file gives to a value of a field; None if it has none."""
    for name, named in names.get(field, {}).items():
        if canonical_json(named) == canonical_json(value):
            return name
    return None


def _settings(sweep: Sweep, n_layers: Callable[[], int | None]) -> Iterator[dict[str, Any]]:
    columns: list[list[Any]] = []
    for field, values in sweep.grid.items():
        if values == EVERY_LAYER:
            count = n_layers()
            if count is None:
                raise ConfigError(
                    f"the sweep over every {field} needs the model's number of layers, and the "
                    "model's config.json is not on this machine.",
                    hint="Download the model first, or list the layers in an experiment file.",
                )
            columns.append(list(range(count)))
        else:
            columns.append(list(values.values() if isinstance(values, Mapping) else values))
    for combination in itertools.product(*columns):
        yield dict(zip(sweep.grid, combination, strict=True))


def _hint(error: ValidationError) -> str:
    fields = {
        name
        for kind in (
            Experiment,
            Sweep,
            Tracing,
            Example,
            FigureSpec,
            TableSpec,
            PublishedNumbers,
            PublishedSetting,
        )
        for name in kind.model_fields
    }
    unknown = [str(e["loc"][-1]) for e in error.errors() if e["type"] == "extra_forbidden"]
    near = did_you_mean(unknown[0], fields) if unknown else None
    return near or "See docs/experiments.md for the format."


def known_experiments() -> dict[str, Experiment]:
    """The packaged experiments, by name."""
    folder = resource("editkit_benchmarks.experiments")
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda f: f.name
    )
    parsed = [parse_experiment(f.read_text(encoding="utf-8"), place=f.name) for f in files]
    return {experiment.name: experiment for experiment in parsed}


def load_experiment(name: str) -> Experiment:
    """A packaged experiment, or the one in a YAML file.

    Raises:
        UsageError: The name or file does not exist.
        ConfigError: The file is wrong.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(
                f"the experiment file {name!r} does not exist.",
                hint="'editkit run-experiment' lists the packaged experiments.",
            )
        return parse_experiment(read_yaml_text(path), place=name)
    known = known_experiments()
    if name not in known:
        hint = did_you_mean(name, known) or f"The experiments are {', '.join(known)}."
        raise UsageError(f"no experiment is called {name!r}.", hint=hint)
    return known[name]


def parse_experiment(text: str, *, place: str) -> Experiment:
    """Parse an experiment file.

    Args:
        text: The content, in YAML.
        place: The file's name, for messages.

    Raises:
        ConfigError: The content is wrong; the message lists every problem.
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
