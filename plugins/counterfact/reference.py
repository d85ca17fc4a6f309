"""Texts that go with a record: about subjects that have its new object, and about its own subject.

Two layouts are read. A mapping ``relation -> object -> texts`` (objects by id or by name), with a
second file ``subject -> texts``; or the list that comes with CounterFact,
``[{relation_id, target_id, samples: [{name, text}]}]``, which tells both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from editkit import DatasetError
from editkit.records.reading import read_json

Texts = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RecordTexts:
    """Texts by what they are about.

    Attributes:
        reference: By relation and object, the object by its id or its name.
        essence: By subject.
        named: By relation, object and subject.
    """

    reference: Mapping[tuple[str, str], Texts] = dataclasses.field(default_factory=dict)
    essence: Mapping[str, Texts] = dataclasses.field(default_factory=dict)
    named: Mapping[tuple[str, str, str], Texts] = dataclasses.field(default_factory=dict)

    def all_reference(self) -> Texts:
        """All reference texts, in their order."""
        return tuple(text for texts in self.reference.values() for text in texts)

    def of(
        self, *, relation: str | None, subject: str, new: Iterable[str], true: Iterable[str]
    ) -> dict[str, Texts]:
        """The ``reference`` and ``essence`` texts of a record; a kind without any is absent.

        Args:
            relation: Its relation.
            subject: Its subject.
            new: Id and name of the new object, as far as they are known.
            true: Id and name of the true object.
        """
        references = (self.reference.get((relation or "", target)) for target in new)
        named = (self.named.get((relation or "", target, subject)) for target in true)
        found = {
            "reference": next(filter(None, references), ()),
            "essence": self.essence.get(subject) or next(filter(None, named), ()),
        }
        return {kind: texts for kind, texts in found.items() if texts}


def read_texts(reference: Path | None, essence: Path | None) -> RecordTexts:
    """The texts of one file or two.

    Raises:
        DatasetError: A file is absent, no JSON, or in neither layout.
    """
    pairs: dict[tuple[str, str], Texts] = {}
    named: dict[tuple[str, str, str], Texts] = {}
    if reference is not None:
        place = f"reference texts {str(reference)!r}"
        content = read_json(reference.expanduser(), what="reference texts")
        if isinstance(content, list) and content:
            pairs, named = _snippets(content, place)
        else:
            for relation, objects in _mapping(content, place).items():
                for target, texts in _mapping(objects, f"{place}, {relation}").items():
                    pairs[relation, target] = _texts(texts, f"{place}, {relation}, {target}")
    about: dict[str, Texts] = {}
    if essence is not None:
        place = f"essence texts {str(essence)!r}"
        content = read_json(essence.expanduser(), what="essence texts")
        for subject, texts in _mapping(content, place).items():
            about[subject] = _texts(texts, f"{place}, {subject}")
    return RecordTexts(pairs, about, named)


def _snippets(
    content: list[Any], place: str
) -> tuple[dict[tuple[str, str], Texts], dict[tuple[str, str, str], Texts]]:
    pairs: dict[tuple[str, str], list[str]] = {}
    named: dict[tuple[str, str, str], list[str]] = {}
    for number, entry in enumerate(content):
        here = f"{place}, entry {number}"
        try:
            relation, target = str(entry["relation_id"]), str(entry["target_id"])
            samples = [(str(sample.get("name", "")), sample["text"]) for sample in entry["samples"]]
        except (TypeError, KeyError, AttributeError):
            raise _wrong(
                here, "an object with relation_id, target_id and samples of texts"
            ) from None
        _texts([text for _, text in samples], here)
        for name, text in samples:
            pairs.setdefault((relation, target), []).append(text)
            named.setdefault((relation, target, name), []).append(text)
    return _as_tuples(pairs), _as_tuples(named)


def _as_tuples(lists: Mapping[Any, list[str]]) -> dict[Any, Texts]:
    return {key: tuple(texts) for key, texts in lists.items()}


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise _wrong(place, "an object that is not empty")
    return value


def _texts(value: Any, place: str) -> Texts:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _wrong(place, "a list of texts")
    return tuple(value)


def _wrong(place: str, expected: str) -> DatasetError:
    return DatasetError(
        f"{place}: expected {expected}.", hint="docs/datasets.md shows the layouts of such files."
    )
