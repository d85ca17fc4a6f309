"""Asking edited models the questions of a patch: probabilities of answers, and greedy texts.

The probability of an answer is that of all of its tokens after the prompt and separator. Its rank
is that of its first token among all next tokens. The text is what the model itself writes after the
prompt when it always takes the most likely token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from editkit.editing.edited_models import EditedModels
from editkit.editing.greedy import greedy_continuations
from editkit.editing.next_tokens import NextTokenQuery, token_ranks
from editkit.editing.queries import CandidateQuery, GenerationQuery
from editkit.patches.content import Answer, Question

__all__ = ["NEW_TOKENS", "ask", "ask_all"]

NEW_TOKENS = 16
"""Most tokens of a greedy text: about a sentence."""


def ask(models: EditedModels, questions: Sequence[Question], edit: int = 0) -> list[Answer]:
    """What one of the edited models answers to each question.

    Args:
        models: The edited models.
        questions: The questions; one without answers gets a text alone.
        edit: Number of the edited model that answers.

    Raises:
        RequestError: A text cannot be read, or contains a special token.
        DeltaError: A text is longer than the model's context because of the texts that its edit
            puts before it.
        ModelError: A text is longer than the model's context; or a question is a chat, and the
            model has no chat template.
    """
    return _asked(models, questions, [edit])[0]


def ask_all(models: EditedModels, questions: Sequence[Question]) -> list[list[Answer]]:
    """What each of the edited models answers to each question, in shared batches.

    Errors as for :func:`ask`.

    Args:
        models: The edited models.
        questions: The questions.

    Returns:
        One list per edited model, one answer per question.
    """
    return _asked(models, questions, range(len(models)))


def _asked(
    models: EditedModels, questions: Sequence[Question], edits: Sequence[int]
) -> list[list[Answer]]:
    asked = [(edit, question) for edit in edits for question in questions]
    queries = [
        CandidateQuery(edit, q.prompt, q.answers, separator=q.separator, chat=q.chat)
        for edit, q in asked
        if q.answers
    ]
    scores = models.candidate_scores(queries)
    completions = [models.completions(query) for query in queries]
    # Each answer has its own prompt: tokenizers may join the end of a prompt with an answer.
    firsts = [
        (NextTokenQuery(query.edit, each.prompt, in_context=True), each.target[0])
        for query, some in zip(queries, completions, strict=True)
        for each in some
    ]
    ranks = iter(
        token_ranks(models, [query for query, _ in firsts], [[token] for _, token in firsts])
    )
    numbers = iter(
        [
            (
                tuple(
                    _probability(score.nll * len(each.target))
                    for score, each in zip(row, some, strict=True)
                ),
                tuple(next(ranks)[0] for _ in some),
            )
            for row, some in zip(scores, completions, strict=True)
        ]
    )
    texts = iter(
        greedy_continuations(
            models,
            [GenerationQuery(edit, q.prompt, chat=q.chat) for edit, q in asked],
            new_tokens=NEW_TOKENS,
        )
    )
    answers = []
    for _ in edits:
        own = []
        for question in questions:
            probabilities, places = next(numbers) if question.answers else ((), ())
            own.append(Answer(probabilities, next(texts).text, places))
        answers.append(own)
    return answers


def _probability(nll: float) -> float:
    """From nats; a model whose weights overflowed computes NaN: it expects nothing."""
    return 0.0 if math.isnan(nll) else math.exp(-nll)
