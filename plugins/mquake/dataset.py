"""The dataset ``mquake``: records in the layout of MQuAKE (Zhong et al. 2023).

A record is a chain of facts, of which some are edited, and questions about its end. Its tests are
the groups

    multi_hop      the questions, with the new answer; on condition that the model knows the hops
                   that are not edited
    old_answer     the same questions, with the answer before the edits
    single_hops    one test for each hop of the new chain: an edited hop by the edit's own prompt,
                   any other one by its question
    original_hops  one test for each hop of the original chain, by its question
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping

from editkit import Consequence, Dataset, EditRequest, OpenQuestion, Probe, Record, Records
from editkit.records.config import PromptConfig
from editkit.records.reading import Node, read_records, read_source
from editkit_plugins.mquake.config import MQuakeConfig

_MOST_PLACES = 3
_log = logging.getLogger(__name__)


class MQuakeDataset(Dataset[MQuakeConfig]):
    """Records in MQuAKE's layout: CF, CF-3k, CF-3k-v2, T, or the harder CF-3151 and others."""

    def load(self) -> Records:
        """Read all records. Broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: The file or hub dataset does not exist or is not a list of records.
        """
        return parse_records(read_source(self.config), self.config)


def parse_records(raw: Iterable[object], config: PromptConfig | None = None) -> Records:
    """Parse every record. Broken ones are skipped and reported.

    Args:
        raw: Decoded JSON values, one per record.
        config: How prompts are asked.
    """
    blank: list[str] = []

    def parse(root: Node, _: int) -> Record:
        parser = _Parser()
        record = parser.record(root)
        blank.extend(f"case {record.case_id}, {place}" for place in parser.blank)
        return record

    records = read_records(raw, parse, config=config)
    if blank:
        _log.warning(
            "left out: %d blank alias%s (%s%s).",
            *(len(blank), "es" * (len(blank) > 1)),
            *("; ".join(blank[:_MOST_PLACES]), "; ..." * (len(blank) > _MOST_PLACES)),
        )
    return records


@dataclasses.dataclass(frozen=True)
class _Edit:
    """An edit with the question about it, if the record has one."""

    request: EditRequest
    question: str | None


@dataclasses.dataclass(frozen=True)
class _Hop:
    """A hop of a chain.

    Attributes:
        question: None if the record has only the prompt.
        cloze: The prompt; None if the record has only the question.
        spellings: The answer and its aliases.
    """

    question: str | None
    cloze: str | None
    spellings: tuple[str, ...]


class _Parser:
    """Parses one record; ``blank`` has the places of aliases without a text."""

    def __init__(self) -> None:
        self.blank: list[str] = []

    def record(self, root: Node) -> Record:
        """Parse a record.

        Raises:
            BrokenFieldError: A field is missing, of the wrong type or unusable.
        """
        case_id = root["case_id"].case_id()
        edits = self._edits(root["requested_rewrite"])
        questions = tuple(dict.fromkeys(_sentence(node) for node in root["questions"].items()))
        if not questions:
            raise root["questions"].error("is an empty list, expected at least one question")
        new = self._spellings(root, "new_answer", "new_answer_alias")
        old = self._spellings(root, "answer", "answer_alias") if _has(root, "answer") else ()
        if old:
            extended = root.get("answer_extended")  # MQuAKE-T: other answers before the edit
            more = () if extended is None else self._texts(extended)
            old = tuple(dict.fromkeys((*old, *more)))
        hops, original = (self._hops(root, key) for key in ("new_single_hops", "single_hops"))
        spellings = [each.spellings for each in (*hops, *original)] + [new, *([old] if old else [])]
        return Record(
            case_id,
            edits[0].request,
            probes=_probes(edits),
            also=tuple(edit.request for edit in edits[1:]),
            consequences=_tests(edits, questions, (new, old), hops, original),
            aliases=_aliases([edit.request for edit in edits], spellings),
        )

    def _edits(self, rewrites: Node) -> list[_Edit]:
        """The edits, each once. Hub tables may have a single one without a list."""
        nodes = rewrites.items() if isinstance(rewrites.value, list) else [rewrites]
        if not nodes:
            raise rewrites.error("is an empty list, expected at least one edit")
        edits: dict[EditRequest, _Edit] = {}
        for node in nodes:
            edit = _edit(node)
            edits.setdefault(edit.request, edit)
        return list(edits.values())

    def _hops(self, root: Node, key: str) -> list[_Hop]:
        node = root.get(key)
        return [] if node is None else [self._hop(each) for each in node.items()]

    def _hop(self, node: Node) -> _Hop:
        question, cloze = (
            _sentence(child) if (child := node.get(key)) is not None else None
            for key in ("question", "cloze")
        )
        if question is None and cloze is None:
            raise node["question"].error("is missing, and so is cloze")
        return _Hop(question, cloze, self._spellings(node, "answer", "answer_alias"))

    def _spellings(self, parent: Node, answer: str, aliases: str) -> tuple[str, ...]:
        """An answer and its aliases, each once."""
        own, others = parent[answer].answer(), parent.get(aliases)
        more = () if others is None else self._aliases(others)
        return tuple(dict.fromkeys((own, *more)))

    def _aliases(self, aliases: Node) -> Iterator[str]:
        if isinstance(aliases.value, str):
            raise aliases.error(f"is {aliases}, expected a list")
        for node in aliases.items():
            if node.value is None or (isinstance(node.value, str) and not node.value.strip()):
                self.blank.append(node.path)
            else:
                yield node.text().strip()

    def _texts(self, node: Node) -> Iterator[str]:
        """All texts in a value, however it is nested."""
        if isinstance(node.value, list):
            for each in node.items():
                yield from self._texts(each)
        elif isinstance(node.value, Mapping):
            for key in node.value:
                if (child := node.get(key)) is not None:
                    yield from self._texts(child)
        elif node.value is None or (isinstance(node.value, str) and not node.value.strip()):
            self.blank.append(node.path)
        else:
            yield node.text().strip()


