"""What the edited models write on a record's generation prompts."""

from __future__ import annotations

from collections.abc import Sequence

from editkit import EditedModels, Record
from editkit.editing.edited import GenerationQuery
from editkit.editing.generation import in_published_form
from editkit_plugins.text_metrics.config import GenerationConfig

KEY = "generation"
"""Key of the texts in a row."""


def written(
    models: EditedModels, records: Sequence[Record], config: GenerationConfig
) -> list[list[str]]:
    """For each record, the texts of its own edited model, one per generation prompt.

    The models remember what they wrote: the second metric that asks gets the same texts.
    """
    queries = [
        GenerationQuery(edit, prompt, f"{record.case_id}/{place}", record.request.chat)
        for edit, record in enumerate(records)
        for place, prompt in enumerate(record.texts.get("generation", ()))
    ]
    answers = models.generate(queries, tokens=config.tokens, top_k=config.top_k)
    texts: list[list[str]] = [[] for _ in records]
    for query, text in zip(queries, answers, strict=True):
        form = None if config.normalization == "none" else config.normalization
        texts[query.edit].append(in_published_form(text, form=form))
    return texts
