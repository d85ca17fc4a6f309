"""The dataset ``counterfact``: records in CounterFact's layout, and the texts that go with them.

``docs/datasets.md`` shows the layouts of both files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from editkit import Dataset, DatasetError, EditRequest, Probe, Record, Records
from editkit.prompts import trimmed_prompt
from editkit.records.config import PromptConfig
from editkit.records.consequences import read_aliases, read_consequences
from editkit.records.reading import Node, read_json, read_records, read_source
from editkit_plugins.counterfact.config import CounterFactConfig

_PROMPT_LISTS = {
    "paraphrase": "paraphrase_prompts",
    "neighborhood": "neighborhood_prompts",
    "attribute": "attribute_prompts",
}
"""Kind of probes -> key of the record."""

Texts = tuple[str, ...]


class CounterFactDataset(Dataset[CounterFactConfig]):
    """Records in CounterFact's layout.

    A dataset of your own in this layout needs only a path::

        class MyDataset(CounterFactDataset):
            def __init__(self, config: MyConfig) -> None:
                super().__init__(CounterFactConfig(path=MY_FILE))
    """

    def load(self) -> Records:
        """Read all records. Broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: The file or hub dataset does not exist or is not a list of records, or a
                file of texts cannot be read.
        """
        texts = read_texts(self.config.reference_texts, self.config.essence_texts)
        return parse_records(read_source(self.config), texts, self.config)


# ---------------------------------------------------------------- records


def parse_records(
    raw: Iterable[object],
    texts: RecordTexts | None = None,
    config: PromptConfig | None = None,
) -> Records:
    """Parse every record. Broken ones are skipped and reported.

    Args:
        raw: Decoded JSON values, one per record, in CounterFact's layout.
        texts: Reference and essence texts, if there are any.
        config: How prompts are asked.
    """
    texts = texts or RecordTexts()
    corpus = texts.all_reference()
    return read_records(
        raw,
        lambda node, _: parse_record(node, texts),
        texts={"reference": corpus} if corpus else {},
        config=config,
    )


def parse_record(root: Node, texts: RecordTexts | None = None) -> Record:
    """Parse one record and attach its texts.

    Raises:
        BrokenFieldError: A field is missing or of the wrong type.
    """
    case_id = root["case_id"].case_id()
    rewrite = root["requested_rewrite"]
    request = _request(rewrite)
    true, new = str(request.target_true), request.target_new
    probes: dict[str, tuple[Probe, ...]] = {"rewrite": (Probe(request.sentence, true, new),)}
    for kind, key in _PROMPT_LISTS.items():
        probes[kind] = tuple(Probe(item.prompt(), true, new) for item in root[key].items())
    other_facts = root.get("same_subject_prompts")
    if other_facts is not None:
        probes["same_subject"] = tuple(_other_fact(item) for item in other_facts.items())
    generation = tuple(trimmed_prompt(each.text()) for each in root["generation_prompts"].items())
    attached = (texts or RecordTexts()).of_record(
        relation=request.relation_id,
        subject=request.subject,
        new=_names(rewrite["target_new"]),
        true=_names(rewrite["target_true"]),
    )
    return Record(
        case_id,
        request,
        probes=probes,
        texts={"generation": generation, **attached},
        consequences=read_consequences(root.get("consequences")),
        aliases=read_aliases(root.get("aliases")),
    )


def _request(rewrite: Node) -> EditRequest:
    relation = rewrite.get("relation_id")
    prompt = rewrite["prompt"].template()
    new, true = _two_answers(rewrite, "target_new", "target_true")
    return EditRequest(
        prompt=prompt,
        subject=rewrite["subject"].text().strip(),
        target_new=new,
        target_true=true,
        relation_id=None if relation is None else relation.text(),
    )


def _other_fact(item: Node) -> Probe:
    prompt = item["prompt"].prompt()
    other, true = _two_answers(item, "target_other", "target_true")
    return Probe(prompt, target_true=true, target_new=other)


def _two_answers(parent: Node, first: str, second: str) -> tuple[str, str]:
    """The two answers that a prompt chooses between. They must differ."""
    nodes = parent[first]["str"], parent[second]["str"]
    one, other = (node.answer() for node in nodes)
    if one == other:
        raise nodes[0].error(f"is {one!a:.60}, the same as {nodes[1].path}")
    return one, other


def _names(target: Node) -> list[str]:
    """The object's id, if it has one, and its name."""
    identifier = target.get("id")
    name = target["str"].text().strip()
    return [name] if identifier is None else [str(identifier.value), name]


