"""Traces of many facts. Each is a row of the result store, so an interrupted run resumes.

The facts are traced by the workers of a pool (:mod:`editkit_plugins.tracing.bench`); the store is
written here.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

from editkit import EditRequest, Fact, Locator
from editkit.benchmark.environment import record_environment
from editkit.benchmark.store import Store
from editkit.editing.outcomes import BASELINE, Edit, outcomes_of
from editkit.models import LanguageModel
from editkit.progress import Counter, counting
from editkit.results import STORE_FILE, Row
from editkit.storage.digests import key_of
from editkit.workers.pool import MOST_LOSSES, Answered, Crew, InProcess, Lost, answer_of
from editkit_plugins.tracing.averages import (
    PLACES,
    AverageTrace,
    average_by_role,
    average_largest,
    mean_of_effects,
)
from editkit_plugins.tracing.bench import (
    AGAIN,
    LARGEST,
    LAYERS,
    SEPARATOR,
    Adapt,
    Adapted,
    Answer,
    AnyTools,
    Case,
    EditBefore,
    Job,
    LoadedModel,
    Tools,
    Traced,
    TraceFacts,
    failed_for_now,
)
from editkit_plugins.tracing.config import Kind
from editkit_plugins.tracing.restored_runs import WINDOWS

Tracers: TypeAlias = Crew[Job, Answer]
"""Workers with a bench of :mod:`editkit_plugins.tracing.bench`."""

_FACTS_PER_JOB = 5
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Study:
    """Facts, and what traces them.

    Attributes:
        facts: The facts.
        adapted: The locator, adapted to all of them, and the editor.
        requests: The edit before each fact's trace; none without an editor.
        source: Where the facts are from, for readers.
        setting: Name of the setting, for readers.
    """

    facts: Sequence[Fact]
    adapted: Adapted
    requests: Sequence[EditRequest] = ()
    source: str = ""
    setting: str = ""

    def cases(self, numbers: Sequence[int]) -> list[Case]:
        """Some of the facts, each with its edit."""
        return [
            Case(number, self.facts[number], self.requests[number] if self.requests else None)
            for number in numbers
        ]


def average_trace(
    model: LanguageModel,
    locator_name: str,
    locator: Locator[Any],
    facts: Sequence[Fact],
    out: Path,
    edit: EditBefore | None = None,
    requests: Sequence[EditRequest] = (),
) -> AverageTrace:
    """As :func:`traced_study`, with a model and a locator of this process.

    Args:
        model: The model.
        locator_name: Name of the locator.
        locator: The locator.
        facts: The facts.
        out: Folder of the store.
        edit: The prepared editor, if each fact is traced after its edit.
        requests: The edits, one per fact.
    """
    with InProcess().opened(LoadedModel(model)) as crew:
        study = adapted_study(crew, Tools(locator_name, locator, edit), facts, requests)
        return traced_study(crew, study, out)


def adapted_study(
    crew: Tracers,
    tools: AnyTools,
    facts: Sequence[Fact],
    requests: Sequence[EditRequest] = (),
    *,
    source: str = "",
    setting: str = "",
) -> Study:
    """Have one worker adapt a locator to all facts, for all workers.

    Raises:
        ClusterError: Three workers died one after the other.
        EditkitError: The locator or the editor cannot be built.
    """
    adapted = answer_of(crew, Adapt(tools, facts, requests))
    if not isinstance(adapted, Adapted):
        raise AssertionError(adapted)
    return Study(facts, adapted, requests, source, setting)


def traced_study(crew: Tracers, study: Study, out: Path) -> AverageTrace:
    """Trace the facts that the store lacks, and average over all that the model knows.

    Rows do not depend on the number of workers. A fact that costs three workers, or runs out of
    memory, gets a failed row, and is traced again by the next call.

    Args:
        crew: Workers with the model.
        study: The facts, and what traces them.
        out: Folder of the store.
    """
    identity = study.adapted.identity
    model, edit = identity["model"], identity.get("after")
    fingerprint = key_of(identity)
    n_facts = len(study.facts)
    with Store(out / STORE_FILE) as store:
        store.put_cell(fingerprint, identity)
        record_environment(crew.about["environment"], store, [fingerprint])
        rows = _valid_rows(store, fingerprint, n_facts, crew.about["n_layers"])
        stored = {row.case_id for row in rows if AGAIN not in row.notes}
        missing = [case for case in range(n_facts) if case not in stored]
        title = f"tracing {study.setting or study.source}".rstrip()
        with counting(title, n_facts, unit="fact", done=len(stored)) as advance:
            edits = _trace_all(crew, study, missing, store, fingerprint, advance)
        summary = outcomes_of([edits[case] for case in sorted(edits)]).summary
        if summary and edit is not None and edit["editor"] != BASELINE:
            _log.warning("%s: %s", edit["editor"], summary)
        rows = _valid_rows(store, fingerprint, n_facts, crew.about["n_layers"])
    return _average(study, model["name"], fingerprint, rows)


def _trace_all(
    crew: Tracers,
    study: Study,
    missing: Sequence[int],
    store: Store,
    fingerprint: str,
    advance: Counter,
) -> dict[int, Edit]:
    """Trace facts and store their rows; returns the edits before them, by case."""
    edits: dict[int, Edit] = {}
    left: dict[int, list[int]] = {}  # by job: its cases without a row
    losses: collections.Counter[int] = collections.Counter()  # by case: workers that it cost
    environment = crew.about["environment"]

    def submit(cases: Sequence[int], at_once: int) -> None:
        for start in range(0, len(cases), at_once):
            some = cases[start : start + at_once]
            left[crew.submit(TraceFacts(study.adapted, study.cases(some)))] = [*some]

    submit(missing, max(1, min(_FACTS_PER_JOB, len(missing) // (2 * crew.workers))))
    for event in crew.events():
        cases = left[event.job]
        if isinstance(event, Answered) and isinstance(event.answer, Traced):
            row = event.answer.row
            if (own := crew.about_worker(event.worker)["environment"]) != environment:
                store.computed_with(environment := own)
            store.put_rows(fingerprint, [row])
            cases.remove(row.case_id)
            if event.answer.edit is not None:
                edits[row.case_id] = event.answer.edit
            advance()
        elif isinstance(event, Lost) and cases:
            losses[cases[0]] += 1  # it was being traced
            if losses[cases[0]] == MOST_LOSSES:
                reason = f"{MOST_LOSSES} workers died while they traced it: {event.reason}"
                store.put_rows(fingerprint, [failed_for_now(cases.pop(0), reason)])
                advance()
            submit(cases, 1 if event.out_of_memory else _FACTS_PER_JOB)
    return edits


def _average(study: Study, model: str, fingerprint: str, rows: Sequence[Row]) -> AverageTrace:
    """The average over the facts that the model knows."""
    known = [row for row in rows if row.status == "done" and row.scores["predicted"]]
    by_kind: dict[str, list[_Effects]] = {}
    for row in known:
        for kind, effects in _effects_of(row).items():
            by_kind.setdefault(kind, []).append(effects)
    by_kind = {kind: by_kind[kind] for kind in sorted(by_kind, key=_order_of)}
    window = getattr(study.adapted.config, "window", None)
    names = ("clean", "corrupted", "total_effect")
    columns = {key: [row.scores[key] for row in known if key in row.scores] for key in names}
    return AverageTrace(
        model=model,
        locator=study.adapted.identity["locator"],
        facts=study.source,
        setting=study.setting,
        fingerprint=fingerprint,
        effects={
            kind: average_by_role([each.by_role for each in effects])
            for kind, effects in by_kind.items()
        },
        largest={
            kind: average_largest(
                [each.largest for each in effects], [each.corrupted for each in effects]
            )
            for kind, effects in by_kind.items()
        },
        baselines={
            key: mean_of_effects(values, signed=key == "total_effect")
            for key, values in columns.items()
            if values
        },
        known=len(known),
        unknown=sum(row.status == "done" and not row.scores["predicted"] for row in rows),
        failed={row.case_id: str(row.error) for row in rows if row.status == "failed"},
        finished=max((row.completed_at for row in rows), default=0.0),
        windows={} if window is None else {kind: window for kind in by_kind if kind in WINDOWS},
    )


# ---------------------------------------------------------------- rows


@dataclasses.dataclass(frozen=True)
class _Effects:
    """A fact's effects for one kind of site, as read from its row."""

    by_role: Mapping[str, Sequence[Sequence[float]]]
    largest: Mapping[str, float]
    corrupted: float | None


