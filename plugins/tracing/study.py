"""Tracing many facts: each one a row of the result store, so that nothing is traced twice."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
from editkit.benchmark.isolation import seeded
from editkit.benchmark.store import Store
from editkit.editing.effects import Effects
from editkit.editing.outcomes import BASELINE, Edit, outcomes_of, unwatched
from editkit.models import LanguageModel
from editkit.results import STORE_FILE, Row
from editkit.storage.digests import key_of
from editkit_plugins.tracing.averages import (
    PLACES,
    Largest,
    Mean,
    averaged,
    averaged_largest,
    by_role,
    largest,
    mean_of,
)
from editkit_plugins.tracing.config import Averaging, Kind
from editkit_plugins.tracing.questions import questions

_TOGETHER = 5  # facts traced between two visits to the store
_SEPARATOR = "/"
_LAYOUT = 2  # of a row's details; rows of another are traced anew
_LAYERS, _LARGEST = "layers", "largest"  # keys beside the roles
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Study:
    """Averages over the facts that a model knows.

    Attributes:
        fingerprint: Digest of everything that they depend on.
        kinds: By kind of site: means by role and layer.
        largest: By kind of site and place: means of each fact's largest effect.
        baselines: Means of ``clean``, ``corrupted`` and ``total_effect``.
        known: Facts that they are over.
        unknown: Facts whose answer the model does not predict; left out.
        failed: What is wrong with facts that could not be traced, by case.
        finished: When the last fact was done, in seconds since the epoch.
    """

    fingerprint: str
    kinds: Mapping[str, Mapping[str, Sequence[Mean]]]
    largest: Mapping[str, Mapping[str, Largest]]
    baselines: Mapping[str, Mean]
    known: int
    unknown: int
    failed: Mapping[int, str]
    finished: float

    def why_empty(self, model: str, facts: str) -> str:
        """What to say where there is no average.

        Args:
            model: Name of the model.
            facts: Where the facts are from.
        """
        total = self.unknown + len(self.failed)
        why = f"{model} predicts none of the {total} facts of {facts}"
        if self.failed:
            reason = next(iter(self.failed.values()))
            why = f"none of the {total} facts of {facts} could be traced on {model}: "
            why += f"{self.unknown} are not known to it, {len(self.failed)} failed ({reason})"
        return f"{why}."


@dataclasses.dataclass(frozen=True)
class Edits:
    """An edit before every fact, each alone and taken back after it.

    Attributes:
        name: Name of the editor.
        editor: The editor, prepared.
        requests: What is edited, one for each fact.
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
        """The edit of a case: the same whatever was edited, interrupted or drawn before it.

        Raises:
            EditkitError: It cannot be made.
        """
        with seeded("trace", case), unwatched():  # what did not work is reported once for all
            [delta] = self.editor.edit(model, [self.requests[case]])
        return delta


def identity_of(
    model: LanguageModel,
    name: str,
    locator: Locator[Any],
    facts: Sequence[Fact],
    edits: Edits | None = None,
) -> dict[str, Any]:
    """Everything that the rows of a study depend on, as plain data."""
    after = {} if edits is None else {"after": edits.describe(model.base_fingerprint)}
    return {
        **after,
        "kind": "trace",
        "layout": _LAYOUT,
        "model": {"name": model.name, **model.describe()},
        "locator": name,
        "config": locator.config.model_dump(mode="json"),
        "depends_on": dependencies(locator.config, model.base_fingerprint, name=name),
        "version": importlib.metadata.version("editkit"),
        "facts": key_of({"facts": [list(each.to_dict().values()) for each in facts]}),
    }


def study(
    model: LanguageModel,
    name: str,
    locator: Locator[Any],
    facts: Sequence[Fact],
    out: Path,
    report: Callable[[int], None] = lambda done: None,
    edits: Edits | None = None,
) -> Study:
    """Trace what is not traced yet, and average.

    Args:
        model: The model.
        name: Name of the locator.
        locator: The locator.
        facts: All facts; those whose answer the model does not predict are left out.
        out: Folder of the store.
        report: Told after every few facts how many are done.
        edits: What is edited before each fact.
    """
    locator = locator.for_facts(model, facts)
    identity = identity_of(model, name, locator, facts, edits)
    fingerprint = key_of(identity)
    with Store(out / STORE_FILE) as store:
        store.put_cell(fingerprint, identity)
        record_environment(model.describe(), store, [fingerprint])
        stored = {row.case_id for row in _sound(store, fingerprint, len(facts), model.n_layers)}
        left = [case for case in range(len(facts)) if case not in stored]
        made: list[Edit] = []
        report(len(facts) - len(left))
        for start in range(0, len(left), _TOGETHER):
            cases = left[start : start + _TOGETHER]
            rows = [
                _row(model, locator, case, facts[case])
                if edits is None
                else _edited_row(model, locator, case, facts[case], edits, made)
                for case in cases
            ]
            store.put_rows(fingerprint, rows)
            report(len(facts) - len(left) + start + len(cases))
        if edits is not None and edits.name != BASELINE and (summary := outcomes_of(made).summary):
            _log.warning("%s: %s", edits.name, summary)
        return _study(fingerprint, _sound(store, fingerprint, len(facts), model.n_layers))


def _edited_row(
    model: LanguageModel,
    locator: Locator[Any],
    case: int,
    fact: Fact,
    edits: Edits,
    made: list[Edit],
) -> Row:
    """A fact after its edit, which joins those that are ``made``."""
    try:
        delta = edits.delta(model, case)
    except EditkitError as error:
        return Row(case, "failed", error=error.message, completed_at=time.time())
    made.append(Edit(f"case {case}", {**Effects(model).of(delta), **delta.notes}))
    with applied(model, delta):
        return _row(model, locator, case, fact)


