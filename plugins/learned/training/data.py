"""Training data: edits with prompts where they must hold and prompts that must stay unchanged.

They come from records of a dataset, from the papers' flat files, or from plain text.
"""

from __future__ import annotations

import dataclasses
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import override

from editkit import DatasetError, EditkitError, EditRequest, LanguageModel, Probe, Record
from editkit.models import Completion
from editkit.prompts import fill
from editkit.records.config import with_prompt_config
from editkit.records.reading import BrokenFieldError, Node, prompt_config_of

_REPHRASED = "paraphrase"
_LOCALITY = "neighborhood"
_MIN_TOKENS = 4
_TARGET_TOKENS = 8


@dataclasses.dataclass(frozen=True)
class TrainingEdit:
    """One edit of a training step, as tokens.

    Attributes:
        edit: The fact that is written.
        rephrased: The same fact in other words, where the edit must hold too.
        locality: Facts that must stay as they are; as many for each edit of a step.
    """

    edit: Completion
    rephrased: Completion
    locality: tuple[Completion, ...]


class Source(ABC):
    """A supply of edits for training and for validation. Draws depend only on the generator."""

    @abstractmethod
    def draw(
        self, generator: random.Random, *, n: int, locality: int, related: float
    ) -> list[TrainingEdit]:
        """Draw the edits of one training step.

        Args:
            generator: The only source of randomness.
            n: Number of edits.
            locality: Facts per edit that must stay.
            related: Share of those facts that are the edit's own neighbours. The rest belong to
                any record.
        """

    @abstractmethod
    def held_out(self, n: int, locality: int) -> list[TrainingEdit]:
        """Edits for validation. Every call returns the same ones."""

    records: Sequence[Record] = ()
    """Held-out records for scores. Empty if the data has no records."""


# ---------------------------------------------------------------- records


class LocalityFact(NamedTuple):
    """A prompt and the answer that must stay, with the request's ``separator`` and ``chat``."""

    prompt: str
    answer: str
    separator: str | None
    chat: bool


@dataclasses.dataclass(frozen=True)
class FactTexts:
    """The texts that the edits of one fact are drawn from.

    Attributes:
        prompts: Prompts under which the fact may be written.
        targets: Objects that may be written.
        rephrased: Prompts under which the new object must hold too.
        locality: Prompts and answers that must stay as they are.
        separator: Text between prompt and target. None: the default rule.
        chat: Whether the prompts are user turns of a chat.
    """

    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    rephrased: tuple[str, ...]
    locality: tuple[LocalityFact, ...]
    separator: str | None = None
    chat: bool = False


class RecordSource(Source):
    """Edits from records, with some held out for validation.

    Args:
        model: The model whose tokenizer is used.
        records: All records.
        held_out_share: Share of the records held out for validation.
        variation: ``other_targets`` and ``other_wordings``, as for :func:`fact_texts`.

    Raises:
        DatasetError: There are too few records, or one lacks prompts that training needs.
    """

    def __init__(
        self,
        model: LanguageModel,
        records: Sequence[Record],
        held_out_share: float,
        **variation: bool,
    ) -> None:
        n_held_out = max(1, round(held_out_share * len(records)))
        if len(records) - n_held_out < 1:
            raise DatasetError(
                f"{len(records)} records cannot be split into training and validation.",
                hint="Give more records.",
            )
        self._model = model
        shuffled = list(records)
        random.Random("split").shuffle(shuffled)
        self.records = tuple(shuffled[:n_held_out])
        self._facts = fact_texts(shuffled[n_held_out:], **variation)
        self._held_out = fact_texts(self.records)

    @override
    def draw(
        self, generator: random.Random, *, n: int, locality: int, related: float
    ) -> list[TrainingEdit]:
        return draw_edits(
            self._model, self._facts, generator, n=n, locality=locality, related=related
        )

    @override
    def held_out(self, n: int, locality: int) -> list[TrainingEdit]:
        generator = random.Random("held out")
        return draw_edits(
            self._model, self._held_out, generator, n=n, locality=locality, related=1.0
        )


