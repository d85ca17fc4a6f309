"""Asking edited models the questions of a patch: probabilities of answers, and greedy texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from editkit.editing.edited_models import EditedModels
from editkit.editing.queries import CandidateQuery, GenerationQuery
from editkit.patches.content import Answer, Question

__all__ = ["NEW_TOKENS", "ask"]

NEW_TOKENS = 12
"""Length of the greedy texts, in tokens."""


def ask(models: EditedModels, questions: Sequence[Question], edit: int = 0) -> list[Answer]:
    """What one of the edited models answers to each question.

    Args:
        models: The edited models.
        questions: The questions.
        edit: Number of the edited model that answers.
    """
    scored = [
        CandidateQuery(edit, q.prompt, q.answers, separator=q.separator, chat=q.chat)
        for q in questions
    ]
    scores = models.candidate_scores(scored)
    answers = []
    for question, query, row in zip(questions, scored, scores, strict=True):
        lengths = [len(completion.target) for completion in models.completions(query)]
        probabilities = tuple(
            math.exp(-score.nll * n) for score, n in zip(row, lengths, strict=True)
        )
        answers.append(Answer(probabilities, _greedy(models, question, edit)))
    return answers


def _greedy(models: EditedModels, question: Question, edit: int) -> str:
    [prompt] = models.model.read([question.prompt], chat=question.chat)
    query = GenerationQuery(edit, question.prompt, chat=question.chat)
    [text] = models.generate([query], tokens=len(prompt.ids) + NEW_TOKENS, top_k=1)
    return text[len(question.prompt) :]
