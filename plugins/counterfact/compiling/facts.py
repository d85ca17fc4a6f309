"""Facts and the wordings of their relations, and who shares an object with whom."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cached_property


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation with its prompts, each of which ends right before the object.

    Attributes:
        id: Its identifier, such as ``P17``.
        wordings: Prompts with one ``{}`` for the subject.
        generation: Openings of texts that should show the fact, with one ``{}`` each.
    """

    id: str
    wordings: tuple[str, ...]
    generation: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fact:
    """One (subject, relation, object).

    Attributes:
        subject: The entity that the fact is about.
        relation: Identifier of the relation.
        object: What the subject stands in the relation to.
        place: Number of the fact in its source.
        group: Kind of subject: objects are exchanged within a relation and group only.
        wordings: Prompts that may be rewritten; none: all of the relation's.
        rephrasings: Prompts that may be paraphrases; none: those that may be rewritten.
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
    """All that records are compiled from.

    Attributes:
        relations: By identifier.
        facts: In the order of their source; none occurs twice.
    """

    relations: dict[str, Relation]
    facts: tuple[Fact, ...]

    @cached_property
    def of_subject(self) -> dict[str, list[Fact]]:
        """All facts of each subject."""
        found: dict[str, list[Fact]] = {}
        for fact in self.facts:
            found.setdefault(fact.subject, []).append(fact)
        return found

    @cached_property
    def holders(self) -> dict[tuple[str, str], list[str]]:
        """Subjects of each (relation, object)."""
        found: dict[tuple[str, str], list[str]] = {}
        for fact in self.facts:
            found.setdefault((fact.relation, fact.object), []).append(fact.subject)
        return found

    @cached_property
    def objects(self) -> dict[tuple[str, str], Counter[str]]:
        """How often each object occurs, by (relation, group)."""
        found: dict[tuple[str, str], Counter[str]] = {}
        for fact in self.facts:
            found.setdefault((fact.relation, fact.group), Counter())[fact.object] += 1
        return found

    @cached_property
    def truths(self) -> dict[tuple[str, str], set[str]]:
        """All objects that are true of a (subject, relation)."""
        found: dict[tuple[str, str], set[str]] = {}
        for fact in self.facts:
            found.setdefault((fact.subject, fact.relation), set()).add(fact.object)
        return found

    def wordings(self, fact: Fact) -> tuple[str, ...]:
        """Prompts of a fact that may be rewritten."""
        return fact.wordings or self.relations[fact.relation].wordings

    def rephrasings(self, fact: Fact) -> tuple[str, ...]:
        """Prompts of a fact that may be paraphrases."""
        return fact.rephrasings or self.wordings(fact)