# ---------------------------------------------------------------- reference and essence texts


@dataclasses.dataclass(frozen=True)
class RecordTexts:
    """Texts about the new object, and texts about the subject.

    Attributes:
        reference: Texts by relation and object. The object is an id or a name.
        essence: Texts by subject.
        named: Texts by relation, object and subject; essence texts of CounterFact's own file.
    """

    reference: Mapping[tuple[str, str], Texts] = dataclasses.field(default_factory=dict)
    essence: Mapping[str, Texts] = dataclasses.field(default_factory=dict)
    named: Mapping[tuple[str, str, str], Texts] = dataclasses.field(default_factory=dict)

    def all_reference(self) -> Texts:
        """All reference texts, in their order."""
        return tuple(text for texts in self.reference.values() for text in texts)

    def of_record(
        self, *, relation: str | None, subject: str, new: Iterable[str], true: Iterable[str]
    ) -> dict[str, Texts]:
        """The ``reference`` and ``essence`` texts of a record. A kind without texts is left out.

        Args:
            relation: Its relation.
            subject: Its subject.
            new: Id and name of the new object, as far as they are known.
            true: Id and name of the true object.
        """
        about_new = (self.reference.get((relation or "", target)) for target in new)
        about_subject = (self.named.get((relation or "", target, subject)) for target in true)
        texts = {
            "reference": next(filter(None, about_new), ()),
            "essence": self.essence.get(subject) or next(filter(None, about_subject), ()),
        }
        return {kind: each for kind, each in texts.items() if each}


def read_texts(reference: Path | None, essence: Path | None) -> RecordTexts:
    """Read the files of reference and essence texts.

    Args:
        reference: CounterFact's ``attribute_snippets.json``, a list of ``{relation_id, target_id,
            samples: [{name, text}]}`` that also has texts about subjects; or a mapping
            ``relation -> object -> texts``.
        essence: A mapping ``subject -> texts``.

    Raises:
        DatasetError: A file does not exist, is not JSON, or has another layout.
    """
    by_object: dict[tuple[str, str], Texts] = {}
    by_name: dict[tuple[str, str, str], Texts] = {}
    if reference is not None:
        place = f"reference texts {str(reference)!r}"
        content = read_json(reference.expanduser(), what="reference texts")
        if isinstance(content, list) and content:
            by_object, by_name = _snippets(content, place)
        else:
            for relation, objects in _mapping(content, place).items():
                for target, texts in _mapping(objects, f"{place}, {relation}").items():
                    by_object[relation, target] = _texts(texts, f"{place}, {relation}, {target}")
    by_subject: dict[str, Texts] = {}
    if essence is not None:
        place = f"essence texts {str(essence)!r}"
        content = read_json(essence.expanduser(), what="essence texts")
        for subject, texts in _mapping(content, place).items():
            by_subject[subject] = _texts(texts, f"{place}, {subject}")
    return RecordTexts(by_object, by_subject, by_name)


def _snippets(
    content: list[Any], place: str
) -> tuple[dict[tuple[str, str], Texts], dict[tuple[str, str, str], Texts]]:
    """Texts of ``attribute_snippets.json`` by object, and by object and subject."""
    by_object: dict[tuple[str, str], list[str]] = {}
    by_name: dict[tuple[str, str, str], list[str]] = {}
    for number, entry in enumerate(content):
        entry_place = f"{place}, entry {number}"
        try:
            relation, target = str(entry["relation_id"]), str(entry["target_id"])
            samples = [(str(sample.get("name", "")), sample["text"]) for sample in entry["samples"]]
        except (TypeError, KeyError, AttributeError):
            raise _wrong_layout(
                entry_place, "an object with relation_id, target_id and samples of texts"
            ) from None
        _texts([text for _, text in samples], entry_place)
        for name, text in samples:
            by_object.setdefault((relation, target), []).append(text)
            by_name.setdefault((relation, target, name), []).append(text)
    return _as_tuples(by_object), _as_tuples(by_name)


def _as_tuples(lists: Mapping[Any, list[str]]) -> dict[Any, Texts]:
    return {key: tuple(texts) for key, texts in lists.items()}


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise _wrong_layout(place, "an object that is not empty")
    return value


def _texts(value: Any, place: str) -> Texts:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _wrong_layout(place, "a list of texts")
    return tuple(value)


def _wrong_layout(place: str, expected: str) -> DatasetError:
    return DatasetError(
        f"{place}: expected {expected}.",
        hint="'editkit explain datasets' shows the layouts of such files.",
    )
