"""Tests of consequences and aliases of answers in JSON, for datasets of any layout.

::

    "consequences": {"compositionality_1": [
        {"questions": [{"prompt": "The Louvre is in the country of", "answers": [["Italy"]]}],
         "needs": "any",
         "conditions": [{"prompt": "Rome is in the country of", "answers": [["Italy"]]}]}]},
    "aliases": {"Rome": ["Roma", "the Eternal City"]}

``needs`` and ``conditions`` are optional, and so is ``chat`` of a question. This is the form of
:meth:`editkit.Consequence.to_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping

from editkit.consequences import Consequence, OpenQuestion
from editkit.records.reading import Node

__all__ = ["read_aliases", "read_consequences"]


def read_consequences(node: Node | None) -> dict[str, tuple[Consequence, ...]]:
    """The tests of a record by group.

    Args:
        node: A mapping of groups to lists of tests; None: no tests.

    Raises:
        BrokenFieldError: A field is missing or of the wrong type.
    """
    if node is None:
        return {}
    return {
        name: tuple(_test(each) for each in node[name].items())
        for name in _keys(node)
        if node.get(name) is not None
    }


def read_aliases(node: Node | None) -> dict[str, tuple[str, ...]]:
    """Other spellings of answers, by answer.

    Args:
        node: A mapping of answers to lists of texts; None: no aliases.

    Raises:
        BrokenFieldError: A field is of the wrong type.
    """
    if node is None:
        return {}
    return {
        name.strip(): tuple(each.answer() for each in node[name].items())
        for name in _keys(node)
        if node.get(name) is not None
    }


def _keys(node: Node) -> list[str]:
    if not isinstance(node.value, Mapping):
        raise node.error(f"is {node}, expected an object")
    return list(node.value)


def _test(node: Node) -> Consequence:
    questions = _questions(node["questions"])
    if not questions:
        raise node["questions"].error("is empty, expected at least one question")
    needs, conditions = node.get("needs"), node.get("conditions")
    if needs is not None and needs.value not in ("any", "all"):
        raise needs.error(f"is {needs}, expected 'any' or 'all'")
    return Consequence(
        questions,
        "all" if needs is not None and needs.value == "all" else "any",
        () if conditions is None else _questions(conditions),
    )


def _questions(node: Node) -> tuple[OpenQuestion, ...]:
    return tuple(_question(each) for each in node.items())


def _question(node: Node) -> OpenQuestion:
    answers = [
        tuple(spelling.answer() for spelling in answer.items())
        for answer in node["answers"].items()
    ]
    if not answers or not all(answers):
        raise node["answers"].error(
            f"is {node['answers']}, expected a list of answers, each a list of spellings"
        )
    chat = node.get("chat")
    if chat is not None and not isinstance(chat.value, bool):
        raise chat.error(f"is {chat}, expected true or false")
    return OpenQuestion(
        node["prompt"].prompt(), tuple(answers), chat=chat is not None and chat.value is True
    )
