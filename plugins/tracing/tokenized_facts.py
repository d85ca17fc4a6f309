"""A fact in tokens: the prompt, the subject's span in it, and the answer to trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editkit import Fact, Localization, RequestError
from editkit.models import LanguageModel
from editkit.models.encoding import padded, token_span
from editkit.models.running import forward

_FACTS_PER_PASS = 64


@dataclasses.dataclass(frozen=True)
class TokenizedFact:
    """A fact in tokens.

    Attributes:
        fact: The fact.
        prompt: Token ids of the prompt, T of them.
        tokens: The same tokens as text.
        subject: Half-open span of the subject's tokens.
        answer: Token ids of the answer, A of them. Its probability is the product over its tokens,
            each given those before it.
        predicted: Whether the model predicts each of the answer's tokens.
    """

    fact: Fact
    prompt: tuple[int, ...]
    tokens: tuple[str, ...]
    subject: tuple[int, int]
    answer: tuple[int, ...]
    predicted: bool

    @property
    def ids(self) -> tuple[int, ...]:
        """The model's input: the prompt, and the answer without its last token; T + A - 1."""
        return self.prompt + self.answer[:-1]

    def localization(
        self, model: LanguageModel, kind: str, scores: Tensor, baselines: Mapping[str, float]
    ) -> Localization:
        """The scores of a locator, (at least T, L), with the baseline ``predicted`` added."""
        rows = scores[: len(self.prompt)].detach().cpu().double().tolist()
        return Localization(
            fact=self.fact,
            tokens=self.tokens,
            kind=kind,
            scores=tuple(tuple(row) for row in rows),
            baselines={**baselines, "predicted": float(self.predicted)},
            subject=self.subject,
            answer=model.tokenizer.decode(self.answer),
        )


def tokenize_facts(
    model: LanguageModel, facts: Sequence[Fact], *, answer_tokens: str = "all"
) -> list[TokenizedFact]:
    """Tokenize facts. A fact without an answer gets the model's next token.

    Args:
        model: The model.
        facts: The facts.
        answer_tokens: ``all``, or ``first``: only the first token of each answer.

    Raises:
        RequestError: A prompt contains its subject twice.
        ModelError: A prompt with its answer is longer than the model's context.
    """
    spans = [_subject_span(fact) for fact in facts]
    encodings = model.read(
        [fact.prompt for fact in facts], chat=[fact.chat for fact in facts], subjects=spans
    )
    for encoding in encodings:
        model.check_length(encoding)
    answers = [
        _answer_ids(model, fact, encoding.ids)
        for fact, encoding in zip(facts, encodings, strict=True)
    ]
    if answer_tokens == "first":
        answers = [answer[:1] for answer in answers]
    prompts = [encoding.ids for encoding in encodings]
    predictions = _predictions(model, prompts, answers)
    return [
        TokenizedFact(
            fact=fact,
            prompt=encoding.ids,
            tokens=encoding.texts,
            subject=token_span(encoding.offsets, span),
            answer=answer or prediction,
            predicted=not answer or answer == prediction,
        )
        for fact, encoding, span, answer, prediction in zip(
            facts, encodings, spans, answers, predictions, strict=True
        )
    ]


def _subject_span(fact: Fact) -> tuple[int, int]:
    """Half-open span of characters."""
    start = fact.prompt.index(fact.subject)
    if fact.subject in fact.prompt[start + 1 :]:
        raise RequestError(
            f"the prompt {fact.prompt!r} contains the subject {fact.subject!r} more than once, "
            "expected once.",
            hint="Reword the prompt so that it contains the subject once.",
        )
    return start, start + len(fact.subject)


def _answer_ids(model: LanguageModel, fact: Fact, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """Token ids of a fact's answer; none if it has no answer."""
    if fact.answer is None:
        return ()
    [sentence] = model.sentences(
        [fact.prompt], [fact.answer], separators=fact.separator, chat=fact.chat
    )
    model.check_length(sentence.encoding)
    if sentence.prompt.ids == prompt:
        return sentence.target
    # The prompt's last token swallows the answer's first characters: encode the answer alone.
    return model.alone(fact.answer, after=fact.prompt, separator=fact.separator, chat=fact.chat)


def _predictions(
    model: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    answers: Sequence[tuple[int, ...]],
) -> list[tuple[int, ...]]:
    """The most likely token at each position of each answer; the next token if it is empty."""
    predictions: list[tuple[int, ...]] = []
    rows = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
    for start in range(0, len(rows), _FACTS_PER_PASS):
        batch = rows[start : start + _FACTS_PER_PASS]
        with model.frozen(), torch.no_grad():
            hidden: Tensor = forward(model, padded(batch, model.device))  # (B, T, H)
            for i, row in enumerate(hidden, start):
                first = len(prompts[i]) - 1
                logits = model.head(row[first : first + max(1, len(answers[i]))])  # (A, V)
                predictions.append(tuple(logits.argmax(dim=-1).tolist()))
    return predictions
