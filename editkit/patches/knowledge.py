"""Common knowledge for questions about an edit: facts, and several wordings of their relations.

A model that a plugin offers may have a table of its own (:attr:`ModelSpec.facts`); for other models
there is a general one, ``common.json``. It has facts of a few hundred well-known subjects.

In a table, a wording with a question mark is for chats, and other wordings are for plain prompts. A
relation whose facts have no group fits any kind of subject.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from editkit.errors import EditkitError, PluginError
from editkit.patches.answers import same_object
from editkit.prompts import fill
from editkit.records.relations import FactTable, Relation, RelationFact, parse_relations
from editkit.registry.guard import Guard, PluginFailure
from editkit.registry.models import is_registered
from editkit.registry.plugins import default_registry, resolve
from editkit.registry.specs import REFERENCE, ModelSpec
from editkit.storage.resources import resource_text

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = [
    "Knowledge",
    "Prompt",
    "knowledge_for",
    "named",
    "openings",
    "script_of",
    "with_subject",
]

_GENERAL = "editkit.patches:common.json"
_OPENINGS = "editkit.patches:openings.json"
_ARTICLE = re.compile(r"\bthe (?=\{\})", re.IGNORECASE)
_SPACES = re.compile(r"\s+")


class Prompt(NamedTuple):
    """A prompt about a subject of the table, or about the edited one.

    Attributes:
        text: The prompt.
        subject: Its subject.
        relation: Identifier of its relation; empty if it is unknown.
        is_template: Whether it is in the user's words: the edited prompt with another subject.
    """

    text: str
    subject: str
    relation: str = ""
    is_template: bool = False


def knowledge_for(model: LanguageModel) -> Knowledge:
    """The table for a model: its own, or the general one.

    Raises:
        PluginError: The model's own table cannot be read.
    """
    reference = None
    if model.source is not None and is_registered(model.source):
        spec = cast("ModelSpec", default_registry().get("model", model.source).spec)
        reference = spec.facts
    return _read(reference or _GENERAL, f"model {model.source!r}" if reference else "editkit")


@functools.lru_cache(maxsize=8)
def _read(reference: str, owner: str) -> Knowledge:
    table = _made(reference, owner) if REFERENCE.fullmatch(reference) else _parsed(reference, owner)
    if not isinstance(table, FactTable):
        raise PluginError(
            f"{reference}, the facts of {owner}, returned {table!r:.80}, expected a FactTable.",
            hint="Report this to the plugin's author.",
        )
    return Knowledge(table)


def _made(reference: str, owner: str) -> Any:
    function = resolve(reference, what=f"the facts of {owner}")
    try:
        with Guard(f"reading the facts of {owner}"):
            return function()
    except PluginFailure as failure:
        raise PluginError(
            f"{reference}, the facts of {owner}, failed: {failure}.",
            hint="Run again with --debug for the traceback, and report it to the plugin's author.",
        ) from failure.__cause__


def _parsed(reference: str, owner: str) -> FactTable:
    text = resource_text(reference, owner=owner)
    try:
        return parse_relations(json.loads(text), f"{reference}, the facts of {owner},").table
    except (EditkitError, ValueError) as error:
        raise PluginError(
            f"{reference}, the facts of {owner}, cannot be read: {error}",
            hint="docs/datasets.md shows the layout. Report this to the plugin's author.",
        ) from error


@functools.lru_cache(maxsize=1)
def openings() -> dict[str, list[str]]:
    """Neutral sentences by script (:func:`script_of`), to put before a prompt."""
    content: dict[str, list[str]] = json.loads(resource_text(_OPENINGS))
    return content


def script_of(text: str) -> str:
    """The script of most letters of a text, as Unicode names it; ``KANA`` for Japanese.

    Empty if there are no letters.
    """
    counts: Counter[str] = Counter()
    for character in filter(str.isalpha, text.replace("{}", "")):
        script = unicodedata.name(character, "?").split()[0]
        counts["KANA" if script in ("HIRAGANA", "KATAKANA") else script] += 1
    if counts["KANA"]:
        return "KANA"
    return counts.most_common(1)[0][0] if counts else ""


def named(template: str, request_prompt: str, subject: str) -> str:
    """A wording about the edited subject, with ``the`` before it as in the edited prompt.

    Args:
        template: The wording.
        request_prompt: The edited prompt with ``{}`` for the subject.
        subject: The edited subject.
    """
    return with_subject(template, f"the {subject}" if _ARTICLE.search(request_prompt) else subject)


def with_subject(template: str, name: str) -> str:
    """A template with a subject, which may begin with ``the``: ``The Louvre is in``."""
    text = fill(_ARTICLE.sub("", template), name)
    is_first = template.casefold().startswith(("{}", "the {}"))
    return f"{text[0].upper()}{text[1:]}" if is_first and name.startswith("the ") else text


def _key(template: str) -> str:
    """A template without what does not matter when templates are compared."""
    plain = _SPACES.sub(" ", _ARTICLE.sub("", template)).casefold()
    return plain.strip(" .:;,?!")


def _name(subject: str) -> str:
    return subject.casefold().removeprefix("the ")


class Knowledge:
    """A table of facts, asked about subjects, objects and wordings.

    Args:
        table: The facts.
    """

    def __init__(self, table: FactTable) -> None:
        self.table = table

    @functools.cached_property
    def script(self) -> str:
        """The script of the wordings."""
        texts = [wording for each in self.table.relations.values() for wording in each.wordings]
        return script_of(" ".join(texts))

    @functools.cached_property
    def _subjects(self) -> dict[str, str]:
        return {_name(name): name for name in reversed(self.table.of_subject)}

    @functools.cached_property
    def _relations(self) -> dict[str, list[str]]:
        """Relations by each of their wordings."""
        relations: dict[str, list[str]] = {}
        wordings = [(each.id, w) for each in self.table.relations.values() for w in each.wordings]
        for fact in self.table.facts:
            wordings += [(fact.relation, w) for w in (*fact.wordings, *fact.rephrasings)]
        for relation, wording in wordings:
            of = relations.setdefault(_key(wording), [])
            if relation not in of:
                of.append(relation)
        return relations

    @functools.cached_property
    def _groups(self) -> dict[str, set[str]]:
        """Kinds of subjects of each relation; an empty set if it fits any kind."""
        groups: dict[str, set[str]] = {}
        for fact in self.table.facts:
            groups.setdefault(fact.relation, set()).add(fact.group)
        return {relation: kinds - {""} for relation, kinds in groups.items()}

    def facts_of(self, subject: str) -> list[RelationFact]:
        """The facts of a subject, whatever its case; empty if it is not in the table."""
        return self.table.of_subject.get(self._subjects.get(_name(subject), ""), [])

    def relation_of(self, template: str, subject: str, objects: Iterable[str]) -> Relation | None:
        """The relation that a template asks for.

        It is known if the template is one of its wordings, or if one of the objects is the
        subject's for a single relation.

        Args:
            template: A prompt with ``{}`` for the subject.
            subject: The subject.
            objects: The old and the new object.
        """
        facts = self.facts_of(subject)
        own = {fact.relation for fact in facts}
        worded = self._relations.get(_key(template), [])
        if worded:
            return self.table.relations[next((each for each in worded if each in own), worded[0])]
        wanted = list(objects)
        matching = {f.relation for f in facts if any(same_object(f.object, o) for o in wanted)}
        return self.table.relations[matching.pop()] if len(matching) == 1 else None

    def wordings(self, relation: Relation, *, chat: bool, but: str = "") -> list[str]:
        """Wordings of a relation for a chat or for plain prompts, without one of them."""
        return [w for w in _fitting(relation.wordings, chat=chat) if _key(w) != _key(but)]

    def neighbors(
        self, template: str, subject: str, old: str, relation: Relation | None, *, chat: bool
    ) -> tuple[list[Prompt], list[Prompt]]:
        """Prompts about other subjects that may have the old object, the likeliest first.

        Subjects with names that contain the edited subject or the old object, or are part of them,
        are left out. There are none for a template in another script than the table's.

        Args:
            template: The edited prompt with ``{}`` for the subject.
            subject: The edited subject.
            old: The old object.
            relation: The edited relation, if it is known.
            chat: Whether they are asked in a chat.

        Returns:
            The template with other subjects, and wordings of facts that have the old object.
        """
        if not self._reads(template):
            return [], []
        holders = [
            fact
            for fact in self.table.facts
            if same_object(fact.object, old) and _is_other(fact.subject, subject, old)
        ]
        edited = "" if relation is None else relation.id
        holders.sort(key=lambda fact: fact.relation != edited)
        kinds = self._kinds(subject, relation)
        others = [
            fact.subject
            for fact in (*holders, *self.table.facts)
            if (not kinds or fact.group in kinds) and _is_other(fact.subject, subject, old)
        ]
        names = dict.fromkeys(others)
        filled = [
            Prompt(with_subject(template, name), name, edited, is_template=True) for name in names
        ]
        known = [
            Prompt(with_subject(wording, fact.subject), fact.subject, fact.relation)
            for fact in holders
            for wording in _fitting(self.table.wordings(fact), chat=chat)
            if _key(wording) != _key(template)
        ]
        return filled, known

    def about(
        self, template: str, subject: str, relation: Relation | None, *, chat: bool
    ) -> tuple[list[Prompt], list[Prompt]]:
        """Prompts about other facts of a subject.

        Args:
            template: The edited prompt with ``{}`` for the subject.
            subject: The edited subject.
            relation: The edited relation, if it is known.
            chat: Whether they are asked in a chat.

        Returns:
            Prompts for the facts that the table has, and for relations that fit the subject's kind
            or any kind.
        """
        if not self._reads(template):
            return [], []
        edited = "" if relation is None else relation.id
        own = {fact.relation for fact in self.facts_of(subject)} - {edited}
        kinds = self._kinds(subject, relation)
        fitting = [
            name
            for name, of in self._groups.items()
            if name not in own and name != edited and (not of or of & kinds)
        ]

        def prompts(relations: Iterable[str]) -> Iterator[Prompt]:
            for name in relations:
                for wording in _fitting(self.table.relations[name].wordings, chat=chat):
                    if _key(wording) != _key(template):
                        yield Prompt(named(wording, template, subject), subject, name)

        known = [each for each in self.table.relations if each in own]
        return list(prompts(known)), list(prompts(fitting))

    def has_fact(self, subject: str, relation: str) -> bool:
        """Whether the table has the subject's object of the relation."""
        return any(fact.relation == relation for fact in self.facts_of(subject))

    def is_true(self, subject: str, relation: str, text: str) -> bool:
        """Whether it is the subject's object of the relation in the table."""
        return any(
            fact.relation == relation and same_object(fact.object, text)
            for fact in self.facts_of(subject)
        )

    def is_object(self, text: str, relation: str) -> bool:
        """Whether it is an object of the relation in the table."""
        return any(
            same_object(text, each)
            for (name, _), objects in self.table.objects.items()
            if name == relation
            for each in objects
        )

    def _reads(self, template: str) -> bool:
        """Whether a template is in the script of the table's wordings."""
        return script_of(template) in (self.script, "")

    def _kinds(self, subject: str, relation: Relation | None) -> set[str]:
        """Kinds that a subject may be of; empty if nothing is known about it."""
        own = {fact.group for fact in self.facts_of(subject)} - {""}
        if own or relation is None:
            return own
        return self._groups.get(relation.id, set())


def _fitting(wordings: Iterable[str], *, chat: bool) -> list[str]:
    """Questions for a chat, if there are any; other wordings for plain prompts."""
    wordings = list(wordings)
    questions = [each for each in wordings if "?" in each]
    if chat and questions:
        return questions
    return [each for each in wordings if each not in questions]


def _is_other(name: str, subject: str, old: str) -> bool:
    """Whether a name is unrelated to the edited subject and does not give the answer away."""
    name = _name(name)
    return not any(name in text or text in name for text in (_name(subject), _name(old)))
