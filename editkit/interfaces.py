"""What plugins implement (Editor, Locator, Metric, Dataset) and the frozen specs they hand over.

Importing this module loads no machine-learning library: specs name their classes lazily, as
``"package.module:Name"``, and everything heavy is loaded when a plugin is used.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from editkit.data_types import EditRequest, Fact, Localization, Needs, Record, Records
from editkit.editing.outcomes import watched
from editkit.validation import strict_values

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta
    from editkit.editing.edited import EditedModels
    from editkit.models import LanguageModel
    from editkit.models.shape import ModelShape

__all__ = [
    "Config",
    "ConfigT",
    "Configurable",
    "CorpusName",
    "Dataset",
    "Editor",
    "FileName",
    "Locator",
    "Metric",
    "MetricRow",
    "NamesCorpus",
    "NamesFile",
    "NotRead",
]


@dataclasses.dataclass(frozen=True)
class NamesFile:
    """Marks a text that names a file: a path, or ``package:file``."""


@dataclasses.dataclass(frozen=True)
class NamesCorpus:
    """Marks a text that names a :class:`~editkit.covariance.corpora.Corpus`."""


@dataclasses.dataclass(frozen=True)
class NotRead:
    """Marks a path, or a text, whose content results do not depend on."""


FileName = Annotated[str, NamesFile()]
"""A path, or ``package:file``, as the type of a field."""


CorpusName = Annotated[str, NamesCorpus()]
"""The source of a :class:`~editkit.covariance.corpora.Corpus`, as the type of a field."""


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
        say so: :class:`~pathlib.Path`, :data:`editkit.interfaces.FileName` and
        :data:`editkit.interfaces.CorpusName`. Override it for what no field names, such as weights
        that are found by the model's fingerprint.

        Args:
            model_fingerprint: Of the model that is worked on, without edits applied to it.

        Raises:
            ConfigError: A file that a field names does not exist or cannot be read.
        """
        return {}


ConfigT = TypeVar("ConfigT", bound=Config)

MetricRow = Mapping[str, float | list[float] | list[str]]
"""What a metric says of one record, by key."""

# ---------------------------------------------------------------- data that metrics and editors see


# ---------------------------------------------------------------- what plugins implement


class Configurable(Generic[ConfigT]):
    """Something made from a validated configuration."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config


class Editor(Configurable[ConfigT], ABC):
    """Turns edit requests into weight deltas, and leaves the model as it was.

    Each call of :meth:`edit` logs one warning where edits did not work, as far as their notes say
    (see :mod:`editkit.editing.outcomes`).
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
            The deltas. Their notes say how each edit went, under the keys that
            :mod:`editkit.editing.outcomes` reads: ``converged``, ``unstable``, ``warning``,
            ``advice``, ``loss``.
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
