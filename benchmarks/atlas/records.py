"""Build the records of the embedded world: CounterFact's schema with two extra keys, two splits.

The splits share no subjects. ``test`` is for reported results. ``train``, whose prompts name only
subjects of its own split, is for choosing hyperparameters and training editors.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from typing_extensions import override

from editkit.records.relations import FactTable, Relation, RelationFact
from editkit_plugins.counterfact.compiling.compiler import Compiler, RawRecord, Recipe

from .consequences import tests_of_edit
from .text import essence_texts, plain_sentence, reference_texts
from .world import World, load_world

SPLITS = ("test", "train")
RECORDS_WANTED = {"test": 1000, "train": 600}
NEIGHBORS = 10
GENERATIONS = 10
# Minimum number of other subjects with the same relation and object, so that wordings vary.
FEWEST_HOLDERS = {"test": 4, "train": 2}
_DISTRACTOR = 0.5
# 1 draws neighbours evenly from all frequencies, smaller values draw more rare ones.
_TOWARDS_RARE = 0.6
# First case id of each split: the splits share none.
_FIRST_CASE = {"test": 0, "train": 100_000}


class RecordWriter(Compiler):
    """Compiles the records of one split, deterministically."""

    id_letter = "A"

    def __init__(self, world: World, split: str, wanted: int) -> None:
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
        recipe = Recipe(
            records=wanted,
            neighbors=NEIGHBORS,
            generations=GENERATIONS,
            fewest_holders=FEWEST_HOLDERS[split],
            first_case=_FIRST_CASE[split],
        )
        super().__init__(fact_table(world), recipe)
        self._world = world
        self._split = split

    @override
    def choose(self) -> list[RelationFact]:
        """Choose facts with relations as balanced as possible, in a seeded order.

        Loops over the subjects and takes from each the fact whose relation is the rarest so far.
        """
        rng = random.Random(f"atlas-records-{self._split}")
        subjects = [s.name for s in self._world.subjects.values() if s.split == self._split]
        taken: Counter[str] = Counter()
        of_subject = self.table.of_subject
        left = {name: [f for f in of_subject[name] if self.is_eligible(f)] for name in subjects}
        wanted = self.recipe.records or 0
        chosen: list[RelationFact] = []
        while len(chosen) < wanted and any(left.values()):
            rng.shuffle(subjects)
            for name in subjects:
                if not left[name] or len(chosen) == wanted:
                    continue
                fact = min(left[name], key=lambda fact: (taken[fact.relation], fact.relation))
                left[name].remove(fact)
                taken[fact.relation] += 1
                chosen.append(fact)
        rng.shuffle(chosen)
        return chosen

    @override
    def generator(self, fact: RelationFact) -> random.Random:
        return random.Random(f"atlas-record-{self._split}-{fact.subject}-{fact.relation}")

    @override
    def record(self, fact: RelationFact) -> RawRecord:
        record = super().record(fact)
        new = record["requested_rewrite"]["target_new"]["str"]
        tests = tests_of_edit(self._world, self._split, fact.subject, fact.relation, new)
        return {**record, "consequences": tests} if tests else record

    @override
    def holders(self, relation: str, value: str, but: str) -> list[str]:
        """Other subjects with this object, most frequent first; in ``train`` only of that split."""
        return [
            name
            for name in super().holders(relation, value, but)
            if self._split == "test" or self._world.subjects[name].split == self._split
        ]

    @override
    def pick(self, rng: random.Random, names: list[str], count: int) -> list[str]:
        """One from each of ``count`` slices of the frequency ranking, thinner ones for rare names.

        Edits first disturb facts that the model knows less well.
        """
        edges = [round(len(names) * (k / count) ** _TOWARDS_RARE) for k in range(count + 1)]
        for place in range(count - 1, 0, -1):
            edges[place] = min(edges[place], edges[place + 1] - 1)
        return [rng.choice(names[lo:hi]) for lo, hi in pairwise(edges)]

    @override
    def draw_wordings(self, rng: random.Random, fact: RelationFact) -> tuple[str, list[str]]:
        """Two wordings that the training text uses, and one that it never uses."""
        prompt, rephrased = rng.sample(fact.wordings, k=2)
        return prompt, [rng.choice(fact.rephrasings), rephrased]

    @override
    def prefix(self, rng: random.Random, avoided: tuple[str, ...]) -> str:
        return f"{plain_sentence(rng)} " if rng.random() < _DISTRACTOR else ""


def fact_table(world: World | None = None) -> FactTable:
    """The facts of a world, most frequent subjects first; of the embedded one by default."""
    world = world or load_world()
    return FactTable(
        {key: Relation(key, of.wordings, of.generation) for key, of in world.relations.items()},
        tuple(
            RelationFact(
                fact.subject,
                fact.relation,
                fact.object,
                place,
                group=world.subjects[fact.subject].type,
                wordings=fact.seen,
                rephrasings=fact.held_out,
            )
            for place, fact in enumerate(world.all_facts())
        ),
    )


@lru_cache(maxsize=2)
def build_records(split: str) -> list[RawRecord]:
    """Build the records of a split.

    Args:
        split: ``test`` or ``train``.

    Returns:
        Records in CounterFact's schema with the extra keys ``same_subject_prompts`` and, where
        something follows from the edit, ``consequences``.
    """
    records = RecordWriter(load_world(), split, RECORDS_WANTED.get(split, 0)).compile()
    return [{**record, "pararel_idx": record["case_id"]} for record in records]


def dump(content: object) -> str:
    """JSON in the format of the shipped files: one line per top-level entry."""
    if isinstance(content, list):
        lines = [json.dumps(entry, ensure_ascii=False) for entry in content]
        return "[\n" + ",\n".join(lines) + "\n]\n"
    if isinstance(content, dict):
        pairs = [
            f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in content.items()
        ]
        return "{\n" + ",\n".join(pairs) + "\n}\n"
    raise TypeError(f"cannot dump a {type(content).__name__}; expected a list or a dict")


def render_files() -> dict[str, str]:
    """The content of all record files by name."""
    world = load_world()
    files = {f"{split}.json": dump(build_records(split)) for split in SPLITS}
    files["reference_texts.json"] = dump(reference_texts(world))
    files["essence.json"] = dump(essence_texts(world))
    return files


def write_files(folder: Path) -> list[Path]:
    """Write all record files to ``folder``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in render_files().items():
        path = folder / name
        path.write_text(content, encoding="utf-8", newline="\n")
        paths.append(path)
    return paths
