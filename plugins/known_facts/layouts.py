"""The layouts in which known facts are written, each with where they come from.

``prompts`` is a list of facts like ``known_1000.json``, ``relations`` has facts and wordings by
relation, ``counterfact`` has the records that edit the facts. Every fact or relation has the
additional key ``known``: model, rule and probability. Readers ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from editkit import Fact, Probe, Record, UsageError
from editkit.records.facts import Facts, SourcedFact
from editkit.records.relations import FactTable, RelationFact
from editkit_plugins.known_facts.choices import Layout
from editkit_plugins.known_facts.collecting import Collection, Known

_RECORD_KEYS = (
    "case_id",
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "generation_prompts",
)
_PROBES = ("paraphrase", "neighborhood", "attribute")


def check_layout(layout: Layout, facts: Sequence[SourcedFact], source: str) -> None:
    """Refuse a layout in which none of the facts can be written.

    Raises:
        UsageError: The source has no relations or no records.
    """
    if layout == "relations" and not any(each.relation and each.wordings for each in facts):
        raise UsageError(
            f"the facts of {source} have no relations, which the layout relations needs.",
            hint="Give each fact a relation_id, or use --layout prompts.",
        )
    if layout == "counterfact" and not any(_record(each) for each in facts):
        raise UsageError(
            f"{source} has no records in CounterFact's layout, so none can be written.",
            hint="Use --layout relations, then compile records from that file with 'editkit "
            "compile-dataset --facts FILE'.",
        )


def left_out(layout: Layout, known: Sequence[Known]) -> int:
    """Number of known facts that a layout cannot hold."""
    if layout == "relations":
        return sum(not (each.sourced.relation and each.wordings) for each in known)
    if layout == "counterfact":
        return sum(_record(each.sourced) is None or not each.wordings for each in known)
    return 0


def written(
    layout: Layout, facts: Facts, collection: Collection, provenance: Mapping[str, Any]
) -> str:
    """The known facts as JSON text, one fact per line.

    Args:
        layout: The layout.
        facts: The source.
        collection: What the model knows of it.
        provenance: Model and rule.
    """
    if layout == "relations":
        relations = _relations(facts, collection, provenance)
        return _braced("{}", [f"{_line(name)}: {of}" for name, of in relations.items()])
    entry = _prompt if layout == "prompts" else _counterfact
    entries: list[str] = []
    for each in collection.known:
        content = entry(each, len(entries))
        if content is not None:
            known = {**provenance, "probability": round(each.probability, 4)}
            entries.append(_line({**content, **_asked(each.fact), "known": known}))
    return _braced("[]", entries)


def _braced(braces: str, lines: Sequence[str]) -> str:
    return f"{braces[0]}\n" + ",\n".join(lines) + f"\n{braces[1]}\n"


def _line(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def _asked(fact: Fact) -> dict[str, Any]:
    """How a fact is asked, where this differs from the default."""
    values = {"separator": fact.separator, "chat": fact.chat or None}
    return {key: value for key, value in values.items() if value is not None}


# ---------------------------------------------------------------- prompts


def _prompt(known: Known, number: int) -> dict[str, Any]:
    """As in ``known_1000.json``."""
    fact = known.fact
    content = {
        "known_id": number,
        "subject": fact.subject,
        "attribute": fact.answer,
        "template": known.template,
        "prediction": known.text or None,
        "prompt": fact.prompt,
        "relation_id": known.sourced.relation,
    }
    return {key: value for key, value in content.items() if value is not None}


# ---------------------------------------------------------------- relations


def _relations(
    facts: Facts, collection: Collection, provenance: Mapping[str, Any]
) -> dict[str, str]:
    """Relation -> its JSON, with one line per fact."""
    wordings: dict[str, dict[str, None]] = {}
    for sourced in facts.sourced:
        wordings.setdefault(sourced.relation or "", {}).update(dict.fromkeys(sourced.wordings))
    by_relation: dict[str, list[Known]] = {}
    for known in collection.known:
        if known.sourced.relation and known.wordings:
            by_relation.setdefault(known.sourced.relation, []).append(known)
    origins = _origins(facts.table)
    texts = {}
    for name, group in by_relation.items():
        of_relation = list(wordings[name])
        head: dict[str, Any] = {"wordings": of_relation}
        if facts.table is not None:
            head["wordings"] = list(facts.table.relations[name].wordings)
            generation = facts.table.relations[name].generation
            head |= {"generation": list(generation)} if generation else {}
        head["known"] = {**provenance, "asked": collection.asked[name], "known": len(group)}
        lines = [
            _line(_relation_fact(each, of_relation, origins.get(_key(each.sourced))))
            for each in group
        ]
        joined = ",\n  ".join(lines)
        texts[name] = f'{_line(head)[:-1]}, "facts": [\n  {joined}]}}'
    return texts


def _relation_fact(
    known: Known, wordings: Sequence[str], origin: RelationFact | None
) -> dict[str, Any]:
    """Rewritten only in wordings that recall it, paraphrased in all of its relation's."""
    content: dict[str, Any] = {"subject": known.fact.subject, "object": known.fact.answer}
    rephrasings: Sequence[str] = wordings
    if origin is not None:
        content |= {"group": origin.group} if origin.group else {}
        rephrasings = origin.rephrasings or origin.wordings or wordings
    return {
        **content,
        "wordings": list(known.wordings),
        "rephrasings": list(rephrasings),
        "probability": round(known.probability, 4),
    }


