"""Where training edits come from: records of a dataset, the papers' flat files, or plain text."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from editkit import DatasetError, EditkitError, EditRequest, LanguageModel, Probe, Record
from editkit.models import Completion
from editkit.records.files import BrokenFieldError, Node, own_prompts
from editkit.records.prompts import asked
from editkit_plugins.learned.training.items import Drawn, draw, items_of

_SHORTEST = 4
_TARGET = 8


class Source(ABC):
    """Training edits and validation edits, drawn by chance that only the seed decides."""

    @abstractmethod
    def draw(
        self, generator: random.Random, *, n: int, locality: int, related: float
    ) -> list[Drawn]:
        """Edits of one training step."""

    @abstractmethod
    def held_out(self, n: int, locality: int) -> list[Drawn]:
        """Edits for validation, the same ones whenever asked."""

    records: Sequence[Record] = ()
    """Records for validation by scores; empty where the data has none."""


class RecordSource(Source):
    """Edits of records, some of them kept for validation.

    Args:
        model: Whose tokens are wanted.
        records: All of them.
        share: Share that is kept for validation.
        varied: What else may be drawn, as for :func:`items_of`.

    Raises:
        DatasetError: There are too few, or one lacks prompts that training needs.
    """

    def __init__(
        self, model: LanguageModel, records: Sequence[Record], share: float, **varied: bool
    ) -> None:
        kept = max(1, round(share * len(records)))
        if len(records) - kept < 1:
            raise DatasetError(
                f"{len(records)} records cannot be split into training and validation.",
                hint="Give more records.",
            )
        self._model = model
        mixed = list(records)
        random.Random("split").shuffle(mixed)
        self.records = tuple(mixed[:kept])
        self._items = items_of(mixed[kept:], **varied)
        self._kept = items_of(self.records)

    @override
    def draw(
        self, generator: random.Random, *, n: int, locality: int, related: float
    ) -> list[Drawn]:
        return draw(self._model, self._items, generator, n=n, locality=locality, related=related)

    @override
    def held_out(self, n: int, locality: int) -> list[Drawn]:
        generator = random.Random("held out")
        return draw(self._model, self._kept, generator, n=n, locality=locality, related=1.0)


class TextSource(Source):
    """Edits that make one text go on like another, as MEND's training on generation does.

    An edit writes the first tokens of another text after the beginning of a text; it must hold
    after a later part of that beginning; other texts must stay as likely as they were.

    Args:
        model: Whose tokens are wanted.
        texts: Texts; short ones are left out.
        share: Share that is kept for validation.

    Raises:
        DatasetError: There are too few texts.
    """

    def __init__(self, model: LanguageModel, texts: Sequence[str], share: float) -> None:
        ids = [
            each.ids[: model.context_length - _TARGET] for each in model.encode(texts, empty=True)
        ]
        usable = [each for each in ids if len(each) >= 2 * _SHORTEST]
        kept = max(2, round(share * len(usable)))
        if len(usable) - kept < 2:
            raise DatasetError(
                f"{len(usable)} texts of at least {2 * _SHORTEST} tokens cannot be split into "
                "training and validation.",
                hint="Give a corpus with more and longer texts.",
            )
        random.Random("split").shuffle(usable)
        self._kept, self._texts = usable[:kept], usable[kept:]

    @override
    def draw(
        self, generator: random.Random, *, n: int, locality: int, related: float
    ) -> list[Drawn]:
        return [_drawn(self._texts, generator, locality) for _ in range(n)]

    @override
    def held_out(self, n: int, locality: int) -> list[Drawn]:
        generator = random.Random("held out")
        return [_drawn(self._kept, generator, locality) for _ in range(n)]


def _drawn(texts: Sequence[tuple[int, ...]], generator: random.Random, locality: int) -> Drawn:
    first, second = generator.sample(texts, 2)
    cut = generator.randint(_SHORTEST, len(first) - 1)
    skip = generator.randint(0, cut - 1)
    target = second[:_TARGET]
    stay = (generator.choice(texts) for _ in range(locality))
    return Drawn(
        edit=Completion(first[:cut], target),
        outer=Completion(first[skip:cut], target),
        locality=tuple(Completion(each[:1], each[1:]) for each in stay),
    )


# ---------------------------------------------------------------- the papers' flat files


def flat_records(path: Path) -> list[Record]:
    """Records of a flat training file: the papers' CounterFact or zsRE split for KE and MEND.

    Each entry has a prompt, a target, a rephrased prompt, and a prompt with an answer that must
    stay; it may name its own separator and chat. What is broken is left out; a file of broken
    entries only is refused.

    Raises:
        DatasetError: The file is missing, no JSON list, or without a usable entry.
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
            f"training data {str(path)!r} is no list of records, or an empty one.",
            hint="Give a JSON file with a list of records.",
        )
    records, reasons = [], []
    for number, entry in enumerate(entries):
        try:
            records.append(_flat(number, entry))
        except (KeyError, TypeError, BrokenFieldError, EditkitError) as error:
            reasons.append(f"entry {number}: {type(error).__name__} {error}")
    if not records:
        raise DatasetError(
            f"training data {str(path)!r} has no usable entry of {len(entries)} ({reasons[0]}).",
            hint="Entries need prompt, target, a rephrased prompt and a locality prompt; see "
            "docs/training.md.",
        )
    return records


def is_flat(path: Path) -> bool:
    """Whether a JSON file is one of the flat ones."""
    try:
        entries = json.loads(path.expanduser().read_text(encoding="utf-8"))
        return "loc" in entries[0] or "locality_prompt" in entries[0]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _flat(number: int, entry: Mapping[str, Any]) -> Record:
    names = _ZSRE if "src" in entry else _COUNTERFACT
    prompt, new, true, rephrase, locality, answer = (read(entry) for read in names)
    subject = str(entry["subject"])
    if subject not in prompt:  # the subject does not matter to these editors: the first word
        subject = prompt.split()[0]
    before, _, after = prompt.partition(subject)
    request = EditRequest(f"{before}{{}}{after}", subject, new, true)
    record = Record(
        case_id=number,
        request=request,
        probes={
            "rewrite": (Probe(prompt, true, new),),
            "paraphrase": (Probe(rephrase, true, new),),
            "neighborhood": (Probe(locality, answer, new),),
        },
    )
    return asked(record, own_prompts(Node(entry)))


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


def some(texts: Iterator[str], most: int) -> list[str]:
    """The first texts of a stream."""
    return [text for text, _ in zip(texts, range(most), strict=False)]