def _row(model: LanguageModel, locator: Locator[Any], case: int, fact: Fact) -> Row:
    """One fact: traced, unknown to the model, or not to be traced."""
    try:
        [question] = questions(model, [fact])
        if not question.predicted:
            return Row(case, "done", {"predicted": 0.0}, completed_at=time.time())
        [maps] = locator.maps(model, [fact])
        maps = tuple(dataclasses.replace(each, subject=question.subject) for each in maps)
    except EditkitError as error:
        return Row(case, "failed", error=error.message, completed_at=time.time())
    baselines = dict(maps[0].baselines)
    scores = {"predicted": 1.0, **baselines}
    if {"clean", "corrupted"} <= baselines.keys():
        scores["total_effect"] = baselines["clean"] - baselines["corrupted"]
    averaging = getattr(locator.config, "averaging", "by_fact")
    details = _details(maps, averaging)
    return Row(case, "done", scores, details=details, completed_at=time.time())


def _details(maps: Sequence[Localization], averaging: Averaging) -> dict[str, list[float]]:
    """By kind: the number of layers, the largest effects, and by role the effects, in one list."""
    details: dict[str, list[float]] = {}
    for found in maps:
        at = f"{found.kind}{_SEPARATOR}"
        details[f"{at}{_LAYERS}"] = [float(len(found.scores[0]))]
        details[f"{at}{_LARGEST}"] = [largest(found)[place] for place in PLACES]
        for role, rows in by_role(found, averaging).items():
            details[f"{at}{role}"] = [effect for row in rows for effect in row]
    return details


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What the row of a fact says about one kind of site."""

    roles: Mapping[str, Sequence[Sequence[float]]]
    largest: Mapping[str, float]
    corrupted: float | None


def _sound(store: Store, fingerprint: str, n_facts: int, n_layers: int) -> list[Row]:
    """The rows of a study; those that none writes are warned of, left out, and traced anew."""
    sound, problems = [], []
    for row in store.rows(fingerprint):
        if problem := _problem(row, n_facts, n_layers):
            problems.append(f"fact {row.case_id}: {problem}")
        else:
            sound.append(row)
    if problems:
        _log.warning(
            "%s: %d rows of cell %s are no traces and are left out (%s).",
            *(store.path, len(problems), fingerprint[:12], problems[0]),
        )
    return sound


def _problem(row: Row, n_facts: int, n_layers: int) -> str | None:
    """Why a row is not one of a study of so many facts and layers; None where it is."""
    if not 0 <= row.case_id < n_facts:
        return f"there are {n_facts} facts"
    if row.status == "failed":
        return None
    predicted = row.scores.get("predicted")
    if predicted not in (0, 1):
        return f"predicted is {predicted!r}, expected 0 or 1"
    if not predicted:
        return None
    try:
        kinds = _kinds(row)
    except (KeyError, ValueError) as error:
        return f"its details do not fit together ({type(error).__name__}: {error})"
    if not kinds:
        return "it has no effects"
    widths = {len(each) for kind in kinds.values() for rows in kind.roles.values() for each in rows}
    if widths != {n_layers}:
        return f"its effects are of {sorted(widths)} layers, expected {n_layers}"
    return None


def _kinds(row: Row) -> dict[str, _Kind]:
    """What a row says about each kind of site.

    Raises:
        KeyError: A part is missing.
        ValueError: A part has another length.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for key, numbers in row.details.items():
        kind, _, role = key.partition(_SEPARATOR)
        values.setdefault(kind, {})[role] = list(numbers)
    found = {}
    for kind, roles in values.items():
        [layers] = roles.pop(_LAYERS)
        if (n := int(layers)) < 1:
            raise ValueError(f"it is of {layers} layers")
        of_place = dict(zip(PLACES, roles.pop(_LARGEST), strict=True))
        rows = {
            role: [numbers[i : i + n] for i in range(0, len(numbers), n)]
            for role, numbers in roles.items()
        }
        found[kind] = _Kind(rows, of_place, row.scores.get("corrupted"))
    return found


def _place(kind: str) -> int:
    kinds = get_args(Kind)
    return kinds.index(kind) if kind in kinds else len(kinds)


def _study(fingerprint: str, rows: Sequence[Row]) -> Study:
    known = [row for row in rows if row.status == "done" and row.scores["predicted"]]
    facts: dict[str, list[_Kind]] = {}
    for row in known:
        for kind, of_fact in _kinds(row).items():
            facts.setdefault(kind, []).append(of_fact)
    ordered = {kind: facts[kind] for kind in sorted(facts, key=_place)}
    names = [key for key in ("clean", "corrupted", "total_effect") if known]
    columns = {key: [r.scores[key] for r in known if key in r.scores] for key in names}
    return Study(
        fingerprint=fingerprint,
        kinds={kind: averaged([f.roles for f in some]) for kind, some in ordered.items()},
        largest={
            kind: averaged_largest([f.largest for f in some], [f.corrupted for f in some])
            for kind, some in ordered.items()
        },
        baselines={key: mean_of(values) for key, values in columns.items() if values},
        known=len(known),
        unknown=sum(row.status == "done" and not row.scores["predicted"] for row in rows),
        failed={row.case_id: str(row.error) for row in rows if row.status == "failed"},
        finished=max((row.completed_at for row in rows), default=0.0),
    )