def fact_texts(
    records: Sequence[Record], *, other_targets: bool = False, other_wordings: bool = False
) -> list[FactTexts]:
    """Collect the texts of each record.

    Args:
        records: Records with paraphrases and neighbours.
        other_targets: Whether any other object of the relation may be written, not only the
            record's own new object.
        other_wordings: Whether the fact may also be written and tested in the words of any other
            record of its relation.

    Raises:
        DatasetError: A record lacks paraphrases or neighbours.
    """
    objects: dict[str, dict[str, None]] = {}
    wordings: dict[str, dict[str, None]] = {}
    for request in (each for record in records for each in record.requests):
        if relation := request.relation_id:
            objects.setdefault(relation, {})[request.target_new] = None
            wordings.setdefault(relation, {})[request.prompt] = None
    facts = []
    for record, request in [(each, edit) for each in records for edit in each.requests]:
        relation = request.relation_id or ""
        probes = _about(record, request)
        for kind in (_REPHRASED, _LOCALITY):
            if not probes.get(kind):
                raise DatasetError(
                    f"case {record.case_id} has no {kind} prompt, which training needs.",
                    hint="Train on a dataset with paraphrase and neighborhood prompts.",
                )
        targets = [request.target_new]
        if other_targets:
            targets += [each for each in objects.get(relation, ()) if each != request.target_true]
        reworded = []
        if other_wordings:
            reworded = [fill(each, request.subject) for each in wordings.get(relation, ())]
        rephrased = [probe.prompt for probe in probes[_REPHRASED]]
        facts.append(
            FactTexts(
                prompts=_distinct([request.sentence, *reworded]),
                targets=_distinct(targets),
                rephrased=_distinct([*rephrased, *reworded]),
                locality=tuple(
                    LocalityFact(p.prompt, p.target_true, p.separator, p.chat)
                    for p in probes[_LOCALITY]
                ),
                separator=request.separator,
                chat=request.chat,
            )
        )
    return facts


def _about(record: Record, request: EditRequest) -> Mapping[str, Sequence[Probe]]:
    """The record's probes, of several edits without paraphrases of the others."""
    if not record.also:
        return record.probes
    own = [p for p in record.probes.get(_REPHRASED, ()) if p.target_new == request.target_new]
    return {**record.probes, _REPHRASED: own}


