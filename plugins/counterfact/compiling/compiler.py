"""Compiling records: a new object, paraphrases, neighbours, and openings of texts for each fact.

As in CounterFact (Meng et al. 2022, appendix): the new object is drawn by its frequency among the
relation's other objects; paraphrases stand behind texts that have nothing to do with them;
neighbours are other subjects with the same (relation, true object). Besides, each record gets what
the subject's other facts ask for (``same_subject_prompts``).
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from editkit.prompts import fill
from editkit_plugins.counterfact.compiling.facts import Fact, FactTable

RawRecord = dict[str, Any]
"""A record in CounterFact's layout, as it is written to JSON."""

_AT_ONCE = 64
_TRIES = 20


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How records are made.

    Attributes:
        records: Most records; None: one of every fact that can have one.
        seed: Of everything that is drawn.
        paraphrases: Paraphrase prompts of a record.
        neighbors: Most neighbourhood prompts, and most attribute prompts.
        fewest_neighbors: Records with fewer neighbourhood prompts are left out.
        fewest_holders: Facts with fewer other subjects of the same object are left out.
        generations: Generation prompts of a record; they repeat.
        prefixes: Texts of which one stands before each paraphrase; none: nothing does.
        first_case: Case id of the first record.
    """

    records: int | None = None
    seed: int = 0
    paraphrases: int = 2
    neighbors: int = 10
    fewest_neighbors: int = 1
    fewest_holders: int = 1
    generations: int = 10
    prefixes: tuple[str, ...] = ()
    first_case: int = 0


class Compiler:
    """Compiles records from facts; the same table and recipe give the same records.

    What is drawn for a record depends on the seed and its fact alone, not on other records.

    A subclass may choose facts, wordings, prefixes and neighbours in ways of its own.

    Args:
        table: The facts.
        recipe: How records are made.
    """

    id_letter = "O"
    """First letter of the identifiers that objects get."""

    def __init__(self, table: FactTable, recipe: Recipe) -> None:
        self.table = table
        self.recipe = recipe

    def compile(
        self, keep: Callable[[Sequence[RawRecord]], Sequence[bool]] | None = None
    ) -> list[RawRecord]:
        """The records, numbered in their order.

        Args:
            keep: Says of some records which of them are wanted; by default all are.
        """
        records: list[RawRecord] = []
        for drafts in self._drafts():
            some = [
                draft
                for draft in drafts
                if len(draft["neighborhood_prompts"]) >= self.recipe.fewest_neighbors
            ]
            wanted = keep(some) if keep is not None else [True] * len(some)
            records += [record for record, is_wanted in zip(some, wanted, strict=True) if is_wanted]
            if self.recipe.records is not None and len(records) >= self.recipe.records:
                break
        records = records[: self.recipe.records]
        for case, record in enumerate(records, start=self.recipe.first_case):
            record["case_id"] = case
        return records

    def _drafts(self) -> Iterator[list[RawRecord]]:
        facts = self.choose()
        for start in range(0, len(facts), _AT_ONCE):
            yield [self.record(fact) for fact in facts[start : start + _AT_ONCE]]

    # ------------------------------------------------------------ which facts

    def choose(self) -> list[Fact]:
        """The facts that records are made of, in the order of the records: a seeded shuffle."""
        facts = [fact for fact in self.table.facts if self.is_eligible(fact)]
        random.Random(f"compile-{self.recipe.seed}").shuffle(facts)
        return facts

    def is_eligible(self, fact: Fact) -> bool:
        """Whether a record can be made: another object, another wording, and neighbours exist."""
        wordings = {*self.table.wordings(fact), *self.table.rephrasings(fact)}
        truths = self.table.truths[fact.subject, fact.relation]
        return (
            len(wordings) > 1
            and any(value not in truths for value in self.table.objects[fact.relation, fact.group])
            and len(self.holders(fact.relation, fact.object, fact.subject))
            >= self.recipe.fewest_holders
        )

    def holders(self, relation: str, value: str, but: str) -> list[str]:
        """Other subjects with this object."""
        return [name for name in self.table.holders.get((relation, value), []) if name != but]

    # ------------------------------------------------------------ one record

    def generator(self, fact: Fact) -> random.Random:
        """What decides all that is drawn for a fact's record."""
        return random.Random(f"{self.recipe.seed}/{fact.relation}/{fact.subject}/{fact.object}")

    def record(self, fact: Fact) -> RawRecord:
        """The record of a fact, numbered by the fact's place."""
        rng = self.generator(fact)
        subject, relation = fact.subject, fact.relation
        new = self.new_object(rng, fact)
        prompt, rephrasings = self.draw_wordings(rng, fact)
        paraphrases = self._paraphrases(rng, rephrasings, subject, (subject, fact.object, new))
        openings = self.table.relations[relation].generation
        drawn = [rng.choice(openings) for _ in range(self.recipe.generations if openings else 0)]
        return {
            "case_id": fact.place,
            "pararel_idx": fact.place,
            "requested_rewrite": {
                "prompt": prompt,
                "relation_id": relation,
                "target_new": {"str": new, "id": self._object_ids[new]},
                "target_true": {"str": fact.object, "id": self._object_ids[fact.object]},
                "subject": subject,
            },
            "paraphrase_prompts": paraphrases,
            "neighborhood_prompts": self._prompts_about(rng, fact, fact.object, rival=new),
            "attribute_prompts": self._prompts_about(rng, fact, new, rival=fact.object),
            "generation_prompts": [fill(opening, subject) for opening in drawn],
            "same_subject_prompts": self._same_subject(rng, fact, new),
        }

    def new_object(self, rng: random.Random, fact: Fact) -> str:
        """Another object of the relation, drawn by its frequency; none that is true."""
        truths = self.table.truths[fact.subject, fact.relation]
        found = self.table.objects[fact.relation, fact.group]
        others = sorted(value for value in found if value not in truths)
        return rng.choices(others, weights=[found[value] for value in others])[0]

    def draw_wordings(self, rng: random.Random, fact: Fact) -> tuple[str, list[str]]:
        """The wording that is rewritten, and other ones for the paraphrases.

        Where there are too few others and prefixes tell the paraphrases apart, they repeat.
        """
        prompt = rng.choice(self.table.wordings(fact))
        others = [wording for wording in self.table.rephrasings(fact) if wording != prompt]
        wanted = self.recipe.paraphrases
        drawn = rng.sample(others, k=min(wanted, len(others)))
        while self.recipe.prefixes and drawn and len(drawn) < wanted:
            drawn.append(rng.choice(others))
        return prompt, drawn

    def prefix(self, rng: random.Random, avoided: tuple[str, ...]) -> str:
        """What stands before a paraphrase, with a space at its end.

        It names none of the texts to be avoided; where many in a row do, nothing stands there.
        """
        for _ in range(_TRIES if self.recipe.prefixes else 0):
            text = rng.choice(self.recipe.prefixes).strip()
            if not any(name.casefold() in text.casefold() for name in avoided):
                return f"{text} "
        return ""

    def _paraphrases(
        self, rng: random.Random, wordings: Sequence[str], subject: str, avoided: tuple[str, ...]
    ) -> list[str]:
        """One prompt for each wording, as far as prefixes tell equal ones apart."""
        prompts: list[str] = []
        for wording in wordings:
            for _ in range(_TRIES):
                prompt = self.prefix(rng, avoided) + fill(wording, subject)
                if prompt not in prompts:
                    prompts.append(prompt)
                    break
        return prompts

    def pick(self, rng: random.Random, names: list[str], count: int) -> list[str]:
        """Some of more than ``count`` subjects."""
        return rng.sample(names, k=count)

    def _prompts_about(
        self, rng: random.Random, fact: Fact, value: str, *, rival: str
    ) -> list[str]:
        """Different prompts about other subjects for which ``value`` is true, and not its rival."""
        count = self.recipe.neighbors
        names = [
            name
            for name in self.holders(fact.relation, value, fact.subject)
            if rival not in self.table.truths[name, fact.relation]
        ]
        if len(names) > count:
            names = self.pick(rng, names, count)
        wordings = self.table.relations[fact.relation].wordings
        start = {name: rng.randrange(len(wordings)) for name in names}
        prompts = [
            fill(wordings[(start[name] + turn) % len(wordings)], name)
            for turn in range(len(wordings))
            for name in names
        ][:count]
        rng.shuffle(prompts)
        return prompts

    # ------------------------------------------------------------ the subject's other facts

    def _same_subject(self, rng: random.Random, fact: Fact, new: str) -> list[RawRecord]:
        prompts = []
        for other in self.table.of_subject[fact.subject]:
            truths = self.table.truths[fact.subject, other.relation]
            if other.relation == fact.relation or len(truths) > 1:
                continue
            peer = self._peer(fact, other, new)
            if peer is not None:
                prompts.append(
                    {
                        "prompt": fill(rng.choice(self.table.wordings(other)), fact.subject),
                        "relation_id": other.relation,
                        "target_true": {"str": other.object},
                        "target_other": {"str": peer},
                    }
                )
        return prompts

    def _peer(self, fact: Fact, other: Fact, new: str) -> str | None:
        """The object that subjects having the new object usually have in another relation."""
        alike = [
            theirs.object
            for name in self.table.holders.get((fact.relation, new), [])
            for theirs in self.table.of_subject[name]
            if theirs.relation == other.relation and theirs.group == other.group
        ]
        for found in (Counter(alike), self.table.objects[other.relation, other.group]):
            for value, _ in sorted(found.items(), key=lambda item: (-item[1], item[0])):
                if value != other.object:
                    return value
        return None

    @cached_property
    def _object_ids(self) -> dict[str, str]:
        """A stable identifier for each object."""
        names = sorted({fact.object for fact in self.table.facts})
        return {name: f"{self.id_letter}{number}" for number, name in enumerate(names, start=1)}