def _key(sourced: SourcedFact) -> tuple[str, str | None, str | None]:
    return sourced.fact.subject, sourced.relation, sourced.fact.answer


def _origins(
    table: FactTable | None,
) -> Mapping[tuple[str, str | None, str | None], RelationFact]:
    facts = () if table is None else table.facts
    return {(each.subject, each.relation, each.object): each for each in facts}


# ---------------------------------------------------------------- counterfact


def _counterfact(known: Known, _: int) -> dict[str, Any] | None:
    """The fact's record, with the prompt after which the model writes the true object."""
    record = _record(known.sourced)
    if record is None or not known.wordings:
        return None
    content = record()
    rewrite = {**content["requested_rewrite"], "prompt": known.wordings[0]}
    return {**content, "requested_rewrite": rewrite}


def _record(sourced: SourcedFact) -> Callable[[], Mapping[str, Any]] | None:
    """Makes a fact's record in CounterFact's layout. None if there is none."""
    record = sourced.record
    if isinstance(record, Record):
        return (lambda: _as_counterfact(record)) if _is_counterfact(record) else None
    if record is None or any(key not in record for key in _RECORD_KEYS):
        return None
    return lambda: record


def _is_counterfact(record: Record) -> bool:
    """Whether it is one edit, and all probes choose between its two objects, as CounterFact's."""
    objects = record.request.target_true, record.request.target_new
    return (
        record.request.target_true is not None
        and not record.also
        and all(
            (probe.target_true, probe.target_new) == objects
            for kind in _PROBES
            for probe in record.probes.get(kind, ())
        )
    )


def _as_counterfact(record: Record) -> dict[str, Any]:
    request = record.request
    return {
        "case_id": record.case_id,
        "requested_rewrite": {
            "prompt": request.prompt,
            "relation_id": request.relation_id,
            "target_new": {"str": request.target_new},
            "target_true": {"str": request.target_true},
            "subject": request.subject,
        },
        **{f"{kind}_prompts": _prompts(record.probes.get(kind, ())) for kind in _PROBES},
        "generation_prompts": list(record.texts.get("generation", ())),
        **_same_subject(record.probes.get("same_subject")),
    }


def _prompts(probes: Sequence[Probe]) -> list[str]:
    return [probe.prompt for probe in probes]


def _same_subject(probes: Sequence[Probe] | None) -> dict[str, Any]:
    if probes is None:
        return {}
    return {
        "same_subject_prompts": [
            {
                "prompt": probe.prompt,
                "target_true": {"str": probe.target_true},
                "target_other": {"str": probe.target_new},
            }
            for probe in probes
        ]
    }
