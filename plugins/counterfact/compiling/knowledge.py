"""What a model has to say when records are compiled: texts for prefixes, and what it knows."""

from __future__ import annotations

from collections.abc import Sequence

from editkit import EditedModels, EditRequest, LanguageModel, WeightDelta
from editkit.editing.generation import sampled_contexts
from editkit.editing.next_tokens import NextTokenQuery, most_likely_tokens
from editkit_plugins.counterfact.compiling.compiler import RawRecord

_LENGTHS = ((100, 9), (100, 19))
_TOP_K = 5


def sampled_prefixes(model: LanguageModel, seed: int) -> tuple[str, ...]:
    """Short texts that the model writes by itself, some ten and some twenty tokens long."""
    return tuple(dict.fromkeys(sampled_contexts(model, _LENGTHS, top_k=_TOP_K, seed=seed)))


def is_known(model: LanguageModel, records: Sequence[RawRecord]) -> list[bool]:
    """Whether every token of a record's true object is the model's first choice at its prompt."""
    rewrites = [record["requested_rewrite"] for record in records]
    requests = [
        EditRequest(each["prompt"], each["subject"], each["target_new"]["str"]) for each in rewrites
    ]
    fingerprint = model.fingerprint
    unedited = [
        WeightDelta(
            changes={},
            request=request,
            editor="none",
            config={},
            model_fingerprint=fingerprint,
        )
        for request in requests
    ]
    completions = model.complete(
        [request.sentence for request in requests],
        [each["target_true"]["str"] for each in rewrites],
        crop=True,
    )
    asked = [
        (number, NextTokenQuery(number, each.prompt + each.target[:i]), token)
        for number, each in enumerate(completions)
        for i, token in enumerate(each.target)
    ]
    found = most_likely_tokens(EditedModels(model, unedited), [query for _, query, _ in asked])
    known = [True] * len(records)
    for (number, _, token), answer in zip(asked, found, strict=True):
        known[number] &= token == answer
    return known