def _effects_of(row: Row) -> dict[str, _Effects]:
    """A row's effects by kind of site.

    Raises:
        KeyError: A key of the details is missing.
        ValueError: A list in the details has the wrong length.
    """
    details: dict[str, dict[str, list[float]]] = {}
    for key, numbers in row.details.items():
        kind, _, role = key.partition(SEPARATOR)
        details.setdefault(kind, {})[role] = list(numbers)
    effects = {}
    for kind, roles in details.items():
        [layers] = roles.pop(LAYERS)
        if (n := int(layers)) < 1:
            raise ValueError(f"the number of layers is {layers}")
        largest = dict(zip(PLACES, roles.pop(LARGEST), strict=True))
        by_role = {
            role: [numbers[i : i + n] for i in range(0, len(numbers), n)]
            for role, numbers in roles.items()
        }
        effects[kind] = _Effects(by_role, largest, row.scores.get("corrupted"))
    return effects


def _order_of(kind: str) -> int:
    kinds = get_args(Kind)
    return kinds.index(kind) if kind in kinds else len(kinds)


def _valid_rows(store: Store, fingerprint: str, n_facts: int, n_layers: int) -> list[Row]:
    """The stored traces; other rows are left out with a warning, so their facts run again."""
    valid, problems = [], []
    for row in store.rows(fingerprint):
        if problem := _problem(row, n_facts, n_layers):
            problems.append(f"fact {row.case_id}: {problem}")
        else:
            valid.append(row)
    if problems:
        _log.warning(
            "%s: %d rows of cell %s are not valid traces and are left out (%s).",
            *(store.path, len(problems), fingerprint[:12], problems[0]),
        )
    return valid


def _problem(row: Row, n_facts: int, n_layers: int) -> str | None:
    """Why a row is not a trace of one of the facts; None if it is."""
    if not 0 <= row.case_id < n_facts:
        return f"expected a number below {n_facts}, the number of facts"
    if row.status == "failed":
        return None
    predicted = row.scores.get("predicted")
    if predicted not in (0, 1):
        return f"predicted is {predicted!r}, expected 0 or 1"
    if not predicted:
        return None
    try:
        effects = _effects_of(row)
    except (KeyError, ValueError) as error:
        return f"its details are inconsistent ({type(error).__name__}: {error})"
    if not effects:
        return "it has no effects"
    widths = {
        len(layers)
        for each in effects.values()
        for rows in each.by_role.values()
        for layers in rows
    }
    if widths != {n_layers}:
        return f"its effects have {sorted(widths)} layers, expected {n_layers}"
    return None