def _distinct(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def draw_edits(
    model: LanguageModel,
    facts: Sequence[FactTexts],
    generator: random.Random,
    *,
    n: int,
    locality: int,
    related: float,
) -> list[TrainingEdit]:
    """Draw edits of different facts; arguments as for :meth:`Source.draw`."""
    edits = []
    for fact in generator.sample(facts, min(n, len(facts))):
        target = generator.choice(fact.targets)
        is_related = [generator.random() < related for _ in range(locality)]
        stay = [
            generator.choice((fact if own else generator.choice(facts)).locality)
            for own in is_related
        ]
        prompt, rephrased = generator.choice(fact.prompts), generator.choice(fact.rephrased)
        prompts = [prompt, rephrased, *(each.prompt for each in stay)]
        completions = model.complete(
            prompts,
            [target, target, *(each.answer for each in stay)],
            separators=[fact.separator] * 2 + [each.separator for each in stay],
            chat=[fact.chat] * 2 + [each.chat for each in stay],
        )
        edits.append(TrainingEdit(completions[0], completions[1], tuple(completions[2:])))
    return edits


# ---------------------------------------------------------------- plain text


class TextSource(Source):
    """Edits that continue one text like another, as in MEND's training on text generation.

    An edit writes the first tokens of a second text after the beginning of a first one. It must
    also hold after a later part of that beginning, and other texts must stay as likely as before.

    Args:
        model: The model whose tokenizer is used.
        texts: Texts. Short ones are skipped.
        held_out_share: Share of the texts held out for validation.

    Raises:
        DatasetError: There are too few texts.
    """

    def __init__(self, model: LanguageModel, texts: Sequence[str], held_out_share: float) -> None:
        longest = model.context_length - _TARGET_TOKENS
        ids = [each.ids[:longest] for each in model.encode(texts, empty=True)]
        usable = [each for each in ids if len(each) >= 2 * _MIN_TOKENS]
        n_held_out = max(2, round(held_out_share * len(usable)))
        if len(usable) - n_held_out < 2:
            raise DatasetError(
                f"{len(usable)} texts of at least {2 * _MIN_TOKENS} tokens cannot be split into "
                "training and validation.",
                hint="Give a corpus with more or longer texts.",
            )
        random.Random("split").shuffle(usable)
        self._held_out, self._texts = usable[:n_held_out], usable[n_held_out:]

    @override
    def draw(
        self, generator: random.Random, *, n: int, locality: int, related: float
    ) -> list[TrainingEdit]:
        return [_draw_continuation(self._texts, generator, locality) for _ in range(n)]

    @override
    def held_out(self, n: int, locality: int) -> list[TrainingEdit]:
        generator = random.Random("held out")
        return [_draw_continuation(self._held_out, generator, locality) for _ in range(n)]


def _draw_continuation(
    texts: Sequence[tuple[int, ...]], generator: random.Random, locality: int
) -> TrainingEdit:
    first, second = generator.sample(texts, 2)
    cut = generator.randint(_MIN_TOKENS, len(first) - 1)
    skip = generator.randint(0, cut - 1)
    target = second[:_TARGET_TOKENS]
    stay = (generator.choice(texts) for _ in range(locality))
    return TrainingEdit(
        edit=Completion(first[:cut], target),
        rephrased=Completion(first[skip:cut], target),
        locality=tuple(Completion(each[:1], each[1:]) for each in stay),
    )


# ---------------------------------------------------------------- the papers' flat files


def flat_records(path: Path) -> list[Record]:
    """Records of a flat training file: the CounterFact or zsRE split that the papers train on.

    Each entry has a prompt, a target, a rephrased prompt, and a prompt with an answer that must
    stay. It may set ``separator`` and ``chat``. Broken entries are skipped; a file without a
    usable entry is refused.

    Raises:
        DatasetError: The file does not exist, is not a JSON list, or has no usable entry.
    """
    try:
        entries = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"training data {str(path)!r} cannot be read: {error}.",
            hint="Give a JSON file with a list of records.",
        ) from None
    if not isinstance(entries, list) or not entries:
        raise DatasetError(
            f"training data {str(path)!r} is not a list of records, or is empty.",
            hint="Give a JSON file with a list of records.",
        )
    records, reasons = [], []
    for number, entry in enumerate(entries):
        try:
            records.append(_flat_record(number, entry))
        except (KeyError, TypeError, BrokenFieldError, EditkitError) as error:
            reasons.append(f"entry {number}: {type(error).__name__} {error}")
    if not records:
        raise DatasetError(
            f"training data {str(path)!r} has no usable entry out of {len(entries)} "
            f"({reasons[0]}).",
            hint="Entries need a prompt, a target, a rephrased prompt and a locality prompt; see "
            "'editkit explain training'.",
        )
    return records


def _flat_record(number: int, entry: Mapping[str, Any]) -> Record:
    fields = _ZSRE if "src" in entry else _COUNTERFACT
    prompt, new, true, rephrased, locality, answer = (read(entry) for read in fields)
    subject = str(entry["subject"])
    if subject not in prompt:  # KE and MEND do not use the subject; any word of the prompt will do
        subject = prompt.split()[0]
    before, _, after = prompt.partition(subject)
    request = EditRequest(f"{before}{{}}{after}", subject, new, true)
    record = Record(
        case_id=number,
        request=request,
        probes={
            "rewrite": (Probe(prompt, true, new),),
            _REPHRASED: (Probe(rephrased, true, new),),
            _LOCALITY: (Probe(locality, answer, new),),
        },
    )
    return with_prompt_config(record, prompt_config_of(Node(entry)))


def _field(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda entry: str(entry[name]).strip()


_COUNTERFACT = tuple(
    _field(name)
    for name in (
        "prompt",
        "target_new",
        "ground_truth",
        "rephrase_prompt",
        "locality_prompt",
        "locality_ground_truth",
    )
)
_ZSRE = (
    _field("src"),
    _field("alt"),
    _field("pred"),
    _field("rephrase"),
    lambda entry: f"{str(entry['loc']).strip()}?",
    _field("loc_ans"),
)