def _has(root: Node, key: str) -> bool:
    return root.get(key) is not None


def _sentence(node: Node) -> str:
    """A prompt without a place for a subject."""
    prompt = node.prompt()
    if "{}" in prompt:
        raise node.error(f"is {node}, with the mark '{{}}' of a subject")
    return prompt


def _edit(node: Node) -> _Edit:
    prompt, subject = node["prompt"].template(), node["subject"].text().strip()
    if "{}" in subject:
        raise node["subject"].error(f"is {node['subject']}, with the mark '{{}}' of a subject")
    new = node["target_new"]["str"].answer()
    target_true = node.get("target_true")
    true = None
    if target_true is not None and _has(target_true, "str"):
        true = target_true["str"].answer()
        if true == new:
            raise node["target_new"]["str"].error(
                f"is {new!a:.60}, the same as {target_true['str'].path}"
            )
    relation, question = node.get("relation_id"), node.get("question")
    request = EditRequest(
        prompt=prompt,
        subject=subject,
        target_new=new,
        target_true=true,
        relation_id=None if relation is None else relation.text(),
    )
    return _Edit(request, None if question is None else _sentence(question))


# ---------------------------------------------------------------- probes and tests


def _probes(edits: list[_Edit]) -> dict[str, tuple[Probe, ...]]:
    """The edits' prompts, and as paraphrases the questions about them."""
    pairs = [
        (edit, edit.request.target_true, edit.request.target_new)
        for edit in edits
        if edit.request.target_true is not None
    ]
    probes = {
        "rewrite": tuple(Probe(edit.request.sentence, true, new) for edit, true, new in pairs),
        "paraphrase": tuple(
            Probe(edit.question, true, new) for edit, true, new in pairs if edit.question
        ),
    }
    return {kind: each for kind, each in probes.items() if each}


def _tests(
    edits: list[_Edit],
    questions: tuple[str, ...],
    answers: tuple[tuple[str, ...], tuple[str, ...]],
    hops: list[_Hop],
    original: list[_Hop],
) -> dict[str, tuple[Consequence, ...]]:
    """The tests of a record by group."""
    new, old = answers
    prompts = {edit.request.sentence: edit.request.sentence for edit in edits}
    prompts |= {edit.question: edit.request.sentence for edit in edits if edit.question}
    single, unedited = [], []
    for hop in hops:
        own = prompts.get(hop.cloze or "") or prompts.get(hop.question or "")
        single.append(OpenQuestion(own or _asked(hop), (hop.spellings,)))
        if own is None:
            unedited.append(single[-1])
    groups = {
        "multi_hop": [Consequence(_all(questions, new), "any", tuple(unedited))],
        "old_answer": [Consequence(_all(questions, old))] if old and not {*old} & {*new} else [],
        "single_hops": [Consequence((each,)) for each in single],
        "original_hops": [
            Consequence((OpenQuestion(_asked(hop), (hop.spellings,)),)) for hop in original
        ],
    }
    return {group: tuple(tests) for group, tests in groups.items() if tests}


def _asked(hop: _Hop) -> str:
    """A hop's question; its prompt if it has no question."""
    return hop.question or str(hop.cloze)


def _all(questions: tuple[str, ...], spellings: tuple[str, ...]) -> tuple[OpenQuestion, ...]:
    return tuple(OpenQuestion(question, (spellings,)) for question in questions)


def _aliases(
    requests: list[EditRequest], spellings: list[tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Other spellings of the edits' objects, which the record has where they are answers."""
    objects = [each.target_new for each in requests]
    objects += [each.target_true for each in requests if each.target_true is not None]
    aliases: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(objects):
        others = dict.fromkeys(
            other for own in spellings if own[0] == name for other in own if other != name
        )
        if others:
            aliases[name] = tuple(others)
    return aliases
