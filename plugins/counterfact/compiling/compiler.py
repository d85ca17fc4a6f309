"""Compiling a record from each fact: new object, paraphrases, neighbours, generation prompts.

As for CounterFact (Meng et al. 2022, appendix D; first version, appendix C): the new object is
drawn by frequency from the relation's other objects, paraphrases follow unrelated texts, and
neighbours are other subjects with the same relation and true object. In addition, each record
gets prompts for the subject's other facts (``same_subject_prompts``).
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from editkit import Fact, LanguageModel
from editkit.editing.generation import sampled_contexts
from editkit.editing.known import recall
from editkit.prompts import fill
from editkit.records.relations import FactTable, RelationFact

RawRecord = dict[str, Any]
"""A record in CounterFact's layout, before it is written as JSON."""

_BATCH = 64
_TRIES = 20


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of the compiler.

    Attributes:
        records: Maximum number of records. None: one for every suitable fact.
        seed: Seed of all random draws.
        paraphrases: Paraphrase prompts per record.
        neighbors: Maximum number of neighborhood prompts, and of attribute prompts.
        fewest_neighbors: Records with fewer neighborhood prompts are dropped.
        fewest_holders: Facts with fewer other subjects of the same object are skipped.
        generations: Generation prompts per record. They may repeat.
        prefixes: Texts, one of which precedes each paraphrase. Empty: nothing does.
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
    """Compiles records from facts. The same table and recipe give the same records.

    All draws for a record depend only on the seed and its fact, not on other records. A subclass
    may override how facts, wordings, prefixes and neighbours are chosen.

    Args:
        table: The facts.
        recipe: The settings.
    """

    id_letter = "O"
    """First letter of the objects' identifiers."""

    def __init__(self, table: FactTable, recipe: Recipe) -> None:
        self.table = table
        self.recipe = recipe

    def compile(
        self, keep: Callable[[Sequence[RawRecord]], Sequence[bool]] | None = None
    ) -> list[RawRecord]:
        """Compile the records, and number them in their order.

        Args:
            keep: Returns for a batch of records which of them to keep. None: all.
        """
        records: list[RawRecord] = []
        for drafts in self._drafts():
            batch = [
                draft
                for draft in drafts
                if len(draft["neighborhood_prompts"]) >= self.recipe.fewest_neighbors
            ]
            kept = keep(batch) if keep is not None else [True] * len(batch)
            records += [record for record, is_kept in zip(batch, kept, strict=True) if is_kept]
            if self.recipe.records is not None and len(records) >= self.recipe.records:
                break
        records = records[: self.recipe.records]
        for case, record in enumerate(records, start=self.recipe.first_case):
            record["case_id"] = case
        return records

    def _drafts(self) -> Iterator[list[RawRecord]]:
        facts = self.choose()
        for start in range(0, len(facts), _BATCH):
            yield [self.record(fact) for fact in facts[start : start + _BATCH]]

    # ------------------------------------------------------------ which facts

    def choose(self) -> list[RelationFact]:
        """The facts to compile, in the order of the records: a seeded shuffle."""
        facts = [fact for fact in self.table.facts if self.is_eligible(fact)]
        random.Random(f"compile-{self.recipe.seed}").shuffle(facts)
        return facts

    def is_eligible(self, fact: RelationFact) -> bool:
        """Whether another object, another wording and enough other holders exist."""
        wordings = {*self.table.wordings(fact), *self.table.rephrasings(fact)}
        truths = self.table.truths[fact.subject, fact.relation]
        return (
            len(wordings) > 1
            and any(value not in truths for value in self.table.objects[fact.relation, fact.group])
            and len(self.holders(fact.relation, fact.object, fact.subject))
            >= self.recipe.fewest_holders
        )

    def holders(self, relation: str, value: str, but: str) -> list[str]:
        """Subjects with this object, other than ``but``."""
        return [name for name in self.table.holders.get((relation, value), []) if name != but]

    # ------------------------------------------------------------ one record

    def generator(self, fact: RelationFact) -> random.Random:
        """The source of all random draws for a fact's record."""
        return random.Random(f"{self.recipe.seed}/{fact.relation}/{fact.subject}/{fact.object}")

    def record(self, fact: RelationFact) -> RawRecord:
        """The record of a fact. Its case id is the fact's place."""
        rng = self.generator(fact)
        subject, relation = fact.subject, fact.relation
        new = self.new_object(rng, fact)
        prompt, rephrasings = self.draw_wordings(rng, fact)
        paraphrases = self._paraphrases(rng, rephrasings, subject, (subject, fact.object, new))
        generation = self.table.relations[relation].generation
        n_drawn = self.recipe.generations if generation else 0
        drawn = [rng.choice(generation) for _ in range(n_drawn)]
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
            "generation_prompts": [fill(prompt, subject) for prompt in drawn],
            "same_subject_prompts": self._same_subject(rng, fact, new),
        }

    def new_object(self, rng: random.Random, fact: RelationFact) -> str:
        """Another object of the relation that is not true of the subject, drawn by frequency."""
        truths = self.table.truths[fact.subject, fact.relation]
        counts = self.table.objects[fact.relation, fact.group]
        others = sorted(value for value in counts if value not in truths)
        return rng.choices(others, weights=[counts[value] for value in others])[0]

    def draw_wordings(self, rng: random.Random, fact: RelationFact) -> tuple[str, list[str]]:
        """The wording to rewrite, and other wordings for the paraphrases.

        If there are too few others, they repeat, as long as prefixes make the prompts differ.
        """
        prompt = rng.choice(self.table.wordings(fact))
        others = [wording for wording in self.table.rephrasings(fact) if wording != prompt]
        wanted = self.recipe.paraphrases
        drawn = rng.sample(others, k=min(wanted, len(others)))
        while self.recipe.prefixes and drawn and len(drawn) < wanted:
            drawn.append(rng.choice(others))
        return prompt, drawn

    def prefix(self, rng: random.Random, avoided: tuple[str, ...]) -> str:
        """Draw the text before a paraphrase, with a trailing space.

        It mentions none of the names in ``avoided``. If many draws in a row do, it is empty.
        """
        for _ in range(_TRIES if self.recipe.prefixes else 0):
            text = rng.choice(self.recipe.prefixes).strip()
            if not any(name.casefold() in text.casefold() for name in avoided):
                return f"{text} "
        return ""

    def _paraphrases(
        self, rng: random.Random, wordings: Sequence[str], subject: str, avoided: tuple[str, ...]
    ) -> list[str]:
        """One prompt per wording. Duplicates that no prefix makes different are dropped."""
        prompts: list[str] = []
        for wording in wordings:
            for _ in range(_TRIES):
                prompt = self.prefix(rng, avoided) + fill(wording, subject)
                if prompt not in prompts:
                    prompts.append(prompt)
                    break
        return prompts

    def pick(self, rng: random.Random, names: list[str], count: int) -> list[str]:
        """Draw ``count`` of the subjects."""
        return rng.sample(names, k=count)

    def _prompts_about(
        self, rng: random.Random, fact: RelationFact, value: str, *, rival: str
    ) -> list[str]:
        """Distinct prompts about other subjects of which ``value`` is true and ``rival`` is not."""
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

    def _same_subject(self, rng: random.Random, fact: RelationFact, new: str) -> list[RawRecord]:
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

    def _peer(self, fact: RelationFact, other: RelationFact, new: str) -> str | None:
        """The most frequent object, in another relation, of subjects that have the new object."""
        of_peers = [
            theirs.object
            for name in self.table.holders.get((fact.relation, new), [])
            for theirs in self.table.of_subject[name]
            if theirs.relation == other.relation and theirs.group == other.group
        ]
        for counts in (Counter(of_peers), self.table.objects[other.relation, other.group]):
            for value, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
                if value != other.object:
                    return value
        return None

    @cached_property
    def _object_ids(self) -> dict[str, str]:
        """A stable identifier for each object."""
        names = sorted({fact.object for fact in self.table.facts})
        return {name: f"{self.id_letter}{number}" for number, name in enumerate(names, start=1)}


# ---------------------------------------------------------------- with a model

_PREFIX_LENGTHS = ((100, 9), (100, 19))
_PREFIX_TOP_K = 5


def sampled_prefixes(model: LanguageModel, seed: int) -> tuple[str, ...]:
    """200 short texts sampled from the model, half of 10 and half of 20 tokens, as prefixes."""
    return tuple(
        dict.fromkeys(sampled_contexts(model, _PREFIX_LENGTHS, top_k=_PREFIX_TOP_K, seed=seed))
    )


def is_known(model: LanguageModel, records: Sequence[RawRecord]) -> list[bool]:
    """Whether the model's greedy continuation of each record's prompt is the true object."""
    rewrites = [record["requested_rewrite"] for record in records]
    facts = [
        Fact(fill(each["prompt"], each["subject"]), each["subject"], each["target_true"]["str"])
        for each in rewrites
    ]
    return [each.predicted for each in recall(model, facts)]
