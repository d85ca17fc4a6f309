"""The dataset ``ripple-edits``: records in the layout of RippleEdits (Cohen et al. 2024)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from editkit import (
    Consequence,
    Dataset,
    DatasetError,
    EditRequest,
    OpenQuestion,
    Probe,
    Record,
    Records,
)
from editkit.records.reading import Node, place_of, read_records, read_source
from editkit_plugins.ripple_edits.config import RippleEditsConfig
from editkit_plugins.ripple_edits.statements import Evidence, Reading, readings, settled

GROUPS = {
    "Logical_Generalization": "logical_generalization",
    "Compositionality_I": "compositionality_1",
    "Compositionality_II": "compositionality_2",
    "Subject_Aliasing": "aliases",
    "Forgetfulness": "forgetfulness",
    "Relation_Specificity": "relation_specificity",
}
"""Key of the record -> group of consequences."""

_OTHER_SPELLINGS = {"Relation_Specificity": "Relation_Specifity"}  # of the published readme
_TYPES = {
    "recent": "recent",
    "recently_added_fact": "recent",
    "random": "random",
    "popular": "popular",
}
_NEEDS: Mapping[object, Literal["any", "all"]] = {"OR": "any", "AND": "all"}
_log = logging.getLogger(__name__)


class RippleEditsDataset(Dataset[RippleEditsConfig]):
    """Edits with tests of what follows from them, by criterion."""

    def load(self) -> Records:
        """Read all records. Broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: The file or hub dataset does not exist or is not a list of records, or
                there is no example of the chosen subset.
        """
        config, subset = self.config, self.config.subset
        if config.path is not None and config.path.expanduser().is_dir():
            if subset is None:
                raise DatasetError(
                    f"path {str(config.path)!r} is a folder, expected a file or a subset.",
                    hint="Add subset: recent, random or popular, to read the file of this name.",
                )
            file = config.path / f"{subset}.json"
            return self._read(read_source(config.model_copy(update={"path": file})))
        raw = list(read_source(config))
        if subset is not None:
            raw = [value for value in raw if _type_of(value) in (subset, None)]
            if not raw:
                raise DatasetError(
                    f"there is no example of the subset {subset!r}.",
                    hint="Check 'example_type' in the file, or leave out 'subset'.",
                )
        return self._read(raw, subset)

    def _read(self, raw: Iterable[object], subset: str | None = None) -> Records:
        unanswerable: list[str] = []
        loaded = read_records(
            raw,
            lambda root, position: parse_record(root, position, subset, unanswerable),
            config=self.config,
        )
        if unanswerable:
            _log.warning(
                "%d tests are left out because a question has no answer; the first is %s",
                len(unanswerable),
                unanswerable[0],
            )
        return loaded


def _type_of(value: object) -> str | None:
    """The subset that an example names; None if it names none."""
    named = value.get("example_type") if isinstance(value, Mapping) else None
    return _TYPES.get(named) if isinstance(named, str) else None


# ---------------------------------------------------------------- tests


@dataclasses.dataclass(frozen=True)
class _Query:
    """A question with the ids that say what it asks.

    Attributes:
        question: None if there is nothing to answer.
        subject: Id of the subject.
        relation: Name of the relation.
        plain: Whether it is the relation's own phrase about the subject.
        answers: Spellings of each answer.
        targets: Ids of the answers; empty if there is not one for each.
    """

    question: OpenQuestion | None
    subject: object
    relation: object
    plain: bool
    prompt: str
    answers: tuple[tuple[str, ...], ...]
    targets: tuple[object, ...]


def parse_record(
    root: Node, position: int, subset: str | None = None, unanswerable: list[str] | None = None
) -> Record:
    """Parse one example.

    Args:
        root: The example.
        position: Its number in the file, which becomes its case id.
        subset: The subset that it must name, if any.
        unanswerable: Receives the places of tests that are left out because a question has no
            answer.

    Raises:
        BrokenFieldError: A field is missing or of the wrong type, or the edit's sentence cannot
            be taken apart.
    """
    if subset is not None and _type_of(root.value) != subset:
        raise root["example_type"].error(f"is {root['example_type']}, expected {subset!r}")
    queries: list[_Query] = []
    consequences: dict[str, tuple[Consequence, ...]] = {}
    lists = {key: _criterion(root, key) for key in GROUPS}
    if not any(lists.values()):
        raise root.error(f"has none of the criteria {', '.join(GROUPS)}")
    for key, node in lists.items():
        tests = []
        for item in node.items() if node is not None else ():
            test = _test(item, queries)
            if test is not None:
                tests.append(test)
            elif unanswerable is not None:
                unanswerable.append(f"{place_of(position)}: {item.path}")
        if tests:
            consequences[GROUPS[key]] = tuple(tests)
    request, others = _edit(root["edit"], queries)
    probes = {}
    if request.target_true is not None:
        probes["rewrite"] = (Probe(request.sentence, request.target_true, request.target_new),)
    return Record(
        position,
        request,
        probes=probes,
        consequences=consequences,
        aliases={request.target_new: others} if others else {},
    )


def _criterion(root: Node, key: str) -> Node | None:
    node = root.get(key)
    return root.get(_OTHER_SPELLINGS[key]) if node is None and key in _OTHER_SPELLINGS else node


def _test(item: Node, queries: list[_Query]) -> Consequence | None:
    """A test; None if one of its questions has no answer. All its queries become evidence."""
    asked = [_query(each) for each in item["test_queries"].items()]
    if not asked:
        raise item["test_queries"].error("is empty, expected at least one query")
    condition = item["test_condition"]
    needs = _NEEDS.get(condition.value) if isinstance(condition.value, str) else None
    if needs is None:
        raise condition.error(f"is {condition}, expected 'OR' or 'AND'")
    before = item.get("condition_queries")
    conditions = [_query(each) for each in before.items()] if before is not None else []
    queries += [*asked, *conditions]
    questions, known = (
        tuple(query.question for query in some if query.question is not None)
        for some in (asked, conditions)
    )
    if len(questions) + len(known) < len(asked) + len(conditions):
        return None
    return Consequence(questions, needs, known)


def _query(node: Node) -> _Query:
    prompt = node["prompt"].prompt()
    answers = [_spellings(each) for each in node["answers"].items()]
    two_hop = _plain(node.get("query_type")) == "two_hop"
    ids = node.get("second_hop_target_ids" if two_hop else "target_ids")
    targets = tuple(each.value for each in ids.items()) if ids is not None else ()
    return _Query(
        question=OpenQuestion(prompt, tuple(answers)) if answers and all(answers) else None,
        subject=_plain(node.get("subject_id")),
        relation=_plain(node.get("relation")),
        plain=not two_hop and node.get("phrase") is None,
        prompt=prompt,
        answers=tuple(answers),
        targets=targets if len(targets) == len(answers) else (),
    )


def _plain(node: Node | None) -> object:
    return None if node is None else node.value


def _spellings(answer: Node) -> tuple[str, ...]:
    """The value and its aliases, without blank ones."""
    aliases = answer.get("aliases")
    nodes = [answer["value"], *(aliases.items() if aliases is not None else ())]
    texts = (node.text().strip() for node in nodes if not _is_blank(node))
    return tuple(dict.fromkeys(texts))


def _is_blank(node: Node) -> bool:
    return isinstance(node.value, str) and not node.value.strip()


# ---------------------------------------------------------------- the edit


def _edit(edit: Node, queries: list[_Query]) -> tuple[EditRequest, tuple[str, ...]]:
    """The edit, and other spellings of its new object."""
    sentence = edit["prompt"].text().strip()
    if "{}" in sentence:
        raise edit["prompt"].error(f"{sentence!a:.60} contains '{{}}', the subject's mark")
    relation, subject = edit["relation"].text().strip(), edit["subject_id"].text()
    target = edit["target_id"]
    if not isinstance(target.value, (str, int)):
        raise target.error(f"is {target}, expected an id")
    old = edit.get("original_fact")
    old = edit.get("previous_fact") if old is None else old
    spellings = tuple(_spellings_of(target.value, queries))
    evidence = Evidence(
        old=None if old is None else old["prompt"].text().strip(),
        prompts={q.prompt for q in _about(queries, subject) if q.relation == relation},
        targets=set(spellings),
        about_subject={
            (q.relation, q.prompt)
            for q in _about(queries, subject)
            if isinstance(q.relation, str) and q.relation != relation
        },
    )
    reading = _given(edit) or _read(edit, sentence, relation, evidence)
    true = _old_target(old, reading)
    request = EditRequest(
        prompt=reading.template,
        subject=reading.subject,
        target_new=reading.target,
        target_true=None if true == reading.target else true,
        relation_id=relation,
    )
    return request, tuple(each for each in spellings if each != reading.target)


def _about(queries: list[_Query], subject: str) -> Iterator[_Query]:
    return (query for query in queries if query.plain and query.subject == subject)


def _spellings_of(target: object, queries: list[_Query]) -> Iterator[str]:
    """Spellings of the object with an id, from all questions that have it as an answer."""
    same = (
        answer
        for query in queries
        for identifier, answer in zip(query.targets, query.answers, strict=False)
        if identifier == target and type(identifier) is type(target)
    )
    return iter(dict.fromkeys(spelling for answer in same for spelling in answer))


def _given(edit: Node) -> Reading | None:
    """The reading that the keys ``subject`` and ``target`` give, if they are there."""
    if edit.get("subject") is None and edit.get("target") is None:
        return None
    subject, target = (edit[key].text().strip() for key in ("subject", "target"))
    sentence = edit["prompt"].text().strip()
    before = sentence.removesuffix(".")
    if not before.endswith(target):
        raise edit["target"].error(f"{target!a:.60} is not at the end of prompt")
    before = before.removesuffix(target).rstrip()
    if subject not in before:
        raise edit["subject"].error(f"{subject!a:.60} is not in prompt, before the object")
    return Reading(before.replace(subject, "{}", 1), subject, target)


def _read(edit: Node, sentence: str, relation: str, evidence: Evidence) -> Reading:
    possible = settled(readings(sentence, relation), evidence)
    if len(possible) == 1:
        return possible[0]
    extra = "add the keys 'subject' and 'target'"
    if possible:
        subjects = " or ".join(repr(reading.subject) for reading in possible)
        raise edit["prompt"].error(f"has the subject {subjects:.160}: {extra}")
    raise edit["prompt"].error(
        f"{sentence!a:.60} is not the phrase of {relation!a:.40} with a subject, an object and a "
        f"full stop: {extra}"
    )


def _old_target(old: Node | None, reading: Reading) -> str | None:
    """The object of the old fact; None if there is no such fact or object."""
    if old is None:
        return None
    sentence = old["prompt"].text().strip().removesuffix(".")
    if not f"{sentence} ".startswith(f"{reading.prompt} "):
        raise old["prompt"].error(
            f"{sentence!a:.60} does not begin with {reading.prompt!a:.80}, as the edit does"
        )
    return sentence.removeprefix(reading.prompt).strip() or None
