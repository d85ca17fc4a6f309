"""A worker's part in tracing many facts: it adapts a locator to the facts, and traces some of them.

A fact's trace depends on the model, the locator and the fact alone, not on the worker, nor on what
was traced before: the generators are seeded anew for every edit and every trace.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from editkit import (
    ClusterError,
    Config,
    EditkitError,
    Editor,
    EditRequest,
    Fact,
    Localization,
    Locator,
    WeightDelta,
    applied,
    make_locator,
)
from editkit.benchmark.dependencies import dependencies
from editkit.benchmark.environment import environment_of
from editkit.benchmark.inputs import load_model_of
from editkit.benchmark.spec import ModelChoice
from editkit.editing.delta_effects import Effects
from editkit.editing.outcomes import Edit, unwatched
from editkit.errors import first_line
from editkit.models import LanguageModel
from editkit.registry.plugins import default_registry
from editkit.registry.random_state import seeded
from editkit.results import Row
from editkit.storage.digests import first_difference, key_of
from editkit.storage.machine import free_memory, is_out_of_memory
from editkit_plugins.tracing.averages import PLACES, effects_by_role, largest_effects
from editkit_plugins.tracing.config import Averaging, CausalTracingConfig
from editkit_plugins.tracing.tokenized_facts import tokenize_facts

AGAIN = "trace_again"
"""Note of a row that failed for lack of memory or of a worker: a later run traces the fact again.
"""
LAYERS, LARGEST, SEPARATOR = "layers", "largest", "/"  # in the keys of a row's details
_LAYOUT = 2  # of a row's details; facts with rows of another layout are traced again
_log = logging.getLogger(__name__)


# ---------------------------------------------------------------- what traces


@dataclasses.dataclass(frozen=True)
class EditBefore:
    """An editor whose edit of a fact precedes the fact's trace, and is undone after it.

    Attributes:
        name: What tables call the editor.
        editor: The editor.
    """

    name: str
    editor: Editor[Any]

    def delta(self, model: LanguageModel, case: int, request: EditRequest) -> WeightDelta:
        """The edit of a case. Its random numbers depend on the case alone.

        Raises:
            EditkitError: The editor fails.
        """
        with seeded("trace", case), unwatched():  # failed edits are reported once for all cases
            [delta] = self.editor.edit(model, [request])
        return delta


@dataclasses.dataclass(frozen=True)
class Tools:
    """A locator, and an editor if each fact is traced after its edit."""

    locator_name: str
    locator: Locator[Any]
    edit: EditBefore | None = None

    def built(self, model: LanguageModel, *, prepared: bool) -> Tools:
        """These tools, which exist already; whoever made the editor has prepared it."""
        return self

    def adapted(self, locator: Locator[Any]) -> Tools:
        """The same with another locator."""
        return dataclasses.replace(self, locator=locator)


@dataclasses.dataclass(frozen=True)
class NamedEditor:
    """An editor as plain data.

    Attributes:
        label: What tables call it.
        name: Its name.
        config: Its configuration.
        seed: Seed of its preparation, as in a benchmark.
    """

    label: str
    name: str
    config: Config
    seed: int


@dataclasses.dataclass(frozen=True)
class NamedTools:
    """Tools as plain data, which a worker in another process builds.

    Attributes:
        locator_name: The locator.
        values: Values of its configuration.
        preset: A preset of its configuration; None: the default.
        config: The whole configuration; None: as the preset and the values have it for the model.
        edit: The editor, if each fact is traced after its edit.
    """

    locator_name: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preset: str | None = None
    config: Config | None = None
    edit: NamedEditor | None = None

    def built(self, model: LanguageModel, *, prepared: bool) -> Tools:
        """The tools for a model.

        Args:
            model: The model.
            prepared: Whether the editor is needed for edits, and not only for its configuration.

        Raises:
            PluginError: The locator or the editor is not installed.
            ConfigError: A value is wrong.
            EditkitError: The editor does not fit the model.
        """
        registry = default_registry()
        if self.config is None:
            locator = make_locator(self.locator_name, model, preset=self.preset, **self.values)
        else:
            locator = registry.build("locator", self.locator_name, self.config)
        if self.edit is None:
            return Tools(self.locator_name, locator)
        editor = registry.build("editor", self.edit.name, self.edit.config)
        editor.check(model)
        if prepared:
            with seeded(self.edit.seed, "prepare"):
                editor.prepare(model)
        return Tools(self.locator_name, locator, EditBefore(self.edit.label, editor))

    def distributions(self) -> list[str]:
        """The distributions of the locator and the editor.

        Raises:
            PluginError: One is not installed.
        """
        offers = [default_registry().get("locator", self.locator_name)]
        if self.edit is not None:
            offers.append(default_registry().get("editor", self.edit.name))
        return sorted({offer.source.distribution for offer in offers})

    def adapted(self, locator: Locator[Any]) -> NamedTools:
        """The same with the configuration of another locator."""
        return dataclasses.replace(self, config=locator.config)


AnyTools: TypeAlias = Tools | NamedTools


def identity_of(
    model: LanguageModel,
    tools: Tools,
    facts: Sequence[Fact],
    requests: Sequence[EditRequest] = (),
) -> dict[str, Any]:
    """Everything that stored traces depend on, as plain data.

    Args:
        model: The model.
        tools: The locator, adapted to the facts, and the editor.
        facts: All facts.
        requests: The edit before each fact's trace; none without an editor.
    """
    digests = {"facts": key_of({"facts": [list(each.to_dict().values()) for each in facts]})}
    if tools.edit is not None:
        digests["requests"] = key_of({"requests": [each.to_dict() for each in requests]})
    return _identity(model, tools, digests)


def _identity(model: LanguageModel, tools: Tools, digests: Mapping[str, str]) -> dict[str, Any]:
    """As :func:`identity_of`, from the digests of the facts and the requests."""
    config = tools.locator.config.model_dump(mode="json")
    if isinstance(tools.locator.config, CausalTracingConfig):
        config["plain"] = False  # a former field: traces that were stored with it are still used
        if (
            config["substitute_length"] == "same"
        ):  # nor are those from before this field traced again
            del config["substitute_length"]
    identity = {
        "kind": "trace",
        "layout": _LAYOUT,
        "model": {"name": model.name, **model.describe()},
        "locator": tools.locator_name,
        "config": config,
        "depends_on": dependencies(
            tools.locator.config, model.base_fingerprint, name=tools.locator_name
        ),
        "version": importlib.metadata.version("editkit"),
        "facts": digests["facts"],
    }
    if tools.edit is not None:
        name, editor = tools.edit.name, tools.edit.editor
        identity["after"] = {
            "editor": name,
            "config": editor.config.model_dump(mode="json"),
            "depends_on": dependencies(editor.config, model.base_fingerprint, name=name),
            "requests": digests["requests"],
        }
    return identity


# ---------------------------------------------------------------- jobs and answers


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Job: adapt the locator to all facts; the answer is :class:`Adapted`.

    Attributes:
        tools: The locator, and the editor.
        facts: All facts.
        requests: The edit before each fact's trace; none without an editor.
    """

    tools: AnyTools
    facts: Sequence[Fact]
    requests: Sequence[EditRequest] = ()


