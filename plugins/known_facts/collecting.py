"""Which facts of a source a model knows, by one of two rules.

``predicted``: greedy decoding writes the object right after the prompt
(:mod:`editkit.editing.known`).

``first-named``: the collection rule of the ROME paper's first version (Meng et al. 2022, arXiv
2202.05262v1, appendix "Causal tracing"). The greedy text after the prompt names the object before
any other capitalised word. The text before the object then belongs to the prompt::

    Vinson Massif is located in the continent | of Antarctica. It is the largest
    -> Vinson Massif is located in the continent of | Antarctica
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Sequence

import torch

from editkit import EditkitError, Fact, LanguageModel, RequestError
from editkit.editing.generation import continued
from editkit.editing.known import Recall, recall
from editkit.progress import counting
from editkit.prompts import fill
from editkit.records.facts import SourcedFact
from editkit.storage.cache import cached_texts
from editkit.storage.digests import digest
from editkit_plugins.known_facts.choices import Choice

_CAPITALISED = re.compile(r"\b[^\W\d_]", re.UNICODE)  # the first letter of a word
_BATCHES_CACHED = 4  # at once: within them, facts of similar length share a forward pass
_FORM = "greedy texts and probabilities, v1"


@dataclasses.dataclass(frozen=True)
class Known:
    """A fact that the model knows.

    Attributes:
        sourced: The fact in its source.
        template: The wording in which it was asked, with ``{}`` for the subject, if that is clear.
        fact: The fact with the prompt after which the model writes the answer.
        probability: Probability of the answer after that prompt.
        wordings: All such prompts, with ``{}`` for the subject.
        text: The greedy text after the wording, for ``first-named``.
    """

    sourced: SourcedFact
    template: str | None
    fact: Fact
    probability: float
    wordings: tuple[str, ...]
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Collection:
    """The answers of a model.

    Attributes:
        known: The facts to keep, in the order of their source.
        asked: Number of facts asked, by relation.
        problems: Prompts that the model could not be asked, with the reasons.
    """

    known: tuple[Known, ...]
    asked: Counter[str | None]
    problems: tuple[str, ...]


def collect(
    model: LanguageModel,
    facts: Sequence[SourcedFact],
    choice: Choice,
) -> Collection:
    """Ask a model for facts and keep those that it knows.

    The same model, facts and choice give the same collection. Answers are cached every few batches,
    so a repeated or interrupted collection asks only what is missing.

    Args:
        model: The model.
        facts: The facts. Those without an answer are counted as unknown.
        choice: The rule, and how many to keep.

    Raises:
        RequestError: The rule is ``first-named``, and a fact is asked in a chat.
    """
    if choice.rule == "first-named" and any(each.fact.chat for each in facts):
        raise RequestError(
            "the rule first-named moves text of the model into the prompt, which a user's turn in "
            "a chat cannot hold.",
            hint="Use --rule predicted, or ask without --chat.",
        )
    order = list(range(len(facts)))
    if choice.records is not None or choice.per_relation is not None:
        random.Random(f"known-facts-{choice.seed}").shuffle(order)
    kept: dict[int, Known] = {}
    per_relation: Counter[str | None] = Counter()
    asked: Counter[str | None] = Counter()
    problems: list[str] = []

    def has_room(number: int) -> bool:
        limit = choice.per_relation
        return limit is None or per_relation[facts[number].relation] < limit

    waiting = iter(order)
    fingerprint = model.fingerprint  # reads all weights, so once
    with counting(f"asking {model.name}", len(facts), unit="fact") as advance:
        while choice.records is None or len(kept) < choice.records:
            some = itertools.islice(filter(has_room, waiting), choice.batch * _BATCHES_CACHED)
            if not (batch := list(some)):
                break
            recalled = _recalled(model, fingerprint, [facts[number] for number in batch], choice)
            for number, (known, problem) in zip(batch, recalled, strict=True):
                asked[facts[number].relation] += 1
                problems += [problem] if problem else []
                full = choice.records is not None and len(kept) >= choice.records
                if known is not None and has_room(number) and not full:
                    kept[number] = known
                    per_relation[facts[number].relation] += 1
            advance(len(batch))
    return Collection(tuple(kept[n] for n in sorted(kept)), asked, tuple(problems))


# ---------------------------------------------------------------- one batch


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The answer to one wording of a fact."""

    prompt: str
    separator: str | None
    predicted: bool
    probability: float
    problem: str
    text: str

    @classmethod
    def of(cls, fact: Fact, each: Recall, text: str = "") -> _Answer:
        return cls(
            fact.prompt, fact.separator, each.predicted, each.probability, each.problem, text
        )


