"""Reading facts: ParaRel's layout, or one of our own, relation by relation.

ParaRel (Elazar et al. 2021)::

    {"P17": {"patterns": [{"pattern": "[X] is located in [Y] ."}],
             "facts": [{"sub_label": "Darmstadt", "obj_label": "Germany"}]}}

Our own, where all but wordings, subject and object may be left out::

    {"P17": {"wordings": ["{} lies within the country of"], "generation": ["Visitors of {} see"],
             "facts": [{"subject": "Darmstadt", "object": "Germany", "group": "city",
                        "wordings": [...], "rephrasings": [...]}]}}
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from editkit import DatasetError, RejectedRecord
from editkit.records.reading import BrokenFieldError, Node, read_json
from editkit.storage.resources import resource_text
from editkit_plugins.counterfact.compiling.facts import Fact, FactTable, Relation

_SUBJECT, _OBJECT = "[X]", "[Y]"
_ENDS_AT_OBJECT = re.compile(r"(?P<before>[^[\]]*\[X\][^[\]]*)\[Y\]\s*[.!?]?\s*")
_SPACES = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file of facts holds.

    Attributes:
        table: The facts that can be used.
        rejected: Broken ones, each with its place and what is wrong.
        unusable: Relations without facts, or with fewer than two wordings that end at the object.
        no_openings: Relations that have no generation prompts.
    """

    table: FactTable
    rejected: tuple[RejectedRecord, ...]
    unusable: tuple[str, ...]
    no_openings: tuple[str, ...]


def read_facts(
    path: Path,
    *,
    only: tuple[str, ...] = (),
    openings: Mapping[str, tuple[str, ...]] | None = None,
) -> Facts:
    """Read a file of facts; of facts that occur twice, the first one counts.

    Args:
        path: A JSON file, or one compressed with gzip.
        only: Identifiers of the relations that are wanted; none: all.
        openings: Generation prompts by relation, for those that bring none; by default those that
            come with editkit.

    Raises:
        DatasetError: The file cannot be read, no relation of it can be used, or one that is wanted
            is not there.
    """
    content = read_json(path, "file of facts")
    if not isinstance(content, Mapping) or not content:
        raise DatasetError(
            f"file of facts {str(path)!r} holds no relations, expected an object of them.",
            hint="docs/datasets.md shows the two layouts that can be read.",
        )
    if missing := [name for name in only if name not in content]:
        raise DatasetError(
            f"file of facts {str(path)!r} has no relation {missing[0]!r}.",
            hint=f"It has {', '.join(list(content)[:50])}.",
        )
    openings = shipped_openings() if openings is None else openings
    relations: dict[str, Relation] = {}
    facts: dict[tuple[str, str, str], Fact] = {}
    rejected: list[RejectedRecord] = []
    place = -1
    for name in content:
        wanted = not only or name in only
        try:
            node = Node(content[name], name)
            relation = _relation(name, node, openings)
            items = node["facts"].items()
        except BrokenFieldError as broken:
            rejected += [RejectedRecord(name, broken.field, broken.reason)] if wanted else []
            continue
        for item in items:
            place += 1  # the same number, whatever relations are wanted
            if not wanted:
                continue
            try:
                fact = _fact(relation, item, place)
            except BrokenFieldError as broken:
                rejected.append(RejectedRecord(name, broken.field, broken.reason))
            else:
                facts.setdefault((fact.subject, name, fact.object), fact)
        if wanted:
            relations[name] = relation
    said = {name: set(relation.wordings) for name, relation in relations.items()}
    held = set()
    for fact in facts.values():
        held.add(fact.relation)
        said[fact.relation].update(fact.wordings, fact.rephrasings)
    unusable = tuple(
        name
        for name in relations
        if name not in held or not relations[name].wordings or len(said[name]) < 2
    )
    used = {name: of for name, of in relations.items() if name not in unusable}
    if not used:
        reason = f" ({rejected[0].field}: {rejected[0].reason})" if rejected else ""
        raise DatasetError(
            f"file of facts {str(path)!r} has no relation that can be used{reason}.",
            hint="A relation needs facts, and wordings that end right before the object.",
        )
    return Facts(
        FactTable(used, tuple(fact for fact in facts.values() if fact.relation in used)),
        tuple(rejected),
        unusable,
        tuple(name for name, relation in used.items() if not relation.generation),
    )


def read_openings(path: Path) -> dict[str, tuple[str, ...]]:
    """Read generation prompts: relation -> texts with one ``{}`` for the subject.

    Raises:
        DatasetError: The file cannot be read, or one of its texts is broken.
    """
    root = Node(read_json(path, "file of generation prompts"))
    try:
        return dict(_openings(root))
    except BrokenFieldError as broken:
        raise DatasetError(
            f"file of generation prompts {str(path)!r}: {broken}.",
            hint="Expected an object of lists: relation -> texts with one '{}' for the subject.",
        ) from None


@cache
def shipped_openings() -> Mapping[str, tuple[str, ...]]:
    """Generation prompts for the relations of ParaRel, in our own words."""
    text = resource_text("editkit_plugins.counterfact.compiling:generation.json")
    return dict(_openings(Node(json.loads(text))))


def _openings(root: Node) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not isinstance(root.value, Mapping):
        raise root.error(f"is {root}, expected an object")
    for name in root.value:
        yield name, tuple(item.template() for item in root[name].items())


def _relation(name: str, node: Node, openings: Mapping[str, tuple[str, ...]]) -> Relation:
    patterns = node.get("patterns")
    if patterns is not None:
        texts = [item["pattern"].text() for item in patterns.items()]
        wordings = list(filter(None, map(wording_of, texts)))
    else:
        wordings = [item.template() for item in node["wordings"].items()]
    own = node.get("generation")
    generation = openings.get(name, ()) if own is None else [i.template() for i in own.items()]
    return Relation(name, tuple(dict.fromkeys(wordings)), tuple(generation))


def wording_of(pattern: str) -> str | None:
    """The prompt that a pattern of ParaRel makes; None where it does not end at its object."""
    found = _ENDS_AT_OBJECT.fullmatch(pattern)
    if found is None or pattern.count(_SUBJECT) != 1 or "{}" in pattern:
        return None
    return _SPACES.sub(" ", found["before"]).replace(_SUBJECT, "{}").strip()


def _fact(relation: Relation, item: Node, place: int) -> Fact:
    is_pararel = item.get("sub_label") is not None
    subject = item["sub_label" if is_pararel else "subject"]
    value = item["obj_label" if is_pararel else "object"].text().strip()
    name = subject.text().strip()
    if "{}" in name:
        raise subject.error(f"is {subject}, which holds '{{}}', the mark of the subject's place")
    group = item.get("group")
    return Fact(
        name,
        relation.id,
        value,
        place,
        group="" if group is None else group.text(),
        wordings=_templates(item, "wordings"),
        rephrasings=_templates(item, "rephrasings"),
    )


def _templates(item: Node, key: str) -> tuple[str, ...]:
    node = item.get(key)
    return () if node is None else tuple(each.template() for each in node.items())
