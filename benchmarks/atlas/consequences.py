"""Tests of what follows from an edit, from the world's own facts.

The world derives some facts from others (:mod:`.world`): a landmark's country is that of its city.
For an edit (s, r, o -> o*) of a record, with a derived relation q = (via, of)::

    compositionality_1      r is via: q of s becomes ``of`` of o*       Louvre moved to Rome: Italy
    compositionality_2      r is of: q of every s' with s as its via    Paris moved to Italy: Louvre
    relation_specificity    relations of s that r neither implies nor follows from stay

A test asks about one fact in a wording that the training text uses for it. Its condition is the
fact that leads to the answer, or, for relation specificity, the question itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from editkit import Consequence, OpenQuestion

from .world import Fact, World

__all__ = ["DERIVED", "Derived", "tests_of_edit"]


class Derived(NamedTuple):
    """A relation of one type of subject that the world derives.

    ``relation`` of a subject is ``of`` of the object of its ``via``.
    """

    type: str
    relation: str
    via: str
    of: str


_CITY, _HEADQUARTERS, _COUNTRY, _CONTINENT = "P131", "P159", "P17", "P30"
_LANGUAGE, _ORIGIN = "P37", "P495"

DERIVED = (
    Derived("city", _CONTINENT, _COUNTRY, _CONTINENT),
    Derived("city", _LANGUAGE, _COUNTRY, _LANGUAGE),
    Derived("landmark", _COUNTRY, _CITY, _COUNTRY),
    Derived("landmark", _CONTINENT, _CITY, _CONTINENT),
    Derived("landmark", _CONTINENT, _COUNTRY, _CONTINENT),
    Derived("university", _COUNTRY, _CITY, _COUNTRY),
    Derived("company", _ORIGIN, _HEADQUARTERS, _COUNTRY),
)
"""What the world derives, as far as an edit implies it, too."""

_ABOUT_THE_PAST = ("The firm {} began its business in", "The brand {} was born in")
"""A company's new head office does not change where it began."""
_MOST_OTHERS = 4  # subjects that one edit is asked about for compositionality_2


def tests_of_edit(
    world: World, split: str, subject: str, relation: str, new: str
) -> dict[str, list[dict[str, Any]]]:
    """The tests of a record by group, as in its JSON; without empty groups.

    Args:
        world: The world.
        split: ``test``, or ``train``, with questions about subjects of that split alone.
        subject: The subject that is edited.
        relation: The relation that is edited.
        new: Its new object.
    """
    tests = _Tests(world, split, subject, relation, new)
    groups = {
        "compositionality_1": tests.compositionality_1(),
        "compositionality_2": tests.compositionality_2(),
        "relation_specificity": tests.relation_specificity(),
    }
    listed = {name: [test.to_dict() for test in group] for name, group in groups.items()}
    return {name: group for name, group in listed.items() if group}


class _Tests:
    """The tests of one edit; all draws depend on the edit alone."""

    def __init__(self, world: World, split: str, subject: str, relation: str, new: str) -> None:
        self._world, self._split = world, split
        self._subject, self._relation, self._new = subject, relation, new
        self._rng = random.Random(f"atlas-consequences-{split}-{subject}-{relation}")
        self._type = world.subjects[subject].type

    def compositionality_1(self) -> Iterator[Consequence]:
        """What the new object implies about the subject, if it differs from what was true."""
        for derived in self._derived():
            fact = self._fact(self._subject, derived.relation)
            of_new = self._fact(self._new, derived.of)
            if derived.via != self._relation or fact is None or of_new is None:
                continue
            if fact.object != of_new.object:
                yield self._test(fact, of_new.object, self._ask(of_new, of_new.object))

    def compositionality_2(self) -> Iterator[Consequence]:
        """What the edit implies about subjects that get the relation from this one."""
        others = [
            (fact, through)
            for derived in DERIVED
            if derived.of == self._relation
            for name in self._world.holders.get((derived.via, self._subject), ())
            if self._world.subjects[name].type == derived.type
            and (fact := self._fact(name, derived.relation)) is not None
            and (through := self._fact(name, derived.via)) is not None
            and fact.object != self._new
        ]
        for fact, through in self._rng.sample(others, k=min(_MOST_OTHERS, len(others))):
            yield self._test(fact, self._new, self._ask(through, self._subject))

    def relation_specificity(self) -> Iterator[Consequence]:
        """The subject's other facts that have nothing to do with the edited one."""
        involved = {self._relation}
        for derived in self._derived():
            if self._relation in (derived.relation, derived.via):
                involved |= {derived.relation, derived.via}
        for relation in self._world.facts[self._subject]:
            fact = self._fact(self._subject, relation)
            if relation not in involved and fact is not None:
                question = self._ask(fact, fact.object)
                yield Consequence((question,), conditions=(question,))

    def _derived(self) -> list[Derived]:
        return [derived for derived in DERIVED if derived.type == self._type]

    def _fact(self, subject: str, relation: str) -> Fact | None:
        """A fact of the world; None if there is none, or the split may not ask about it."""
        known = self._world.subjects.get(subject)
        if known is None or (self._split == "train" and known.split != "train"):
            return None
        return self._world.facts[subject].get(relation)

    def _ask(self, fact: Fact, answer: str) -> OpenQuestion:
        wordings = [each for each in fact.seen if each not in _ABOUT_THE_PAST]
        return OpenQuestion(self._rng.choice(wordings).format(fact.subject), ((answer,),))

    def _test(self, fact: Fact, answer: str, condition: OpenQuestion) -> Consequence:
        return Consequence((self._ask(fact, answer),), conditions=(condition,))
