"""The facts of the embedded world, read from the tables in ``world/``.

The tables list each subject once: a city under its country, a landmark under its city, and so on.
Further facts are derived here, such as a landmark's country from its city. Facts are therefore
consistent by construction.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

WORLD_SEED = 17
HELD_OUT_PER_FACT = 2
_TABLES = Path(__file__).parent / "world"
_NONE = "-"
# How many places of its table a type of subject starts higher in the frequency ranking.
_HEAD_START = {"country": 3.0, "city": 1.0}
_RANK_NOISE = 5.0


@dataclass(frozen=True)
class Relation:
    """A relation with its prompts, which end right before the object.

    Attributes:
        id: Property number in the style of Wikidata, as in CounterFact.
        name: A short readable name.
        types: Types of subject that have this relation.
        wordings: Prompts with one ``{}`` for the subject.
        generation: Prompts that ask for the fact implicitly.
    """

    id: str
    name: str
    types: tuple[str, ...]
    wordings: tuple[str, ...]
    generation: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A subject, its type and its rank by frequency; rank 0 is the most frequent."""

    name: str
    type: str
    rank: int
    split: str


@dataclass(frozen=True)
class Fact:
    """A fact, the wordings that the training text uses for it, and those that it never uses."""

    subject: str
    relation: str
    object: str
    seen: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """All subjects, relations and facts.

    Attributes:
        subjects: By name, most frequent first.
        relations: By identifier.
        facts: By subject, then relation.
    """

    subjects: Mapping[str, Subject]
    relations: Mapping[str, Relation]
    facts: Mapping[str, Mapping[str, Fact]] = field(repr=False)

    def all_facts(self) -> Iterator[Fact]:
        """All facts, most frequent subjects first."""
        for of_subject in self.facts.values():
            yield from of_subject.values()

    @cached_property
    def holders(self) -> dict[tuple[str, str], list[str]]:
        """Subjects of each (relation, object), most frequent first."""
        holders: dict[tuple[str, str], list[str]] = {}
        for fact in self.all_facts():
            holders.setdefault((fact.relation, fact.object), []).append(fact.subject)
        return holders

    @cached_property
    def object_ids(self) -> dict[str, str]:
        """A stable identifier for each object."""
        names = sorted({fact.object for fact in self.all_facts()})
        return {name: f"A{number}" for number, name in enumerate(names, start=1)}


def _rows(table: str) -> list[list[str]]:
    lines = (_TABLES / f"{table}.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def _derive() -> Iterator[tuple[str, str, int, dict[str, str]]]:
    """Derive (subject, type, position in its list, objects by relation)."""
    country_of: dict[str, str] = {}
    continent: dict[str, str] = {}
    language: dict[str, str] = {}
    for country, in_continent, speaks, currency, capital, others in _rows("countries"):
        continent[country], language[country] = in_continent, speaks
        place = {"P30": in_continent, "P37": speaks}
        yield country, "country", 0, {"P36": capital, "P38": currency, **place}
        for position, city in enumerate([capital, *others.split("; ")]):
            if city != _NONE:
                country_of[city] = country
                yield city, "city", position, {"P17": country, **place}
    for where, names in _rows("landmarks"):
        country = country_of.get(where, where)
        for position, name in enumerate(names.split("; ")):
            city = where if where in country_of else _NONE
            place = {"P131": city, "P17": country, "P30": continent[country]}
            yield name, "landmark", position, place
    for where, names in _rows("universities"):
        for position, name in enumerate(names.split("; ")):
            yield name, "university", position, {"P131": where, "P17": country_of[where]}
    for where, industry, names in _rows("companies"):
        city = where if where in country_of else _NONE
        origin = country_of.get(where, where)
        for position, name in enumerate(names.split("; ")):
            yield name, "company", position, {"P159": city, "P495": origin, "P452": industry}
    for maker, kind, names in _rows("products"):
        for position, name in enumerate(names.split("; ")):
            yield name, "product", position, {"P176": maker, "P31": kind}
    for creator, kind, words, names in _rows("works"):
        for position, name in enumerate(names.split("; ")):
            yield name, "work", position, {"P170": creator, "P31": kind, "P407": words}
    for city, speaks, occupation, names in _rows("people"):
        tongue = language[country_of[city]] if speaks == "=" else speaks
        for position, name in enumerate(names.split("; ")):
            about = {"P19": city, "P103": tongue, "P106": occupation}
            yield name, "person", position, about


def _read_relations() -> dict[str, Relation]:
    raw = json.loads((_TABLES / "relations.json").read_text(encoding="utf-8"))
    return {
        key: Relation(
            key, of["name"], tuple(of["types"]), tuple(of["wordings"]), tuple(of["generation"])
        )
        for key, of in raw.items()
    }


@lru_cache(maxsize=1)
def load_world() -> World:
    """Read the tables and derive all facts.

    Returns:
        The world; the same on every call.

    Raises:
        ValueError: A subject is listed twice.
    """
    rng = random.Random(f"atlas-world-{WORLD_SEED}")
    relations = _read_relations()
    known: dict[str, tuple[float, str, dict[str, str]]] = {}
    for name, kind, position, objects in _derive():
        if name in known:
            raise ValueError(
                f"world/: subject {name!r} is listed twice ({known[name][1]} and {kind}); "
                "expected each subject in one table: remove one of them"
            )
        order = position - _HEAD_START.get(kind, 0.0) + rng.uniform(0, _RANK_NOISE)
        known[name] = (order, kind, {r: o for r, o in objects.items() if o != _NONE})
    ranked = sorted(known, key=lambda name: (known[name][0], name))
    subjects: dict[str, Subject] = {}
    facts: dict[str, dict[str, Fact]] = {}
    seen_of_type: dict[str, int] = {}
    for rank, name in enumerate(ranked):
        _, kind, objects = known[name]
        # Every third subject of a type, by frequency, is in the train split.
        number = seen_of_type[kind] = seen_of_type.get(kind, -1) + 1
        subjects[name] = Subject(name, kind, rank, "train" if number % 3 == 1 else "test")
        facts[name] = {}
        for relation_id in sorted(objects):
            wordings = relations[relation_id].wordings
            start = rng.randrange(len(wordings))
            turned = wordings[start:] + wordings[:start]
            facts[name][relation_id] = Fact(
                name,
                relation_id,
                objects[relation_id],
                turned[HELD_OUT_PER_FACT:],
                turned[:HELD_OUT_PER_FACT],
            )
    return World(subjects, relations, facts)
