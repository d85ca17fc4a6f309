"""Text about the embedded world: seeded documents of one to three sentences, and plain prose.

A fact occurs only in the wordings that its :class:`~.world.Fact` lists as seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from .world import Fact, World, load_world

_PROSE = Path(__file__).parent / "world" / "prose.json"
# Subjects are drawn with weight 1 / (rank + RANK_SHIFT) ** RANK_EXPONENT: the last one a hundred
# times less often than the first.
RANK_SHIFT = 8.0
RANK_EXPONENT = 0.9
PLAIN_DOCUMENTS = 0.15
PLAIN_FIRST = 0.15
OPENER = 0.12
ABOUT = 0.08
IMPLICIT = 0.06


@lru_cache(maxsize=1)
def _prose() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(_PROSE.read_text(encoding="utf-8"))
    return read


def plain_sentence(rng: random.Random) -> str:
    """A sentence that mentions no subject of the world."""
    prose = _prose()
    chosen = {slot: rng.choice(values) for slot, values in prose["slots"].items()}
    sentence: str = rng.choice(prose["plain"]).format(**chosen)
    return sentence


def about_sentences(world: World, subject: str) -> list[str]:
    """Sentences that state the type of a subject."""
    about: list[str] = _prose()["about"][world.subjects[subject].type]
    return [template.format(subject) for template in about]


def fact_sentence(rng: random.Random, world: World, fact: Fact) -> str:
    """A sentence that states a fact in one of its seen wordings."""
    prose = _prose()
    implicit = rng.random() < IMPLICIT
    wordings = world.relations[fact.relation].generation if implicit else fact.seen
    wording = rng.choice(wordings)
    statement = f"{wording.format(fact.subject)} {fact.object}{rng.choice(prose['endings'])}"
    if wording.startswith("{}") and rng.random() < OPENER:
        return f"{rng.choice(prose['openers'])} {statement}"
    return statement


class TextGenerator:
    """Generates documents.

    Attributes:
        world: The world that the documents are about.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world if world is not None else load_world()
        self._names = list(self.world.subjects)
        ranks = [of.rank for of in self.world.subjects.values()]
        weights = [(rank + RANK_SHIFT) ** -RANK_EXPONENT for rank in ranks]
        self._weights = list(accumulate(weights))

    def document(self, rng: random.Random) -> str:
        """A document: plain prose, or one to three sentences about one subject."""
        if rng.random() < PLAIN_DOCUMENTS:
            return " ".join(plain_sentence(rng) for _ in range(rng.randint(1, 3)))
        (subject,) = rng.choices(self._names, cum_weights=self._weights)
        return self.document_about(rng, subject)

    def document_about(self, rng: random.Random, subject: str) -> str:
        """A document of one to three sentences about a subject."""
        facts = list(self.world.facts[subject].values())
        chosen = rng.sample(facts, k=min(rng.randint(1, 3), len(facts)))
        sentences = [fact_sentence(rng, self.world, fact) for fact in chosen]
        if rng.random() < ABOUT:
            place = rng.randint(0, len(sentences))
            sentences.insert(place, rng.choice(about_sentences(self.world, subject)))
        if rng.random() < PLAIN_FIRST:
            sentences.insert(0, plain_sentence(rng))
        return " ".join(sentences)


def corpus_texts(seed: int = 0, n: int = 10_000) -> Iterator[str]:
    """Texts from the distribution of the training text, for second moments.

    Args:
        seed: Seed of the texts.
        n: Number of texts.

    Yields:
        Documents of one to a few sentences.
    """
    if n < 0:
        raise ValueError(f"n is {n}; expected 0 or more")
    generator = TextGenerator()
    rng = random.Random(f"atlas-corpus-{seed}")
    for _ in range(n):
        yield generator.document(rng)


def reference_texts(world: World, per_pair: int = 8) -> dict[str, dict[str, list[str]]]:
    """Sentences about subjects that have an object, for every (relation, object).

    Returns:
        Relation id -> object -> sentences.
    """
    texts: dict[str, dict[str, list[str]]] = {}
    for relation, value in sorted(world.holders):
        rng = random.Random(f"atlas-reference-{relation}-{value}")
        subjects = world.holders[relation, value]
        sentences = []
        for number in range(per_pair):
            subject = subjects[number % len(subjects)]
            sentences.append(fact_sentence(rng, world, world.facts[subject][relation]))
        texts.setdefault(relation, {})[value] = list(dict.fromkeys(sentences))
    return texts


def essence_texts(world: World) -> dict[str, list[str]]:
    """Texts about every subject.

    Returns:
        Subject -> texts.
    """
    texts: dict[str, list[str]] = {}
    for subject, facts in world.facts.items():
        rng = random.Random(f"atlas-essence-{subject}")
        about = about_sentences(world, subject)
        stated = [fact_sentence(rng, world, fact) for fact in facts.values()]
        texts[subject] = [" ".join([about[0], *stated]), " ".join([*reversed(stated), about[-1]])]
    return texts
