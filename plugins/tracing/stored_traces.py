"""Traces of many facts. Each is a row of the result store, so an interrupted run resumes."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from editkit import (
    EditkitError,
    Editor,
    EditRequest,
    Fact,
    Localization,
    Locator,
    WeightDelta,
    applied,
)
from editkit.benchmark.dependencies import dependencies
from editkit.benchmark.environment import record_environment
from editkit.benchmark.store import Store
from editkit.editing.delta_effects import Effects
from editkit.editing.outcomes import BASELINE, Edit, outcomes_of, unwatched
from editkit.models import LanguageModel
from editkit.progress import counting
from editkit.registry.random_state import seeded
from editkit.results import STORE_FILE, Row
from editkit.storage.digests import key_of
from editkit_plugins.tracing.averages import (
    PLACES,
    AverageTrace,
    average_by_role,
    average_largest,
    effects_by_role,
    largest_effects,
    mean_of_effects,
)
from editkit_plugins.tracing.config import Averaging, CausalTracingConfig, Kind
from editkit_plugins.tracing.tokenized_facts import tokenize_facts

_FACTS_PER_COMMIT = 5
_SEPARATOR = "/"
_LAYOUT = 2  # of a row's details; facts with rows of another layout are traced again
_LAYERS, _LARGEST = "layers", "largest"  # keys of the details, next to the roles
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EditBefore:
    """An edit before each fact's trace, undone after it.

    Attributes:
        name: Name of the editor.
        editor: The prepared editor.
        requests: The edits, one per fact.
    """

    name: str
    editor: Editor[Any]
    requests: Sequence[EditRequest]

    def describe(self, model_fingerprint: str) -> dict[str, Any]:
        """Everything that the edits depend on, as plain data."""
        config = self.editor.config
        return {
            "editor": self.name,
            "config": config.model_dump(mode="json"),
            "depends_on": dependencies(config, model_fingerprint, name=self.name),
            "requests": key_of({"requests": [each.to_dict() for each in self.requests]}),
        }

    def delta(self, model: LanguageModel, case: int) -> WeightDelta:
        """The edit of a case. Its random numbers depend on the case alone.

        Raises:
            EditkitError: The editor fails.
        """
        with seeded("trace", case), unwatched():  # failed edits are reported once for all cases
            [delta] = self.editor.edit(model, [self.requests[case]])
        return delta


def average_trace(
    model: LanguageModel,
    locator_name: str,
    locator: Locator[Any],
    facts: Sequence[Fact],
    out: Path,
    edit: EditBefore | None = None,
    *,
    source: str = "",
    setting: str = "",
) -> AverageTrace:
    """Trace the facts that the store lacks, and average over all that the model knows.

    Args:
        model: The model.
        locator_name: Name of the locator.
        locator: The locator.
        facts: The facts.
        out: Folder of the store.
        edit: An edit before each fact.
        source: Where the facts are from, for readers.
        setting: Name of the setting, for readers.
    """
    locator = locator.for_facts(model, facts)
    identity = identity_of(model, locator_name, locator, facts, edit)
    fingerprint = key_of(identity)
    with Store(out / STORE_FILE) as store:
        store.put_cell(fingerprint, identity)
        record_environment(model.describe(), store, [fingerprint])
        stored = {row.case_id for row in _valid_rows(store, fingerprint, len(facts), model)}
        missing = [case for case in range(len(facts)) if case not in stored]
        edits: list[Edit] = []
        title = f"tracing {setting or source}".rstrip()
        with counting(title, len(facts), unit="fact", done=len(stored)) as advance:
            for start in range(0, len(missing), _FACTS_PER_COMMIT):
                cases = missing[start : start + _FACTS_PER_COMMIT]
                rows = [
                    _trace(model, locator, case, facts[case])
                    if edit is None
                    else _trace_after(edit, edits, model, locator, case, facts[case])
                    for case in cases
                ]
                store.put_rows(fingerprint, rows)
                advance(len(cases))
        if edit is not None and edit.name != BASELINE and (summary := outcomes_of(edits).summary):
            _log.warning("%s: %s", edit.name, summary)
        rows = _valid_rows(store, fingerprint, len(facts), model)
    known = [row for row in rows if row.status == "done" and row.scores["predicted"]]
    by_kind: dict[str, list[_Effects]] = {}
    for row in known:
        for kind, effects in _effects_of(row).items():
            by_kind.setdefault(kind, []).append(effects)
    by_kind = {kind: by_kind[kind] for kind in sorted(by_kind, key=_order_of)}
    names = ("clean", "corrupted", "total_effect")
    columns = {key: [row.scores[key] for row in known if key in row.scores] for key in names}
    return AverageTrace(
        model=model.name,
        locator=locator_name,
        facts=source,
        setting=setting,
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
    )


def identity_of(
    model: LanguageModel,
    locator_name: str,
    locator: Locator[Any],
    facts: Sequence[Fact],
    edit: EditBefore | None = None,
) -> dict[str, Any]:
    """Everything that stored traces depend on, as plain data."""
    config = locator.config.model_dump(mode="json")
    if isinstance(locator.config, CausalTracingConfig):
        config["plain"] = False  # a former field: traces that were stored with it are still used
    return {
        **({} if edit is None else {"after": edit.describe(model.base_fingerprint)}),
        "kind": "trace",
        "layout": _LAYOUT,
        "model": {"name": model.name, **model.describe()},
        "locator": locator_name,
        "config": config,
        "depends_on": dependencies(locator.config, model.base_fingerprint, name=locator_name),
        "version": importlib.metadata.version("editkit"),
        "facts": key_of({"facts": [list(each.to_dict().values()) for each in facts]}),
    }


# ---------------------------------------------------------------- a fact as a row


def _trace_after(
    edit: EditBefore,
    edits: list[Edit],
    model: LanguageModel,
    locator: Locator[Any],
    case: int,
    fact: Fact,
) -> Row:
    """Trace a fact after its edit, and append the edit's outcome to ``edits``."""
    try:
        delta = edit.delta(model, case)
    except EditkitError as error:
        return Row(case, "failed", error=error.message, completed_at=time.time())
    edits.append(Edit(f"case {case}", {**Effects(model).of(delta), **delta.notes}))
    with applied(model, delta):
        return _trace(model, locator, case, fact)


