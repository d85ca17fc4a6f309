"""Entropy, TF-IDF similarity and perplexity, against the published code's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pytest

from editkit import EditedModels, Record
from editkit_plugins.text_metrics.config import EssenceConfig
from editkit_plugins.text_metrics.metrics import (
    Essence,
    combined_entropy,
    fitted,
    ngram_entropy,
    similarity,
    words,
)
from editkit_plugins.unedited.config import NoEditorConfig
from editkit_plugins.unedited.editor import NoEditor
from tests.parity import Parity


@pytest.fixture(scope="module")
def entropies(parity: Parity) -> Mapping[str, Any]:
    result: Mapping[str, Any] = parity.json("text_metrics/ngram_entropy.json")
    return result


@pytest.mark.parametrize("tokenisation", ["treebank", "whitespace"])
def test_entropy_of_given_tokens(entropies: Mapping[str, Any], tokenisation: str) -> None:
    values = []
    for text in entropies["texts"]:
        expected = text[tokenisation]
        tokens = expected["tokens"]
        assert ngram_entropy(tokens, 2) == pytest.approx(expected["entropy_2"], abs=1e-9)
        assert ngram_entropy(tokens, 3) == pytest.approx(expected["entropy_3"], abs=1e-9)
        values.append(combined_entropy(tokens))
        assert values[-1] == pytest.approx(expected["combined"], abs=1e-9)
    mean = entropies["mean_over_the_five_texts"][tokenisation]
    assert fmean(values) == pytest.approx(mean, abs=1e-9)


def test_words_match_the_published_tokenizer(entropies: Mapping[str, Any]) -> None:
    for text in entropies["texts"]:
        assert words(text["text"]) == text["treebank"]["tokens"]


def test_tfidf_similarity(parity: Parity) -> None:
    expected = parity.json("text_metrics/tfidf.json")
    vectorizer = fitted(expected["corpus"])
    assert vectorizer.vocabulary_ == expected["vocabulary"]
    assert vectorizer.idf_ == pytest.approx(expected["idf"], rel=1e-9)
    for pair in expected["pairs"]:
        result = similarity(vectorizer, [pair["text_a"]], [pair["text_b"]])
        assert result == pytest.approx(pair["reference_score"], abs=1e-9)


def test_perplexity(parity: Parity) -> None:
    cases = parity.json("text_metrics/perplexity.json")
    records = [
        Record(i, parity.requests[0], texts={"essence": tuple(case["text"].split(" ", 1))})
        for i, case in enumerate(cases)
    ]
    deltas = NoEditor(NoEditorConfig()).edit(parity.model, [r.request for r in records])
    models = EditedModels(parity.model, deltas)
    for divisor, key in (
        ("all_tokens", "perplexity"),
        ("scored_tokens", "perplexity_if_divided_by_n_minus_1"),
    ):
        config = EssenceConfig(divisor=divisor)
        rows = Essence(config).score(models, records)
        assert [row["essence/perplexity"] for row in rows] == pytest.approx(
            [case[key] for case in cases], rel=1e-5
        )
    assert [case["truncated"] for case in cases] == [False, False, True]
