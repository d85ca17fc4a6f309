"""Takes the sentence of an edit apart: prompt, subject and object.

RippleEdits stores an edit as one sentence, made from the relation's phrase, such as ``The name of
the mother of <subject> is <object>.``, with Wikidata ids in place of the names. Where a name
contains the words between subject and object (``is``), several readings are possible. The rest of
the example decides between them: the sentence of the old fact, questions about the same subject and
relation, the spellings of the object, and other questions about the subject.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator

__all__ = ["Evidence", "Reading", "readings", "settled"]

_ASSOCIATED = "which {} is associated with is"
_PHRASES = {
    "AWARD_RECEIVED": "The name of the award {} won is",
    "CAPITAL": "The name of the capital city of {} is",
    "CAPITAL_OF": "The name of the country which {} is the capital of is",
    "CAST_MEMBER": "The names of the cast members of {} are",
    "CONTINENT": "The name of the continent which {} is part of is",
    "COUNTRY": f"The name of the country {_ASSOCIATED}",
    "CURRENCY": "The name of the currency in {} is",
    "ETHNIC_GROUP": f"The name of the ethnic group {_ASSOCIATED}",
    "FOLLOWED_BY": "{} is followed by",
    "FOLLOWS": "{} follows",
    "LEAGUE": "The name of the league which {} plays in is",
    "LIKELY_ANTHEM": "The name of the anthem that is most likely to be performed in {} is",
    "MEMBER_OF_SPORTS_TEAM": "The name of the sports team which {} is a member of is",
    "NATIVE_LANGUAGE": "The mother tongue of {} is",
    "NUMBER_OF_CHILDREN": "The number of children {} has is",
    "POSITION_HELD": "The name of the position held by {} is",
    "RELIGION": f"The name of the religion {_ASSOCIATED}",
    "SEX_OR_GENDER": "The gender of {} is",
    "SIBLING": "The names of the siblings of {} are",
}
"""Phrases of relations that do not follow from the relation's name."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way to read the sentence of a fact.

    Attributes:
        template: The sentence up to the object, with ``{}`` for the subject.
        subject: The subject's name.
        target: The object's name.
    """

    template: str
    subject: str
    target: str

    @property
    def prompt(self) -> str:
        """The sentence up to the object."""
        return self.template.replace("{}", self.subject)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the rest of an example shows about the fact that it edits.

    Attributes:
        old: The sentence of the fact before the edit, if there is one.
        prompts: Prompts that ask for the edited relation of the subject.
        targets: Spellings of the new object.
        about_subject: Other relations of the subject, each with the prompt that asks for it.
    """

    old: str | None = None
    prompts: Collection[str] = ()
    targets: Collection[str] = ()
    about_subject: Collection[tuple[str, str]] = ()


def readings(sentence: str, relation: str) -> list[Reading]:
    """All ways to read a sentence as the relation's phrase with a subject and an object.

    Args:
        sentence: The sentence, with its full stop.
        relation: The relation's name in the file, such as ``PLACE_OF_BIRTH``.
    """
    return [
        reading
        for template in _templates(relation)
        for reading in _in_template(sentence.removesuffix("."), template)
    ]


def settled(possible: list[Reading], evidence: Evidence) -> list[Reading]:
    """The readings that agree best with the rest of the example; one if it decides.

    A kind of evidence that speaks for none of the readings is not used.
    """
    rules: list[Callable[[Reading], bool]] = [
        lambda reading: evidence.old is not None and evidence.old.startswith(reading.prompt + " "),
        lambda reading: reading.prompt in evidence.prompts,
        lambda reading: reading.target in evidence.targets,
        lambda reading: any(
            template.replace("{}", reading.subject) == prompt
            for relation, prompt in evidence.about_subject
            for template in _templates(relation)
        ),
    ]
    for rule in rules:
        possible = [reading for reading in possible if rule(reading)] or possible
    return possible


def _templates(relation: str) -> list[str]:
    if relation in _PHRASES:
        return [_PHRASES[relation]]
    noun = relation.lower().replace("_", " ")
    return [f"The name of the {noun} of {{}} is", f"The {noun} of {{}} is"]


def _in_template(sentence: str, template: str) -> Iterator[Reading]:
    before, _, after = template.partition("{}")
    if not sentence.startswith(before):
        return
    rest, end = sentence[len(before) :], f"{after} "
    at = rest.find(end, 1)
    while at > 0:
        subject, target = rest[:at], rest[at + len(end) :]
        if subject == subject.strip() and subject and target.strip():
            yield Reading(template, subject, target.strip())
        at = rest.find(end, at + 1)