def _recalled(
    model: LanguageModel, fingerprint: str, facts: Sequence[SourcedFact], choice: Choice
) -> list[tuple[Known | None, str]]:
    """For each fact: what the model knows of it, and why it could not be asked."""
    asked = [(number, *each) for number, of in enumerate(facts) for each in _asked(of, choice)]
    questions = [fact for _, _, fact in asked]
    description = {
        "form": _FORM,
        "model": fingerprint,
        "dtype": str(model.dtype),
        "rule": choice.rule,
        "tokens": choice.tokens if choice.rule == "first-named" else None,
        "questions": digest([fact.to_dict() for fact in questions]),
    }

    def make() -> list[str]:
        answer = _predicted if choice.rule == "predicted" else _first_named
        return [json.dumps(dataclasses.asdict(each)) for each in answer(model, questions, choice)]

    answers = [_Answer(**json.loads(text)) for text in cached_texts("known", description, make)]
    results: list[tuple[Known | None, str]] = []
    for number, sourced in enumerate(facts):
        own = [
            (template, fact, answer)
            for (of, template, fact), answer in zip(asked, answers, strict=True)
            if of == number
        ]
        results.append(_combined(sourced, own, choice))
    return results


def _asked(sourced: SourcedFact, choice: Choice) -> list[tuple[str | None, Fact]]:
    """The wordings to ask, each as (template, fact)."""
    fact = sourced.fact
    if not sourced.wordings:
        return [(None, fact)]
    return [
        (wording, dataclasses.replace(fact, prompt=fill(wording, fact.subject)))
        for wording in sourced.wordings[: choice.wordings]
    ]


def _combined(
    sourced: SourcedFact, asked: Sequence[tuple[str | None, Fact, _Answer]], choice: Choice
) -> tuple[Known | None, str]:
    known: list[Known] = []
    for template, fact, answer in asked:
        if not answer.predicted or answer.probability < choice.min_probability:
            continue
        extended = dataclasses.replace(fact, prompt=answer.prompt, separator=answer.separator)
        own: tuple[str, ...] = ()
        if template is not None:
            own = (template + extended.prompt[len(fact.prompt) :],)
        known.append(Known(sourced, template, extended, answer.probability, own, answer.text))
    problem = next((answer.problem for _, _, answer in asked if answer.problem), "")
    if not known:
        return None, problem
    wordings = tuple(dict.fromkeys(wording for each in known for wording in each.wordings))
    return dataclasses.replace(known[0], wordings=wordings), problem


# ---------------------------------------------------------------- the rules


def _predicted(model: LanguageModel, facts: Sequence[Fact], choice: Choice) -> list[_Answer]:
    recalls = recall(model, facts, batch=choice.batch)
    return [_Answer.of(fact, each) for fact, each in zip(facts, recalls, strict=True)]


def _first_named(model: LanguageModel, facts: Sequence[Fact], choice: Choice) -> list[_Answer]:
    texts = _greedy_texts(model, facts, choice)
    extended: list[Fact | None] = []
    for fact, (text, _) in zip(facts, texts, strict=True):
        before = None if fact.answer is None else text_before(fact.answer, text)
        extended.append(None if before is None else _extended(fact, before))
    named = [fact for fact in extended if fact is not None]
    recalls = iter(recall(model, named, batch=choice.batch))
    answers = []
    for fact, longer, (text, problem) in zip(facts, extended, texts, strict=True):
        if longer is not None:
            answers.append(_Answer.of(longer, next(recalls), text))
        else:
            if fact.answer is None:
                problem = f"the fact {fact.prompt!r} has no answer."
            answers.append(
                _Answer.of(fact, Recall(predicted=False, probability=0.0, problem=problem), text)
            )
    return answers


def text_before(answer: str, text: str) -> str | None:
    """The part of a text before it names the answer. None if another capitalised word is first.

    The answer must be whole words. Words are capitalised if their first letter is upper-case.
    """
    match = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)
    if match is None:
        return None
    before = text[: match.start()]
    words = (each.group() for each in _CAPITALISED.finditer(before))
    return None if any(letter.isupper() for letter in words) else before


def _extended(fact: Fact, before: str) -> Fact:
    """The fact with more text in its prompt. Its own separator then ends where the text begins."""
    if fact.separator is not None and before == fact.separator:
        return fact
    return dataclasses.replace(fact, prompt=fact.prompt + before, separator=None)


def _greedy_texts(
    model: LanguageModel, facts: Sequence[Fact], choice: Choice
) -> list[tuple[str, str]]:
    """For each fact: the greedy text after its prompt, and why there is none."""
    results = [("", "")] * len(facts)
    prompts: dict[int, tuple[int, ...]] = {}
    for number, fact in enumerate(facts):
        try:
            [encoding] = model.read([fact.prompt])
            model.check_length(encoding)
            prompts[number] = encoding.ids
        except EditkitError as error:
            results[number] = "", error.message
    order = sorted(prompts, key=lambda number: len(prompts[number]))
    for start in range(0, len(order), choice.batch):
        chosen = order[start : start + choice.batch]
        rows = [prompts[number] for number in chosen]
        length = min(max(map(len, rows)) + choice.tokens, model.context_length)
        greedy = torch.zeros(len(rows), length)  # with top_k=1, the draws do not matter
        with model.frozen(), torch.no_grad():
            written = continued(model, rows, greedy, top_k=1)
        for number, row, ids in zip(chosen, rows, written, strict=True):
            whole = model.tokenizer.decode(ids[: len(row) + choice.tokens])
            results[number] = whole.removeprefix(model.tokenizer.decode(list(row))), ""
    return results
