"""What plugins implement (Editor, Locator, Metric, Dataset) and the frozen specs they hand over.

Importing this module loads no machine-learning library: specs name their classes lazily, as
``"package.module:Name"``, and everything heavy is loaded when a plugin is used.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from editkit.complaints import strict_values
from editkit.contents import contents_of
from editkit.facts import Fact as Fact
from editkit.facts import Localization as Localization
from editkit.needs import Needs
from editkit.outcomes import watched
from editkit.queries import Probe as Probe
from editkit.requests import EditRequest
from editkit.scores import Score

if TYPE_CHECKING:
    from editkit.deltas import WeightDelta
    from editkit.edited import EditedModels
    from editkit.models import LanguageModel
    from editkit.models.shape import ModelShape


class Config(BaseModel):
    """Base of every plugin's configuration: immutable, no unknown keys, finite numbers only.

    The docstring under each field is its documentation (``editkit describe NAME``).
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    _strict = model_validator(mode="wrap")(strict_values)

    def depends_on(self, model_fingerprint: str) -> Mapping[str, str]:
        """What results depend on besides the values: digests by field.

        Files, folders and corpora that fields name are always among them, as long as their types
        say so: :class:`~pathlib.Path`, :data:`editkit.contents.FileName` and
        :data:`editkit.contents.CorpusName`. Override it for what no field names, such as weights
        that are found by the model's fingerprint.

        Args:
            model_fingerprint: Of the model that is worked on, without edits applied to it.

        Raises:
            ConfigError: A file that a field names does not exist or cannot be read.
        """
        return contents_of(self)


ConfigT = TypeVar("ConfigT", bound=Config)

MetricRow = Mapping[str, float | list[float] | list[str]]
"""What a metric says of one record, by key."""

# ---------------------------------------------------------------- data that metrics and editors see


@dataclasses.dataclass(frozen=True)
class Record:
    """One case of a benchmark: an edit, and the prompts that measure what the edit did.

    Attributes:
        case_id: Unique within its dataset.
        request: The edit.
        probes: Prompts by kind: ``rewrite``, ``paraphrase``, ``neighborhood``, ``attribute``,
            ``same_subject``, or kinds of a dataset's own.
        texts: Free texts by kind: ``generation`` (prompts), ``reference``, ``essence``.
    """

    case_id: int
    request: EditRequest
    probes: Mapping[str, tuple[Probe, ...]] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RejectedRecord:
    """A record that could not be read: which, where in it, and why."""

    case_id: str
    field: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Records:
    """The content of a dataset.

    Attributes:
        records: The records, in the dataset's own order.
        digest: Hexadecimal digest of the records' content.
        rejected: Records that were broken and are not among ``records``.
        texts: Free texts of the dataset as a whole, by kind: ``reference``.
        as_configured: Whether the dataset has seen to ``separator`` and ``chat`` of its
            configuration itself; otherwise its records are asked so afterwards.
    """

    records: tuple[Record, ...]
    digest: str
    rejected: tuple[RejectedRecord, ...] = ()
    texts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    as_configured: bool = False


# ---------------------------------------------------------------- what plugins implement


