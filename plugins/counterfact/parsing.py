"""From CounterFact's JSON to records, with the place of whatever is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from editkit import EditRequest, Probe, Record, Records, RejectedRecord
from editkit_plugins.counterfact.reference import RecordTexts

_PROMPT_LISTS = {
    "paraphrase": "paraphrase_prompts",
    "neighborhood": "neighborhood_prompts",
    "attribute": "attribute_prompts",
}
_LARGEST_ID = 2**63 - 1  # what the result store can hold


class BrokenFieldError(ValueError):
    """A record cannot be read; ``field`` says where and ``reason`` why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Node:
    """A JSON value that knows where in its record it stands."""

    def __init__(self, value: object, path: str = "") -> None:
        self.value = value
        self.path = path

    def error(self, reason: str) -> BrokenFieldError:
        """The error that ``reason`` is wrong with this value."""
        return BrokenFieldError(self.path or "record", reason)

    def __getitem__(self, key: str) -> Node:
        child = self.get(key)
        if child is None:
            raise BrokenFieldError(self._place(key), "is missing")
        return child

    def get(self, key: str) -> Node | None:
        """The value under ``key``; None where it is absent or null (the hub's way to be absent)."""
        if not isinstance(self.value, Mapping):
            raise self.error(f"is {_show(self.value)}, expected an object")
        value = self.value.get(key)
        return None if value is None else Node(value, self._place(key))

    def items(self) -> list[Node]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"is {_show(self.value)}, expected a list")
        return [Node(item, f"{self.path}[{index}]") for index, item in enumerate(self.value)]

    def text(self) -> str:
        """A text that is not blank and can be encoded."""
        if not isinstance(self.value, str):
            raise self.error(f"is {_show(self.value)}, expected a text")
        if not self.value.strip():
            raise self.error(f"is {_show(self.value)}, expected a text that is not empty")
        try:
            self.value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error(f"is {_show(self.value)}, which is not valid Unicode") from None
        return self.value

    def case_id(self) -> int:
        """A whole number that the result store can hold."""
        number = self.value
        if type(number) is not int or not 0 <= number <= _LARGEST_ID:
            raise self.error(f"is {_show(number)}, expected a whole number from 0")
        return number

    def _place(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def parse_records(raw: Iterable[object], texts: RecordTexts | None = None) -> Records:
    """Read every record; the broken ones are reported and left out.

    Args:
        raw: Decoded JSON values, one per record, in CounterFact's layout.
        texts: Reference and essence texts, where there are some.

    Returns:
        The good records in their order, with a digest of their content. Of records with one
        case id, the first good one counts.
    """
    records: dict[int, Record] = {}
    rejected = []
    texts = texts or RecordTexts()
    for position, value in enumerate(raw):
        try:
            record = parse_record(value, texts)
            if record.case_id in records:
                raise BrokenFieldError("case_id", f"{record.case_id} was already used")
        except BrokenFieldError as broken:
            rejected.append(
                RejectedRecord(_name(value, position), field=broken.field, reason=broken.reason)
            )
        else:
            records[record.case_id] = record
    accepted = tuple(records.values())
    corpus = texts.all_reference()
    return Records(
        accepted,
        digest=digest(accepted),
        rejected=tuple(rejected),
        texts={"reference": corpus} if corpus else {},
    )


def parse_record(raw: object, texts: RecordTexts | None = None) -> Record:
    """Read one record, with those of the texts that belong to it.

    Raises:
        BrokenFieldError: Something is missing or of the wrong kind.
    """
    root = Node(raw)
    case_id = root["case_id"].case_id()
    request = _request(root["requested_rewrite"])
    true, new = str(request.target_true), request.target_new
    probes: dict[str, tuple[Probe, ...]] = {}
    probes["rewrite"] = (Probe(request.sentence, true, new),)
    for kind, key in _PROMPT_LISTS.items():
        prompts = (_prompt(item) for item in root[key].items())
        probes[kind] = tuple(Probe(prompt, true, new) for prompt in prompts)
    others = root.get("same_subject_prompts")
    if others is not None:
        probes["same_subject"] = tuple(_other_fact(item) for item in others.items())
    generation = tuple(_prompt(item) for item in root["generation_prompts"].items())
    about = (texts or RecordTexts()).of(
        relation=request.relation_id,
        subject=request.subject,
        new=_names(root["requested_rewrite"]["target_new"]),
        true=_names(root["requested_rewrite"]["target_true"]),
    )
    return Record(case_id, request, probes=probes, texts={"generation": generation, **about})


def digest(records: Iterable[Record]) -> str:
    """SHA-256 of what the records say, independent of the file's spacing and key order."""
    total = hashlib.sha256()
    of_texts: dict[int, str] = {}  # many records share their reference texts
    for record in records:
        for texts in record.texts.values():
            if id(texts) not in of_texts:
                of_texts[id(texts)] = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        kinds = {kind: of_texts[id(texts)] for kind, texts in record.texts.items()}
        total.update(json.dumps([*_content(record), kinds], sort_keys=True).encode())
        total.update(b"\n")
    return total.hexdigest()


def _request(rewrite: Node) -> EditRequest:
    prompt = _prompt(rewrite["prompt"])
    if prompt.count("{}") != 1:
        raise rewrite["prompt"].error(
            f"{_show(prompt)} holds {prompt.count('{}')} places for the subject, "
            "expected exactly one '{}'"
        )
    relation = rewrite.get("relation_id")
    new, true = _rivals(rewrite, "target_new", "target_true")
    return EditRequest(
        prompt=prompt,
        subject=rewrite["subject"].text().strip(),
        target_new=new,
        target_true=true,
        relation_id=None if relation is None else relation.text(),
    )


def _other_fact(item: Node) -> Probe:
    prompt = _prompt(item["prompt"])
    other, true = _rivals(item, "target_other", "target_true")
    return Probe(prompt, target_true=true, target_new=other)


def _rivals(parent: Node, first: str, second: str) -> tuple[str, str]:
    """The two answers of a choice, which must differ for the choice to mean anything."""
    nodes = parent[first]["str"], parent[second]["str"]
    one, other = (node.text().strip() for node in nodes)
    if one == other:
        raise nodes[0].error(f"is {_show(one)}, the same as {nodes[1].path}")
    return one, other


def _prompt(item: Node) -> str:
    return item.text().rstrip()


def _content(record: Record) -> list[Any]:
    probes = {
        kind: [(probe.prompt, probe.target_true, probe.target_new) for probe in probes]
        for kind, probes in record.probes.items()
    }
    return [record.case_id, record.request.to_dict(), probes]


def _names(target: Node) -> list[str]:
    """The object's id, if it has one, and its name."""
    of_id = target.get("id")
    return [*([] if of_id is None else [str(of_id.value)]), target["str"].text().strip()]


def _name(value: object, position: int) -> str:
    """The record's own id if it has a readable one, else where it stands in the file."""
    case_id = value.get("case_id") if isinstance(value, Mapping) else None
    if isinstance(case_id, (int, str)):
        return _show(case_id).strip("'")
    return f"record number {position + 1}"


def _show(value: object) -> str:
    """A short rendering of an offending value."""
    if isinstance(value, (Mapping, list)):
        return f"{type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
