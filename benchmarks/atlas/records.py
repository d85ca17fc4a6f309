"""Records of the embedded world in CounterFact's schema with one extra key, in two splits.

The splits share no subject. ``test`` holds the records that results are reported on;
hyperparameters are chosen, and editors that learn are trained, on ``train``, whose prompts name
subjects of its own split only.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from .text import essence_texts, plain_sentence, reference_texts
from .world import Fact, World, load_world

SPLITS = ("test", "train")
RECORDS_WANTED = {"test": 1000, "train": 600}
NEIGHBORS = 10
GENERATIONS = 10
# Fewest other subjects of the same relation and object; their wordings then vary.
FEWEST_HOLDERS = {"test": 4, "train": 2}
_DISTRACTOR = 0.5
# 1 draws neighbours evenly from all frequencies; smaller, more of them from the rarer.
_TOWARDS_RARE = 0.6
# Case numbers of the second split start here, so that the two never share one.
_FIRST_CASE = {"test": 0, "train": 100_000}

Record = dict[str, Any]


class RecordWriter:
    """Writes the records of one split; the same world gives the same records."""

    def __init__(self, world: World, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
        self._world = world
        self._split = split
        # Objects are drawn by frequency among subjects of one type: a book's kind is not a car.
        self._objects: dict[tuple[str, str], Counter[str]] = {}
        for fact in world.all_facts():
            kind = world.subjects[fact.subject].type
            self._objects.setdefault((fact.relation, kind), Counter())[fact.object] += 1

    def records(self, wanted: int) -> list[Record]:
        """Write ``wanted`` records, relations as even as they can be, in a seeded order."""
        rng = random.Random(f"atlas-records-{self._split}")
        chosen = self._choose(rng, wanted)
        rng.shuffle(chosen)
        first = _FIRST_CASE[self._split]
        return [self._record(fact, first + number) for number, fact in enumerate(chosen)]

    def _choose(self, rng: random.Random, wanted: int) -> list[Fact]:
        """Go through the subjects again and again, taking of each its relation met least so far."""
        subjects = [s.name for s in self._world.subjects.values() if s.split == self._split]
        taken: Counter[str] = Counter()
        left = {name: self._eligible(name) for name in subjects}
        chosen: list[Fact] = []
        while len(chosen) < wanted and any(left.values()):
            rng.shuffle(subjects)
            for name in subjects:
                if not left[name] or len(chosen) == wanted:
                    continue
                fact = min(left[name], key=lambda fact: (taken[fact.relation], fact.relation))
                left[name].remove(fact)
                taken[fact.relation] += 1
                chosen.append(fact)
        return chosen

    def _eligible(self, subject: str) -> list[Fact]:
        kind = self._world.subjects[subject].type
        fewest = FEWEST_HOLDERS[self._split]
        return [
            fact
            for fact in self._world.facts[subject].values()
            if len(self._holders(fact.relation, fact.object, subject)) >= fewest
            and len(self._objects[fact.relation, kind]) > 1
        ]

    def _holders(self, relation: str, value: str, but: str) -> list[str]:
        """Other subjects with this object, most frequent first; of the own split in ``train``."""
        return [
            name
            for name in self._world.holders.get((relation, value), [])
            if name != but
            and (self._split == "test" or self._world.subjects[name].split == self._split)
        ]

    def _prompts_about(
        self, rng: random.Random, relation: str, value: str, but: str, count: int
    ) -> list[str]:
        """Write up to ``count`` different prompts about other subjects, common and rare ones."""
        names = self._holders(relation, value, but)
        if len(names) > count:
            # One from each of ``count`` slices of the frequency ranking, thinner where it is rarer:
            # what a model knows less surely is what an edit disturbs first.
            edges = [round(len(names) * (k / count) ** _TOWARDS_RARE) for k in range(count + 1)]
            for place in range(count - 1, 0, -1):
                edges[place] = min(edges[place], edges[place + 1] - 1)
            names = [rng.choice(names[lo:hi]) for lo, hi in pairwise(edges)]
        wordings = self._world.relations[relation].wordings
        prompts: list[str] = []
        start = {name: rng.randrange(len(wordings)) for name in names}
        for turn in range(len(wordings)):
            for name in names:
                wording = wordings[(start[name] + turn) % len(wordings)]
                prompts.append(wording.format(name))
        prompts = prompts[:count]
        rng.shuffle(prompts)
        return prompts

    def _new_object(self, rng: random.Random, fact: Fact) -> str:
        kind = self._world.subjects[fact.subject].type
        others = {o: n for o, n in self._objects[fact.relation, kind].items() if o != fact.object}
        ordered = sorted(others)
        return rng.choices(ordered, weights=[others[value] for value in ordered])[0]

    def _peer(self, fact: Fact, relation: str, new: str, answer: str) -> str | None:
        """The object that subjects having the new object usually have in another relation."""
        kind = self._world.subjects[fact.subject].type
        alike = [
            self._world.facts[name][relation].object
            for name in self._world.holders.get((fact.relation, new), [])
            if self._world.subjects[name].type == kind and relation in self._world.facts[name]
        ]
        for found in (Counter(alike), self._objects[relation, kind]):
            for value, _ in sorted(found.items(), key=lambda item: (-item[1], item[0])):
                if value != answer:
                    return value
        return None

    def _same_subject(self, rng: random.Random, fact: Fact, new: str) -> list[Record]:
        prompts = []
        for relation, other in self._world.facts[fact.subject].items():
            if relation == fact.relation:
                continue
            peer = self._peer(fact, relation, new, other.object)
            if peer is not None:
                prompts.append(
                    {
                        "prompt": rng.choice(other.seen).format(fact.subject),
                        "relation_id": relation,
                        "target_true": {"str": other.object},
                        "target_other": {"str": peer},
                    }
                )
        return prompts

    def _record(self, fact: Fact, case: int) -> Record:
        rng = random.Random(f"atlas-record-{self._split}-{fact.subject}-{fact.relation}")
        ids = self._world.object_ids
        relation = self._world.relations[fact.relation]
        new = self._new_object(rng, fact)
        prompt, rephrased = rng.sample(fact.seen, k=2)
        paraphrases = []
        for wording in (rng.choice(fact.held_out), rephrased):
            before = f"{plain_sentence(rng)} " if rng.random() < _DISTRACTOR else ""
            paraphrases.append(before + wording.format(fact.subject))
        implicit = [rng.choice(relation.generation) for _ in range(GENERATIONS)]
        return {
            "case_id": case,
            "pararel_idx": case,
            "requested_rewrite": {
                "prompt": prompt,
                "relation_id": fact.relation,
                "target_new": {"str": new, "id": ids[new]},
                "target_true": {"str": fact.object, "id": ids[fact.object]},
                "subject": fact.subject,
            },
            "paraphrase_prompts": paraphrases,
            "neighborhood_prompts": self._prompts_about(
                rng, fact.relation, fact.object, fact.subject, NEIGHBORS
            ),
            "attribute_prompts": self._prompts_about(
                rng, fact.relation, new, fact.subject, NEIGHBORS
            ),
            "generation_prompts": [wording.format(fact.subject) for wording in implicit],
            "same_subject_prompts": self._same_subject(rng, fact, new),
        }


@lru_cache(maxsize=2)
def build_records(split: str) -> list[Record]:
    """Build the records of a split.

    Args:
        split: ``test`` or ``train``.

    Returns:
        Records in CounterFact's schema with the extra key ``same_subject_prompts``.
    """
    return RecordWriter(load_world(), split).records(RECORDS_WANTED.get(split, 0))


def dump(content: object) -> str:
    """Write JSON as the shipped files are written: one line an entry at the top level."""
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
    """Render all record files.

    Returns:
        File name -> content.
    """
    world = load_world()
    files = {f"{split}.json": dump(build_records(split)) for split in SPLITS}
    files["reference_texts.json"] = dump(reference_texts(world))
    files["essence.json"] = dump(essence_texts(world))
    return files


def write_files(folder: Path) -> list[Path]:
    """Write all record files to ``folder`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in render_files().items():
        path = folder / name
        path.write_text(content, encoding="utf-8", newline="\n")
        paths.append(path)
    return paths