class Configurable(Generic[ConfigT]):
    """Something made from a validated configuration."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config


class Editor(Configurable[ConfigT], ABC):
    """Turns edit requests into weight deltas, and leaves the model as it was.

    Each call of :meth:`edit` logs one warning where edits did not work, as far as their notes say
    (see :mod:`editkit.outcomes`).
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls).get("edit")
        if inspect.isfunction(own) and not getattr(own, "__isabstractmethod__", False):
            cls.edit = watched(own)  # type: ignore[method-assign]

    def check(self, model: LanguageModel) -> None:
        """Refuse a model that this configuration does not fit; quick, before any work is done.

        Raises:
            EditkitError: A layer that the model does not have, say.
        """

    def prepare(self, model: LanguageModel) -> None:
        """Get what the method needs for this model (statistics, trained networks); idempotent."""

    def needs(self, shape: ModelShape, *, requests: int, tokens: int) -> Needs | None:
        """What preparing and editing will need, told before any weights are loaded.

        Args:
            shape: The model's shape, as its config tells.
            requests: Requests that are edited together.
            tokens: Tokens of the longest request, its prompt and target.

        Returns:
            None where the editor does not say.
        """
        return None

    @abstractmethod
    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One delta per request, each made from the unedited model.

        Args:
            model: Left bit-identical, with its mode, gradients flags, hooks and RNG as they were.
            requests: Any number of requests; an empty sequence gives an empty list.

        Returns:
            The deltas. Their notes say how each edit went, under the keys of
            :mod:`editkit.outcomes`: ``converged``, ``unstable``, ``warning``, ``advice``, ``loss``.
        """


class Locator(Configurable[ConfigT], ABC):
    """Finds where in a model a fact is stored or recalled."""

    @abstractmethod
    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """One localization per fact, in order."""

    def for_facts(self, model: LanguageModel, facts: Sequence[Fact]) -> Locator[ConfigT]:
        """The locator for averages over many facts, of which all are known before."""
        return self

    def maps(self, model: LanguageModel, facts: Sequence[Fact]) -> list[tuple[Localization, ...]]:
        """All that the locator can show of each fact, in order; by default what it locates."""
        return [(found,) for found in self.locate(model, facts)]


class Metric(Configurable[ConfigT], ABC):
    """Measures what edits did, record by record."""

    def prepare(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Get what the metric needs of the dataset as a whole, before any record is scored.

        Args:
            texts: ``Records.texts`` of all the dataset, whichever of its records are scored. The
                kind that the spec names as ``corpus`` is among them.
        """

    @abstractmethod
    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Row ``i`` measures edited model ``i`` on record ``i``.

        A float is a score of the record and is aggregated over records; a list of numbers is kept
        as detail (one number per prompt), a list of texts as what the edited model wrote. A score
        that a record cannot have (it lacks such prompts) is left out of its row.
        """


class Dataset(Configurable[ConfigT], ABC):
    """A source of records."""

    @abstractmethod
    def load(self) -> Records:
        """Read all records; broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: Nothing could be read at all.
        """


# ---------------------------------------------------------------- specs: what hooks return


@dataclasses.dataclass(frozen=True)
class _Spec:
    name: str
    """Name that users type: lower case, ``ft+l``."""
    factory: str
    """The class, as ``"package.module:Name"``; called with a config."""
    config: str
    """The config class, as ``"package.module:Name"``; importing it must not load torch."""
    summary: str
    """One line for listings."""


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """Which layer to take for a model that no file of values knows.

    Attributes:
        depth: Where in the model, as a share of its depth, from 0 up to 1.
        why: Reason that is printed whenever the rule is used: ``"a third of the depth, where..."``.
        field: Config field that it fills.
    """

    depth: float
    why: str
    field: str = "layer"

    def layer_of(self, n_layers: int) -> int:
        """The layer, counted from 0, in a model of so many."""
        return min(n_layers - 1, int(self.depth * n_layers))


@dataclasses.dataclass(frozen=True)
class EditorSpec(_Spec):
    """An editor on offer."""

    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Named sets of config values; the first is the default."""
    configs: str | None = None
    """Folder of YAML files of values for models, as ``"package:folder"``: ``gpt2-xl.yaml``."""
    layer_rule: LayerRule | None = None
    """Chooses the layer where neither a file nor the user does."""
    model_presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    """What a preset sets for single models only, on top of its other values: preset, model, values.
    A model is named as in ``configs``: ``{"paper": {"gpt2-xl": {"layer": 18}}}``."""


@dataclasses.dataclass(frozen=True)
class LocatorSpec(_Spec):
    """A locator on offer."""

    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Named sets of config values; the first is the default."""
    model_presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    """As for editors: what a preset sets for single models only."""
    configs: str | None = None
    """As for editors: folder of YAML files of values for models."""


@dataclasses.dataclass(frozen=True)
class MetricSpec(_Spec):
    """A metric on offer."""

    scores: tuple[Score, ...] = ()
    protocol: str = ""
    """Name of the exact procedure; results of unlike protocols are never put together."""
    corpus: str = ""
    """Kind of the dataset's own texts (``Records.texts``) that scores depend on, if they do: the
    texts' digest becomes a part of the protocol's name."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec(_Spec):
    """A dataset on offer."""

    training: Mapping[str, Any] | None = None
    """Config values that give records apart from those that results are reported on, if any."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model that ships with a package: its name and folder, as ``"package:folder"``."""

    name: str
    folder: str
    summary: str


@dataclasses.dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark file that ships with a package, as ``"package:file.yaml"``."""

    name: str
    file: str
    summary: str


@dataclasses.dataclass(frozen=True)
class PublishedTableSpec:
    """Published results in a file ``"package:file.yaml"``, which reports show beside our own."""

    name: str
    file: str
    summary: str


@dataclasses.dataclass(frozen=True)
class CommandSpec:
    """A command ``editkit NAME``.

    ``module`` is imported when the command is used and has ``configure(parser)`` and
    ``run(args) -> int``.
    """

    name: str
    module: str
    summary: str


Kind = Literal[
    "editor", "locator", "metric", "dataset", "model", "benchmark", "published_table", "command"
]
Spec = (
    EditorSpec
    | LocatorSpec
    | MetricSpec
    | DatasetSpec
    | ModelSpec
    | BenchmarkSpec
    | PublishedTableSpec
    | CommandSpec
)
