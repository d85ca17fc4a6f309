"""Facts and the wordings of their relations, read from one of two layouts.

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
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path

from editkit import DatasetError, RejectedRecord
from editkit.records.reading import BrokenFieldError, Node, read_json
from editkit.storage.resources import resource_text

_SUBJECT, _OBJECT = "[X]", "[Y]"
_ENDS_AT_OBJECT = re.compile(r"(?P<before>[^[\]]*\[X\][^[\]]*)\[Y\]\s*[.!?]?\s*")
_SPACES = re.compile(r"\s+")


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
class Fact:
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
    facts: tuple[Fact, ...]

    @cached_property
    def of_subject(self) -> dict[str, list[Fact]]:
        """All facts of each subject."""
        facts: dict[str, list[Fact]] = {}
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

    def wordings(self, fact: Fact) -> tuple[str, ...]:
        """Prompts under which a fact may be rewritten."""
        return fact.wordings or self.relations[fact.relation].wordings

    def rephrasings(self, fact: Fact) -> tuple[str, ...]:
        """Prompts that may serve as paraphrases of a fact."""
        return fact.rephrasings or self.wordings(fact)


# ---------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class Facts:
    """The content of a file of facts.

    Attributes:
        table: The usable facts.
        rejected: Broken facts, each with its place and the reason.
        unusable: Relations without facts, or with fewer than two wordings that end at the object.
        no_generation: Relations without generation prompts.
    """

    table: FactTable
    rejected: tuple[RejectedRecord, ...]
    unusable: tuple[str, ...]
    no_generation: tuple[str, ...]


def read_facts(
    path: Path,
    *,
    only: tuple[str, ...] = (),
    generation: Mapping[str, tuple[str, ...]] | None = None,
) -> Facts:
    """Read a file of facts. If a fact occurs twice, the first one counts.

    Args:
        path: A JSON file, plain or gzip-compressed.
        only: Identifiers of the relations to read. Empty: all.
        generation: Generation prompts by relation, for relations that have none of their own. By
            default those that ship with editkit.

    Raises:
        DatasetError: The file cannot be read, has no usable relation, or lacks a relation of
            ``only``.
    """
    content = read_json(path, "file of facts")
    if not isinstance(content, Mapping) or not content:
        raise DatasetError(
            f"file of facts {str(path)!r} holds no relations, expected a JSON object of relations.",
            hint="docs/datasets.md shows the two layouts.",
        )
    if missing := [name for name in only if name not in content]:
        raise DatasetError(
            f"file of facts {str(path)!r} has no relation {missing[0]!r}.",
            hint=f"It has {', '.join(list(content)[:50])}.",
        )
    generation = shipped_generation_prompts() if generation is None else generation
    relations: dict[str, Relation] = {}
    facts: dict[tuple[str, str, str], Fact] = {}
    rejected: list[RejectedRecord] = []
    place = -1
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
            place += 1  # counted over all relations: the number does not depend on ``only``
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
    wordings = {name: set(relation.wordings) for name, relation in relations.items()}
    for fact in facts.values():
        wordings[fact.relation].update(fact.wordings, fact.rephrasings)
    with_facts = {fact.relation for fact in facts.values()}
    unusable = tuple(
        name
        for name, relation in relations.items()
        if name not in with_facts or not relation.wordings or len(wordings[name]) < 2
    )
    used = {name: of for name, of in relations.items() if name not in unusable}
    if not used:
        reason = f" ({rejected[0].field}: {rejected[0].reason})" if rejected else ""
        raise DatasetError(
            f"file of facts {str(path)!r} has no usable relation{reason}.",
            hint="A relation needs facts, and two wordings that end right before the object.",
        )
    return Facts(
        FactTable(used, tuple(fact for fact in facts.values() if fact.relation in used)),
        tuple(rejected),
        unusable,
        tuple(name for name, relation in used.items() if not relation.generation),
    )


def read_generation_prompts(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a file of generation prompts: relation -> texts with one ``{}`` for the subject.

    Raises:
        DatasetError: The file cannot be read, or one of its texts is broken.
    """
    root = Node(read_json(path, "file of generation prompts"))
    try:
        return dict(_generation_prompts(root))
    except BrokenFieldError as broken:
        raise DatasetError(
            f"file of generation prompts {str(path)!r}: {broken}.",
            hint="Expected an object of lists: relation -> texts with one '{}' for the subject.",
        ) from None


@cache
def shipped_generation_prompts() -> Mapping[str, tuple[str, ...]]:
    """Our own generation prompts for the relations of ParaRel."""
    text = resource_text("editkit_plugins.counterfact.compiling:generation.json")
    return dict(_generation_prompts(Node(json.loads(text))))


def _generation_prompts(root: Node) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not isinstance(root.value, Mapping):
        raise root.error(f"is {root}, expected an object")
    for name in root.value:
        yield name, tuple(item.template() for item in root[name].items())


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


def _fact(relation: Relation, item: Node, place: int) -> Fact:
    is_pararel = item.get("sub_label") is not None
    subject = item["sub_label" if is_pararel else "subject"]
    value = item["obj_label" if is_pararel else "object"].text().strip()
    name = subject.text().strip()
    if "{}" in name:
        raise subject.error(f"is {subject}, which contains '{{}}', the subject's mark")
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