def _trace(model: LanguageModel, locator: Locator[Any], case: int, fact: Fact) -> Row:
    """Trace a fact; if the model does not know it or it cannot be traced, the row says so."""
    try:
        [tokenized] = tokenize_facts(model, [fact])
        if not tokenized.predicted:
            return Row(case, "done", {"predicted": 0.0}, completed_at=time.time())
        [maps] = locator.maps(model, [fact])
    except EditkitError as error:
        return Row(case, "failed", error=error.message, completed_at=time.time())
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
        prefix = f"{localization.kind}{_SEPARATOR}"
        details[f"{prefix}{_LAYERS}"] = [float(len(localization.scores[0]))]
        largest = largest_effects(localization)
        details[f"{prefix}{_LARGEST}"] = [largest[place] for place in PLACES]
        for role, rows in effects_by_role(localization, averaging).items():
            details[f"{prefix}{role}"] = [effect for row in rows for effect in row]
    return details


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
        kind, _, role = key.partition(_SEPARATOR)
        details.setdefault(kind, {})[role] = list(numbers)
    effects = {}
    for kind, roles in details.items():
        [layers] = roles.pop(_LAYERS)
        if (n := int(layers)) < 1:
            raise ValueError(f"the number of layers is {layers}")
        largest = dict(zip(PLACES, roles.pop(_LARGEST), strict=True))
        by_role = {
            role: [numbers[i : i + n] for i in range(0, len(numbers), n)]
            for role, numbers in roles.items()
        }
        effects[kind] = _Effects(by_role, largest, row.scores.get("corrupted"))
    return effects


def _order_of(kind: str) -> int:
    kinds = get_args(Kind)
    return kinds.index(kind) if kind in kinds else len(kinds)


def _valid_rows(store: Store, fingerprint: str, n_facts: int, model: LanguageModel) -> list[Row]:
    """The stored traces; other rows are left out with a warning, so their facts run again."""
    valid, problems = [], []
    for row in store.rows(fingerprint):
        if problem := _problem(row, n_facts, model.n_layers):
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
