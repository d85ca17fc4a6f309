"""What one training step sees of a record: an edit, where it must show, and where it must not."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple

from editkit import DatasetError, LanguageModel, Record
from editkit.models import Completion
from editkit.prompts import fill

_OUTER = "paraphrase"
_LOCAL = "neighborhood"


@dataclasses.dataclass(frozen=True)
class Item:
    """One fact to be learnt from, as texts.

    Attributes:
        edits: Prompts with which it may be written.
        targets: What may be written there.
        outer: Prompts with which the new target must be found, too.
        locality: Prompts and answers that must stay as they are.
        separator: What stands between prompt and target; None: the default rule.
        chat: Whether the prompts are users' turns in a chat.
    """

    edits: tuple[str, ...]
    targets: tuple[str, ...]
    outer: tuple[str, ...]
    locality: tuple[Stays, ...]
    separator: str | None = None
    chat: bool = False


class Stays(NamedTuple):
    """A prompt whose answer must stay as it is, and how it is asked."""

    prompt: str
    answer: str
    separator: str | None
    chat: bool


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One edit of a step, as tokens.

    Attributes:
        edit: The fact that is written.
        outer: Where it must be found.
        locality: What must stay; as many for every edit of the step.
    """

    edit: Completion
    outer: Completion
    locality: tuple[Completion, ...]


def items_of(
    records: Sequence[Record], *, other_targets: bool = False, other_wordings: bool = False
) -> list[Item]:
    """Items of all records.

    Args:
        records: Records with paraphrases and neighbours.
        other_targets: Whether any new object of the relation may be written, instead of the
            record's own only.
        other_wordings: Whether the fact may be written and asked for in the words of any record
            of its relation, besides its own.

    Raises:
        DatasetError: A record lacks paraphrases or neighbours.
    """
    objects: dict[str, dict[str, None]] = {}
    wordings: dict[str, dict[str, None]] = {}
    for record in records:
        if relation := record.request.relation_id:
            objects.setdefault(relation, {})[record.request.target_new] = None
            wordings.setdefault(relation, {})[record.request.prompt] = None
    items = []
    for record in records:
        request = record.request
        relation = request.relation_id or ""
        _check(record)
        targets = [request.target_new]
        if other_targets:
            targets += [each for each in objects.get(relation, ()) if each != request.target_true]
        reworded = []
        if other_wordings:
            reworded = [fill(each, request.subject) for each in wordings.get(relation, ())]
        rephrased = [probe.prompt for probe in record.probes[_OUTER]]
        items.append(
            Item(
                edits=_distinct([request.sentence, *reworded]),
                targets=_distinct(targets),
                outer=_distinct([*rephrased, *reworded]),
                locality=tuple(
                    Stays(p.prompt, p.target_true, p.separator, p.chat)
                    for p in record.probes[_LOCAL]
                ),
                separator=request.separator,
                chat=request.chat,
            )
        )
    return items


def _check(record: Record) -> None:
    for kind in (_OUTER, _LOCAL):
        if not record.probes.get(kind):
            raise DatasetError(
                f"case {record.case_id} has no {kind} prompt, which training needs.",
                hint="Train on a dataset whose records have rephrased and neighbouring prompts.",
            )


def _distinct(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def draw(
    model: LanguageModel,
    items: Sequence[Item],
    generator: random.Random,
    *,
    n: int,
    locality: int,
    related: float,
) -> list[Drawn]:
    """The edits of one step.

    Args:
        model: Whose tokens are wanted.
        items: What to draw from.
        generator: The only source of chance.
        n: How many edits.
        locality: Facts that must stay, for each edit.
        related: Share of them that are the edit's own neighbours; others belong to any item.
    """
    drawn = []
    for item in generator.sample(items, min(n, len(items))):
        target = generator.choice(item.targets)
        near = [generator.random() < related for _ in range(locality)]
        stay = [
            generator.choice((item if own else generator.choice(items)).locality) for own in near
        ]
        edits, outers = generator.choice(item.edits), generator.choice(item.outer)
        facts = [Stays(text, target, item.separator, item.chat) for text in (edits, outers)]
        prompts, answers, separators, chats = zip(*facts, *stay, strict=True)
        edit, outer, *kept = model.complete(prompts, answers, separators=separators, chat=chats)
        drawn.append(Drawn(edit, outer, tuple(kept)))
    return drawn
