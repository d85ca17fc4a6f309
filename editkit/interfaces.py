"""What plugins implement: editors, locators, metrics, judges, datasets, and their configurations.

An editor writes facts in one of three regimes (:mod:`editkit.regimes`): each in its own model
(:meth:`Editor.edit`), many at once (:meth:`Editor.edit_jointly`), or one step after the other
(:meth:`Editor.step`). Only the first must be implemented.

Read this page first. The data that they exchange is in :mod:`editkit.data_types`; the specs by
which a plugin offers them are in :mod:`editkit.registry.specs`. Importing this module loads no
machine-learning library.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from editkit.data_types import EditRequest, Fact, Localization, Record, Records, Requirements
from editkit.editing.outcomes import is_watched, unwatched
from editkit.errors import RequestError, UsageError
from editkit.judging import Attempt, Verdict
from editkit.mistakes import expect, expect_list
from editkit.reprs import changed_values, summary
from editkit.validation import Config, CorpusName, FileName, NamesCorpus, NamesFile, NotRead

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.editing.deltas import Change, PromptContext, WeightDelta
    from editkit.editing.edited_models import CandidateQuery, EditedModels
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
    "JointEditor",
    "Judge",
    "Locator",
    "Metric",
    "MetricRow",
    "ModelMetric",
    "NamesCorpus",
    "NamesFile",
    "NotRead",
    "State",
]

ConfigT = TypeVar("ConfigT", bound=Config)
Method = TypeVar("Method", bound=Callable[..., Any])

MetricRow = Mapping[str, float | list[float] | list[str]]
"""What a metric measured on one record, or on one model, by key."""

State: TypeAlias = "Mapping[str, Tensor]"
"""What an editor passes from one step of a sequence to the next; empty before the first one."""


class Configurable(Generic[ConfigT]):
    """Base of everything that a plugin offers under a name, with a validated configuration.

    Attributes:
        name: The name that users type and results carry: ``ft+l``. The registry sets it from the
            spec, so that one class can serve several names; a class may set the name that its
            instances have without a registry.
        config: The configuration.
    """

    name: str = ""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @summary
    def __repr__(self) -> str:
        kind = type(self).__name__
        values = changed_values(self.config.model_dump(mode="json", exclude_defaults=True))
        return f"{kind} {self.name}".rstrip() + (f": {', '.join(values)}" if values else "")


def _fingerprint_of(model: LanguageModel) -> str:
    return model.fingerprint


_OF_MODEL = {"model": "LanguageModel"}
_OF_REQUESTS = {**_OF_MODEL, "requests": "EditRequest"}
_OF_STEP = {**_OF_REQUESTS, "state": "mapping"}
_OF_FACTS = {**_OF_MODEL, "facts": "Fact"}
_OF_MODELS = {"models": "EditedModels"}
_OF_RECORDS = {**_OF_MODELS, "records": "Record"}
_OF_ATTEMPTS = {"attempts": "Attempt"}
"""Kind of each parameter; of lists, that of their elements."""
_LISTS = {"requests", "facts", "records", "attempts"}


def _check(
    method: str, takes: Mapping[str, str], arguments: Sequence[Any], named: Mapping[str, Any]
) -> None:
    """Refuse the mistakes of newcomers; what is missing or too much, Python reports."""
    given = {**named, **dict(zip(takes, arguments, strict=False))}
    call = f"{method}({', '.join(takes)})"
    for name, kind in takes.items():
        if name in given:
            (expect_list if name in _LISTS else expect)(given[name], kind, name, call)
    models: Any = given.get("models")
    records: Any = given.get("records")
    if records is not None and hasattr(models, "__len__") and len(models) != len(records):
        raise UsageError(
            f"{call}: got {len(models)} edited models and {len(records)} records, expected as many "
            "models as records.",
            hint="Row i measures edited model i on record i: EditedModels(model, deltas) needs one "
            "delta per record. For a joint edit, repeat it: [delta] * len(records).",
        )


def _checking(takes: Mapping[str, str]) -> Callable[[Method], Method]:
    """A wrapper of methods that checks their arguments."""

    def wrapper(method: Method) -> Method:
        @functools.wraps(method)
        def run(self: Any, *arguments: Any, **named: Any) -> Any:
            _check(method.__name__, takes, arguments, named)
            return method(self, *arguments, **named)

        return cast("Method", run)

    return wrapper


def _wrap(cls: type, wrapper: Callable[[Any], Any], *names: str) -> None:
    """Wrap the methods of a class that it implements itself."""
    for name in names:
        own = vars(cls).get(name)
        if inspect.isfunction(own) and not getattr(own, "__isabstractmethod__", False):
            setattr(cls, name, wrapper(own))


def _one_call(edit: Method) -> Method:
    """A method that returns deltas, with one fingerprint and one warning of failed edits a call."""
    takes = _OF_STEP if edit.__name__ == "step" else _OF_REQUESTS

    @functools.wraps(edit)
    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        _check(edit.__name__, takes, arguments, named)
        known: dict[object, str] = {}

        def once(model: LanguageModel) -> str:
            key = id(model), model.weights.state()  # edits may be applied within the call
            if key not in known:
                known[key] = model.fingerprint
            return known[key]

        requests = arguments[1] if len(arguments) > 1 else named.get("requests")
        if edit.__name__ != "edit" and not requests:
            raise RequestError(
                f"{self.name or type(self).__name__} was given no requests to write jointly.",
                hint="Give at least one.",
            )
        outer, watched = self._fingerprint, is_watched()
        self._fingerprint = outer or once
        model = arguments[0] if arguments else named.get("model")
        try:
            if model is not None:
                self._fingerprint(model)  # notices any change before data that was kept is used
            with unwatched():  # an edit() that calls the one of its base class
                result = edit(self, *arguments, **named)
        finally:
            self._fingerprint = outer
        if watched:
            from editkit.editing.delta_effects import warn_of_failed

            warn_of_failed(model, result)
        return result

    return cast("Method", run)


class Editor(Configurable[ConfigT], ABC):
    """Turns edit requests into weight deltas and leaves the model as it was.

    After each call of :meth:`edit` from Python, one warning is logged if edits did not work, as
    far as their notes show (:mod:`editkit.editing.outcomes`).
    """

    _fingerprint: Callable[[LanguageModel], str] | None = None  # inside a call of edit

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _wrap(cls, _one_call, "edit", "edit_jointly", "step")
        _wrap(cls, _checking(_OF_MODEL), "check", "prepare")

    def check(self, model: LanguageModel) -> None:
        """Refuse a model that this configuration does not fit; quick, before any work is done.

        Raises:
            EditkitError: The model does not have the configured layer, for example.
        """

    def prepare(self, model: LanguageModel) -> None:
        """Get what the method needs for this model (statistics, trained networks); idempotent."""

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements | None:
        """Estimate memory and statistics, before any weights are loaded.

        Args:
            shape: The model's shape, read from its config.
            requests: Number of requests that are edited together.
            tokens: Tokens of the longest request, prompt and target together.

        Returns:
            None if the editor gives no estimate.
        """
        return None

    def joint_requirements(
        self, shape: ModelShape, *, requests: int, tokens: int
    ) -> Requirements | None:
        """As :meth:`requirements`, for one call of :meth:`edit_jointly` with all requests.

        Override it if that needs less, or more, than one delta for each request.
        """
        return self.requirements(shape, requests=requests, tokens=tokens)

    @abstractmethod
    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One delta per request, each made from the model as it is.

        Args:
            model: Left bit-identical, with its mode, gradient flags, hooks and RNG as they were.
            requests: Any number of requests; an empty sequence gives an empty list.

        Returns:
            The deltas, built with :meth:`delta`.
        """

    @_one_call
    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One delta that writes all requests.

        By default they are written one after the other, each on the model with those before it
        applied, and the deltas are merged. A method that solves for all requests together
        overrides this, and its spec has ``joint`` among its ``regimes``.

        Args:
            model: As for :meth:`edit`.
            requests: At least one.

        Returns:
            The delta, with all requests. Its notes may have ``facts``: the notes of each request,
            in order.
        """
        from editkit.editing.deltas import applied, compacted, stack

        first, *others = requests
        [total] = self.edit(model, [first])
        notes: list[dict[str, Any]] = [dict(total.notes)]
        for request in others:
            with applied(model, total.without_context()):
                [delta] = self.edit(model, [request])
            notes.append(dict(delta.notes))
            total = compacted(stack([total, delta]))
        return dataclasses.replace(
            total,
            request=tuple(requests),
            editor=self.name or type(self).__name__,
            config=self.config.model_dump(mode="json"),
            notes={"facts": notes},
        )

    def step(
        self, model: LanguageModel, requests: Sequence[EditRequest], state: State
    ) -> tuple[WeightDelta, State]:
        """One step of a sequence: write some requests on top of all earlier steps.

        By default :meth:`edit_jointly`, without state. A method that keeps something between steps
        overrides this, and its spec has ``sequential`` among its ``regimes``.

        Args:
            model: The model with all earlier steps applied. Statistics of the unedited model are
                read inside ``model.unedited()``.
            requests: The requests of this step, at least one.
            state: What the previous step returned; empty at the start. Not modified.

        Returns:
            The delta of this step, on top of the earlier ones, and the state for the next step:
            tensors by name, which are stored, so that an interrupted sequence resumes.
        """
        return self.edit_jointly(model, requests), state

    def delta(
        self,
        model: LanguageModel,
        requests: EditRequest | Sequence[EditRequest],
        changes: Mapping[str, Change],
        *,
        notes: Mapping[str, Any] | None = None,
        context: PromptContext | None = None,
    ) -> WeightDelta:
        """A delta of this editor, with its name and configuration and the model's fingerprint.

        Build deltas while no edit of your own is applied to the model: the fingerprint is that of
        the model at this moment. Within one call of :meth:`edit` it is computed once.

        Args:
            model: The model that the edit was made on.
            requests: The request that the delta writes, or all requests of a joint edit.
            changes: What is added to each parameter, by name.
            notes: How the edit went, under the keys that :mod:`editkit.editing.outcomes` reads:
                ``converged``, ``unstable``, ``warning``, ``advice``, ``loss``.
            context: Texts to put before every prompt, for in-context editing.
        """
        from editkit.editing.deltas import WeightDelta

        fingerprint = self._fingerprint or _fingerprint_of
        return WeightDelta(
            changes=changes,
            request=requests if isinstance(requests, EditRequest) else tuple(requests),
            editor=self.name or type(self).__name__,
            config=self.config.model_dump(mode="json"),
            model_fingerprint=fingerprint(model),
            notes=notes or {},
            context=context,
        )


class JointEditor(Editor[ConfigT]):
    """An editor whose own form writes many requests at once: implement :meth:`edit_jointly`."""

    @abstractmethod
    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One delta that writes all requests; as :meth:`Editor.edit_jointly`."""

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """A joint edit of each request alone."""
        return [self.edit_jointly(model, [request]) for request in requests]