@dataclasses.dataclass(frozen=True)
class Adapted:
    """Tools for all facts.

    Attributes:
        tools: The tools, with the adapted locator.
        config: The locator's configuration.
        identity: Everything that the traces depend on, as plain data.
    """

    tools: AnyTools
    config: Config
    identity: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A fact to trace.

    Attributes:
        number: Its place among all facts.
        fact: The fact.
        request: The edit before its trace.
    """

    number: int
    fact: Fact
    request: EditRequest | None = None


@dataclasses.dataclass(frozen=True)
class TraceFacts:
    """Job: trace some facts; the answers are :class:`Traced`, in their order.

    Attributes:
        adapted: The tools. A worker refuses the job if they are not the same there.
        cases: The facts.
    """

    adapted: Adapted
    cases: Sequence[Case]


@dataclasses.dataclass(frozen=True)
class MapFact:
    """Job: trace one fact, and keep all of its tokens; the answer is :class:`Mapped`.

    Attributes:
        tools: The locator.
        fact: The fact.
        others: The facts that the locator is adapted to, as for their average.
    """

    tools: NamedTools
    fact: Fact
    others: Sequence[Fact]


@dataclasses.dataclass(frozen=True)
class Mapped:
    """All effects of one fact.

    Attributes:
        model: Name of the model.
        maps: One localization per kind of site; none if the fact cannot be traced.
        error: Why it cannot be traced.
    """

    model: str
    maps: tuple[Localization, ...] = ()
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Traced:
    """The trace of a fact.

    Attributes:
        row: Its row in the store.
        edit: How the edit before it went; None without one, or if it failed.
    """

    row: Row
    edit: Edit | None = None


Job: TypeAlias = Adapt | TraceFacts | MapFact
Answer: TypeAlias = Adapted | Traced | Mapped


# ---------------------------------------------------------------- the bench


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """Recipe of a bench whose model is loaded by the worker."""

    choice: ModelChoice

    def build(self) -> TraceBench:
        """Load the model.

        Raises:
            ModelError: It cannot be loaded.
        """
        return TraceBench(load_model_of(self.choice))


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Recipe of a bench for a model of this process."""

    model: LanguageModel

    def build(self) -> TraceBench:
        """The bench."""
        return TraceBench(self.model)


