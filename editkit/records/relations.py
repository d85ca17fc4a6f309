"""Facts and the wordings of their relations, from a file in one of two layouts.

ParaRel's (Elazar et al. 2021)::

    {"P17": {"patterns": [{"pattern": "[X] is located in [Y] ."}],
             "facts": [{"sub_label": "Darmstadt", "obj_label": "Germany"}]}}

Ours. Everything is optional except the relation's wordings and facts, and a fact's subject and
object::

    {"P17": {"wordings": ["{} lies within the country of"], "generation": ["Visitors of {} see"],
             "facts": [{"subject": "Darmstadt", "object": "Germany", "group": "city",
                        "wordings": [...], "rephrasings": [...]}]}}
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from editkit.data_types import RejectedRecord
from editkit.errors import DatasetError, did_you_mean
from editkit.records.reading import BrokenFieldError, Node, read_json

__all__ = [
    "FactTable",
    "Relation",
    "RelationFact",
    "RelationFile",
    "check_relations",
    "parse_relations",
    "read_relations",
    "wording_of",
]

_SUBJECT, _OBJECT = "[X]", "[Y]"
_ENDS_AT_OBJECT = re.compile(r"(?P<before>[^[\]]*\[X\][^[\]]*)\[Y\]\s*[.!?]?\s*")
_SPACES = re.compile(r"\s+")
_MAX_LISTED = 50  # relations in a message


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation and its prompts. Every prompt ends right before the object.

    Attributes:
        id: Its identifier, such as ``P17``.
        wordings: Prompts with one ``{}`` for the subject.
        generation: Generation prompts, with one ``{}`` each.
    """

    id: str
    wordings: tuple[str, ...]
    generation: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RelationFact:
    """One (subject, relation, object).

    Attributes:
        subject: Name of the subject.
        relation: Identifier of the relation.
        object: Name of the object.
        place: Number of the fact in its source.
        group: Kind of subject. A new object comes from the same relation and group.
        wordings: Prompts that may be rewritten. Empty: all of the relation's.
        rephrasings: Prompts that may be paraphrases. Empty: those that may be rewritten.
    """

    subject: str
    relation: str
    object: str
    place: int
    group: str = ""
    wordings: tuple[str, ...] = ()
    rephrasings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FactTable:
    """The facts that records are compiled from, indexed.

    Attributes:
        relations: By identifier.
        facts: In the order of their source, without duplicates.
    """

    relations: dict[str, Relation]
    facts: tuple[RelationFact, ...]

    @cached_property
    def of_subject(self) -> dict[str, list[RelationFact]]:
        """All facts of each subject."""
        facts: dict[str, list[RelationFact]] = {}
        for fact in self.facts:
            facts.setdefault(fact.subject, []).append(fact)
        return facts

    @cached_property
    def holders(self) -> dict[tuple[str, str], list[str]]:
        """Subjects of each (relation, object)."""
        subjects: dict[tuple[str, str], list[str]] = {}
        for fact in self.facts:
            subjects.setdefault((fact.relation, fact.object), []).append(fact.subject)
        return subjects

    @cached_property
    def objects(self) -> dict[tuple[str, str], Counter[str]]:
        """How often each object occurs, by (relation, group)."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for fact in self.facts:
            counts.setdefault((fact.relation, fact.group), Counter())[fact.object] += 1
        return counts

    @cached_property
    def truths(self) -> dict[tuple[str, str], set[str]]:
        """All objects of each (subject, relation)."""
        objects: dict[tuple[str, str], set[str]] = {}
        for fact in self.facts:
            objects.setdefault((fact.subject, fact.relation), set()).add(fact.object)
        return objects

    def wordings(self, fact: RelationFact) -> tuple[str, ...]:
        """Prompts under which a fact may be rewritten."""
        return fact.wordings or self.relations[fact.relation].wordings

    def rephrasings(self, fact: RelationFact) -> tuple[str, ...]:
        """Prompts that may serve as paraphrases of a fact."""
        return fact.rephrasings or self.wordings(fact)


# ---------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class RelationFile:
    """The content of a file of facts.

    Attributes:
        table: The usable facts.
        rejected: Broken facts, each with its place and the reason.
        unusable: Relations without facts, or with too few wordings that end at the object.
        no_generation: Relations without generation prompts.
    """

    table: FactTable
    rejected: tuple[RejectedRecord, ...]
    unusable: tuple[str, ...]
    no_generation: tuple[str, ...]


def read_relations(
    path: Path,
    *,
    only: tuple[str, ...] = (),
    generation: Mapping[str, tuple[str, ...]] | None = None,
    fewest_wordings: int = 2,
) -> RelationFile:
    """Read a file of facts by relation. If a fact occurs twice, the first one counts.

    Args:
        path: A JSON file, plain or gzip-compressed.
        only: Identifiers of the relations to read. Empty: all.
        generation: Generation prompts by relation, for relations that have none of their own.
        fewest_wordings: Relations with fewer wordings are unusable.

    Raises:
        DatasetError: The file cannot be read, has no usable relation, or lacks a relation of
            ``only``.
    """
    return parse_relations(
        read_json(path, "file of facts"),
        f"file of facts {str(path)!r}",
        only=only,
        generation=generation,
        fewest_wordings=fewest_wordings,
    )


def parse_relations(
    content: object,
    place: str,
    *,
    only: tuple[str, ...] = (),
    generation: Mapping[str, tuple[str, ...]] | None = None,
    fewest_wordings: int = 2,
) -> RelationFile:
    """As :func:`read_relations`, from decoded JSON.

    Args:
        content: The decoded JSON.
        place: Where it comes from, for messages.
        only: Identifiers of the relations to read. Empty: all.
        generation: Generation prompts by relation, for relations that have none of their own.
        fewest_wordings: Relations with fewer wordings are unusable.

    Raises:
        DatasetError: There is no usable relation, or one of ``only`` is missing.
    """
    if not isinstance(content, Mapping) or not content:
        raise DatasetError(
            f"{place} holds no relations, expected a JSON object of relations.",
            hint="'editkit explain datasets' shows the two layouts.",
        )
    check_relations(only, content, place)
    generation = generation or {}
    relations: dict[str, Relation] = {}
    facts: dict[tuple[str, str, str], RelationFact] = {}
    rejected: list[RejectedRecord] = []
    number = -1
    for name in content:
        wanted = not only or name in only
        try:
            node = Node(content[name], name)
            relation = _relation(name, node, generation)
            items = node["facts"].items()
        except BrokenFieldError as broken:
            rejected += [RejectedRecord(name, broken.field, broken.reason)] if wanted else []
            continue
        for item in items:
            number += 1  # counted over all relations: the number does not depend on ``only``
            if not wanted:
                continue
            try:
                fact = _fact(relation, item, number)
            except BrokenFieldError as broken:
                rejected.append(RejectedRecord(name, broken.field, broken.reason))
            else:
                facts.setdefault((fact.subject, name, fact.object), fact)
        if wanted:
            relations[name] = relation
    wordings = {name: set(relation.wordings) for name, relation in relations.items()}
    for fact in facts.values():
        wordings[fact.relation].update(fact.wordings, fact.rephrasings)
    with_facts = {fact.relation for fact in facts.values()}
    unusable = tuple(
        name
        for name, relation in relations.items()
        if name not in with_facts or not relation.wordings or len(wordings[name]) < fewest_wordings
    )
    used = {name: of for name, of in relations.items() if name not in unusable}
    if not used:
        reason = f" ({rejected[0].field}: {rejected[0].reason})" if rejected else ""
        wanted_wordings = "two wordings that end" if fewest_wordings > 1 else "a wording that ends"
        raise DatasetError(
            f"{place} has no usable relation{reason}.",
            hint=f"A relation needs facts, and {wanted_wordings} right before the object.",
        )
    return RelationFile(
        FactTable(used, tuple(fact for fact in facts.values() if fact.relation in used)),
        tuple(rejected),
        unusable,
        tuple(name for name, relation in used.items() if not relation.generation),
    )


def check_relations(wanted: Iterable[str], available: Iterable[str], place: str) -> None:
    """Refuse relations that a source does not have.

    Raises:
        DatasetError: The first such relation.
    """
    names = list(available)
    for name in wanted:
        if name not in names:
            listed = ", ".join(names[:_MAX_LISTED]) or "none"
            guess = did_you_mean(name, names)
            raise DatasetError(
                f"{place} has no relation {name!r}.",
                hint=f"{f'{guess} ' if guess else ''}It has {listed}.",
            )


def _relation(name: str, node: Node, default_generation: Mapping[str, tuple[str, ...]]) -> Relation:
    patterns = node.get("patterns")
    if patterns is not None:
        texts = [item["pattern"].text() for item in patterns.items()]
        wordings = list(filter(None, map(wording_of, texts)))
    else:
        wordings = [item.template() for item in node["wordings"].items()]
    own = node.get("generation")
    if own is None:
        generation = default_generation.get(name, ())
    else:
        generation = tuple(item.template() for item in own.items())
    return Relation(name, tuple(dict.fromkeys(wordings)), generation)


def wording_of(pattern: str) -> str | None:
    """A ParaRel pattern as a prompt. None if the pattern does not end at its object."""
    match = _ENDS_AT_OBJECT.fullmatch(pattern)
    if match is None or pattern.count(_SUBJECT) != 1 or "{}" in pattern:
        return None
    return _SPACES.sub(" ", match["before"]).replace(_SUBJECT, "{}").strip()


def _fact(relation: Relation, item: Node, place: int) -> RelationFact:
    is_pararel = item.get("sub_label") is not None
    subject = item["sub_label" if is_pararel else "subject"]
    value = item["obj_label" if is_pararel else "object"].text().strip()
    name = subject.text().strip()
    if "{}" in name:
        raise subject.error(f"is {subject}, which contains '{{}}', the subject's mark")
    group = item.get("group")
    return RelationFact(
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