class Locator(Configurable[ConfigT], ABC):
    """Finds where in a model a fact is stored or recalled."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _wrap(cls, _checking(_OF_FACTS), "locate", "maps", "for_facts")

    @abstractmethod
    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """One localization per fact, in order."""

    def for_facts(self, model: LanguageModel, facts: Sequence[Fact]) -> Locator[ConfigT]:
        """A locator for a study of these facts, for locators that depend on all of them.

        Its configuration must hold all that it took from the facts: other workers build it from its
        name and configuration.
        """
        return self

    def maps(self, model: LanguageModel, facts: Sequence[Fact]) -> list[tuple[Localization, ...]]:
        """Every kind of localization of each fact, in order; by default the one of `locate`."""
        return [(localization,) for localization in self.locate(model, facts)]


class Metric(Configurable[ConfigT], ABC):
    """Measures what edits did, record by record."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _wrap(cls, _checking(_OF_MODEL), "check")
        _wrap(cls, _checking(_OF_RECORDS), "score")

    def check(self, model: LanguageModel) -> None:
        """Refuse a model that cannot be measured like this; quick, before any edit is made.

        Raises:
            EditkitError: The model has no chat template, and prompts are asked in one, for example.
        """

    def check_records(self, records: Sequence[Record]) -> None:
        """Warn of values that fit none of a run's records; quick, before anything is prepared.

        Args:
            records: All records of the run, including those that are stored already.
        """

    def prepare(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Fit the metric to the dataset as a whole, before any record is scored.

        Args:
            texts: ``Records.texts`` of the whole dataset, whichever records are scored. It
                includes the kind that the spec names as ``corpus``.
        """

    def queries(self, edit: int, record: Record) -> list[CandidateQuery]:
        """The candidates that :meth:`score` asks an edited model for, as far as they are known.

        Optional, for speed: a benchmark asks the queries of all its metrics at once, in one pass
        through the model, and :meth:`score` gets the answers from memory.

        Args:
            edit: Number of the edited model, for the queries.
            record: The record that it is scored on.
        """
        return []

    @abstractmethod
    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Row ``i`` measures edited model ``i`` on record ``i``.

        A float is a score of the record and is averaged over records; a list of numbers is kept as
        detail (one number per prompt), a list of texts as what the edited model wrote. Leave out a
        score for which the record has no prompts.
        """


class ModelMetric(Configurable[ConfigT], ABC):
    """Measures what edits left of a model as a whole, whichever facts they wrote.

    A benchmark that names it under ``metrics`` measures the model of each record, all models of a
    batch in one call of :meth:`score`; their numbers become scores and details of the record.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _wrap(cls, _checking(_OF_MODEL), "prepare")
        _wrap(cls, _checking(_OF_MODELS), "score")

    def prepare(self, model: LanguageModel) -> None:
        """Measure the unedited model, before any edited one is scored."""

    @abstractmethod
    def score(self, models: EditedModels) -> list[MetricRow]:
        """Row ``i`` measures edited model ``i``; ``models.unedited()`` is what it is compared with.

        A float is a score of the model, a list of numbers is kept as detail, a list of texts as
        what the edited model wrote.
        """


class Judge(Configurable[ConfigT], ABC):
    """Decides whether what models wrote gives the answers that were wanted."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _wrap(cls, _checking(_OF_ATTEMPTS), "judge")

    def prepare(self) -> None:
        """Check what judging needs, before any record is edited; quick, for ``--dry-run`` too.

        Raises:
            JudgeError: Something is missing, such as the key of a service.
        """

    @abstractmethod
    def judge(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """One verdict per attempt, in order.

        An attempt that cannot be judged gets a verdict without a score, with the problem: its
        record fails, and the run continues.

        Raises:
            JudgeError: The judge cannot decide anything: a service is unreachable. The run stops,
                and the same command resumes it.
        """


class Dataset(Configurable[ConfigT], ABC):
    """A source of records."""

    @abstractmethod
    def load(self) -> Records:
        """Read all records; broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: Nothing could be read at all.
        """