class TraceBench:
    """A loaded model, with the tools of the latest job.

    Args:
        model: The model.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._adapted: Adapted | None = None
        self._tools: Tools | None = None

    def about(self) -> dict[str, Any]:
        """The model's description, its number of layers, and the environment of the rows."""
        description = self.model.describe()
        return {
            "model": description,
            "n_layers": self.model.n_layers,
            "environment": environment_of(description),
        }

    def do(self, job: Job) -> Iterator[Answer]:
        """Adapt a locator, or trace facts.

        Raises:
            ClusterError: The model, or a file that a configuration names, is another one here than
                on the worker that adapted the locator.
            EditkitError: The locator or the editor cannot be built or prepared.
        """
        if isinstance(job, Adapt):
            yield self._adapt(job)
            return
        if isinstance(job, MapFact):
            locator = job.tools.built(self.model, prepared=False).locator
            locator = locator.for_facts(self.model, job.others)
            try:
                [maps] = locator.maps(self.model, [job.fact])
            except EditkitError as error:
                yield Mapped(self.model.name, error=error.message)
            else:
                yield Mapped(self.model.name, maps)
            return
        tools = self._built(job.adapted)
        effects = Effects(self.model)
        for case in job.cases:
            if tools.edit is None:
                yield Traced(_trace(self.model, tools.locator, case.number, case.fact))
            else:
                yield _trace_after(tools.edit, effects, self.model, tools.locator, case)

    def _adapt(self, job: Adapt) -> Adapted:
        tools = job.tools.built(self.model, prepared=False)
        tools = tools.adapted(tools.locator.for_facts(self.model, job.facts))
        identity = identity_of(self.model, tools, job.facts, job.requests)
        return Adapted(job.tools.adapted(tools.locator), tools.locator.config, identity)

    def _built(self, adapted: Adapted) -> Tools:
        """The tools of a job; built if they are not those of the job before."""
        if self._tools is None or self._adapted != adapted:
            self._tools = None  # frees what an editor prepared
            tools = adapted.tools.built(self.model, prepared=True)
            digests = {"facts": adapted.identity["facts"]}
            if tools.edit is not None:
                digests["requests"] = adapted.identity["after"]["requests"]
            own = _identity(self.model, tools, digests)
            expected = adapted.identity
            for part in ("model", "depends_on"):
                if difference := first_difference(own[part], expected[part]):
                    raise _differs(f"{part}: {difference}")
            if difference := first_difference(own, expected):
                raise _differs(difference)
            self._adapted, self._tools = adapted, tools
        return self._tools


def _differs(difference: str) -> ClusterError:
    return ClusterError(
        f"worker on {platform.node()} would not trace like the others: {difference}.",
        hint="Give all machines the same files, and all workers the same kind of device.",
    )


# ---------------------------------------------------------------- a fact as a row


def _trace_after(
    before: EditBefore, effects: Effects, model: LanguageModel, locator: Locator[Any], case: Case
) -> Traced:
    """Trace a fact after its edit."""
    if case.request is None:
        raise AssertionError(case)
    try:
        delta = before.delta(model, case.number, case.request)
    except EditkitError as error:
        return Traced(_failed(case.number, error.message))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Traced(_out_of_memory(case.number, error))
    edit = Edit(f"case {case.number}", {**effects.of(delta), **delta.notes})
    with applied(model, delta):
        return Traced(_trace(model, locator, case.number, case.fact), edit)


def _trace(model: LanguageModel, locator: Locator[Any], case: int, fact: Fact) -> Row:
    """Trace a fact; if the model does not know it or it cannot be traced, the row says so."""
    try:
        with seeded("trace", case):
            [tokenized] = tokenize_facts(model, [fact])
            if not tokenized.predicted:
                return Row(case, "done", {"predicted": 0.0}, completed_at=time.time())
            [maps] = locator.maps(model, [fact])
    except EditkitError as error:
        return _failed(case, error.message)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return _out_of_memory(case, error)
    maps = tuple(dataclasses.replace(each, subject=tokenized.subject) for each in maps)
    baselines = dict(maps[0].baselines)
    scores = {"predicted": 1.0, **baselines}
    if {"clean", "corrupted"} <= baselines.keys():
        scores["total_effect"] = baselines["clean"] - baselines["corrupted"]  # TE
    averaging: Averaging = getattr(locator.config, "averaging", "by_fact")
    details = _details(maps, averaging)
    return Row(case, "done", scores, details=details, completed_at=time.time())


def _details(maps: Sequence[Localization], averaging: Averaging) -> dict[str, list[float]]:
    """A row's details: ``KIND/layers`` (L), ``KIND/largest``, and ``KIND/ROLE``, flattened."""
    details: dict[str, list[float]] = {}
    for localization in maps:
        prefix = f"{localization.kind}{SEPARATOR}"
        details[f"{prefix}{LAYERS}"] = [float(len(localization.scores[0]))]
        largest = largest_effects(localization)
        details[f"{prefix}{LARGEST}"] = [largest[place] for place in PLACES]
        for role, rows in effects_by_role(localization, averaging).items():
            details[f"{prefix}{role}"] = [effect for row in rows for effect in row]
    return details


def _failed(case: int, reason: str) -> Row:
    return Row(case, "failed", error=reason, completed_at=time.time())


def _out_of_memory(case: int, error: Exception) -> Row:
    """The row of a fact for which the memory does not suffice; the next fact may need less."""
    _log.debug("fact %d: out of memory", case, exc_info=error)
    gc.collect()
    free_memory()
    return failed_for_now(case, f"out of memory: {first_line(error)}")


def failed_for_now(case: int, reason: str) -> Row:
    """A failed row whose fact a later run traces again."""
    return dataclasses.replace(_failed(case, reason), notes={AGAIN: True})
