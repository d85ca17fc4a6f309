"""A fact as tokens: the prompt, where its subject stands, and the answer that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit import Fact, RequestError
from editkit.models import LanguageModel
from editkit.models.encoding import padded, token_span
from editkit.models.running import forward

_FACTS_PER_PASS = 64


@dataclasses.dataclass(frozen=True)
class Question:
    """A fact in tokens.

    Attributes:
        fact: The fact.
        prompt: Token ids of the prompt.
        tokens: The same as text.
        subject: Half-open span of the subject's tokens.
        answer: Token ids whose probability is traced, each given those before it.
        predicted: Whether they are what the model predicts, one after the other.
        guess: The token that it predicts right after the prompt, as text.
    """

    fact: Fact
    prompt: tuple[int, ...]
    tokens: tuple[str, ...]
    subject: tuple[int, int]
    answer: tuple[int, ...]
    predicted: bool
    guess: str

    @property
    def name(self) -> str:
        """The subject."""
        return self.fact.subject

    @property
    def around(self) -> tuple[str, str]:
        """The text before and after the subject."""
        before, after = self.fact.prompt.split(self.fact.subject, 1)
        return before, after

    @property
    def ids(self) -> tuple[int, ...]:
        """What is run: the prompt and all but the last token of the answer."""
        return self.prompt + self.answer[:-1]


def questions(
    model: LanguageModel, facts: Sequence[Fact], *, answer_tokens: str = "all"
) -> list[Question]:
    """Facts in tokens, with the model's own next token where a fact has no answer.

    Raises:
        RequestError: A subject stands in its prompt twice.
        ModelError: A prompt with its answer is longer than the model's context.
    """
    spans = [_subject_span(fact) for fact in facts]
    encodings = model.read(
        [fact.prompt for fact in facts], chat=[fact.chat for fact in facts], subjects=spans
    )
    for encoding in encodings:
        model.check_length(encoding)
    given = [
        _answer(model, fact, encoding.ids) for fact, encoding in zip(facts, encodings, strict=True)
    ]
    if answer_tokens == "first":
        given = [answer[:1] for answer in given]
    rows = [encoding.ids + answer[:-1] for encoding, answer in zip(encodings, given, strict=True)]
    places = [
        range(len(encoding) - 1, len(encoding) - 1 + max(1, len(answer)))
        for encoding, answer in zip(encodings, given, strict=True)
    ]
    found = []
    for i, guesses in enumerate(_greedy(model, rows, places)):
        fact, encoding = facts[i], encodings[i]
        answer = given[i] or guesses[:1]
        found.append(
            Question(
                fact=fact,
                prompt=encoding.ids,
                tokens=encoding.texts,
                subject=token_span(encoding.offsets, spans[i]),
                answer=answer,
                predicted=guesses == answer,
                guess=model.tokenizer.decode(guesses[:1]),
            )
        )
    return found


def _subject_span(fact: Fact) -> tuple[int, int]:
    start = fact.prompt.index(fact.subject)
    if fact.subject in fact.prompt[start + 1 :]:
        raise RequestError(
            f"the subject {fact.subject!r} stands more than once in the prompt {fact.prompt!r}, "
            "expected once.",
            hint="Word the prompt so that the subject stands in it once.",
        )
    return start, start + len(fact.subject)


def _answer(model: LanguageModel, fact: Fact, prompt: tuple[int, ...]) -> tuple[int, ...]:
    if fact.answer is None:
        return ()
    [sentence] = model.sentences(
        [fact.prompt], [fact.answer], separators=fact.separator, chat=fact.chat
    )
    model.check_length(sentence.encoding)
    if sentence.prompt.ids == prompt:
        return sentence.target
    # The answer's first letters join the prompt's last token: take it as a text of its own.
    return model.alone(fact.answer, after=fact.prompt, separator=fact.separator, chat=fact.chat)


def _greedy(
    model: LanguageModel, rows: Sequence[tuple[int, ...]], places: Sequence[range]
) -> list[tuple[int, ...]]:
    """The most likely token at each place of each row."""
    found: list[tuple[int, ...]] = []
    for start in range(0, len(rows), _FACTS_PER_PASS):
        chunk = rows[start : start + _FACTS_PER_PASS]
        with model.frozen(), torch.no_grad():
            hidden: Tensor = forward(model, padded(chunk, model.device))  # (B, T, H)
            for i, row in enumerate(hidden):
                where = places[start + i]
                logits = model.head(row[where.start : where.stop])  # (A, V)
                found.append(tuple(logits.argmax(dim=-1).tolist()))
    return found
