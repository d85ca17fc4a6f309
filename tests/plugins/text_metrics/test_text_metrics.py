"""The text metrics on given texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import EditedModels, EditRequest, Metric, PluginError, Record
from editkit.editing.edited_models import GenerationQuery
from editkit_plugins.text_metrics.config import EssenceConfig, GenerationConfig
from editkit_plugins.text_metrics.metrics import (
    Consistency,
    Essence,
    Fluency,
    combined_entropy,
    ngram_entropy,
    words,
)
from tests.editkit.editing.test_deltas import delta_for
from tests.tiny import tiny

REQUEST = EditRequest("{} is in", "The Space Needle", "Paris", "Seattle")
REFERENCES = ("The Louvre is in Paris.", "In Paris the tower stands.")
CORPUS = {"reference": (*REFERENCES, "A harbour lies in Seattle.", "Ships come to the harbour.")}


class ToldModels:
    """Models that write what they are told, by prompt."""

    def __init__(self, **output: str) -> None:
        self.output = output
        self.asked: list[GenerationQuery] = []

    def generate(self, queries: Sequence[GenerationQuery], *, tokens: int, top_k: int) -> list[str]:
        self.asked += queries
        return [self.output[query.prompt] for query in queries]


def record(case_id: int, *prompts: str, references: tuple[str, ...] = REFERENCES) -> Record:
    texts = {"generation": prompts, "reference": references}
    return Record(case_id, REQUEST, texts={kind: some for kind, some in texts.items() if some})


def score(metric: Metric[Any], models: ToldModels, *records: Record) -> list[Any]:
    metric.prepare(CORPUS)
    return list(metric.score(cast(EditedModels, models), records))


def test_fluency_is_the_mean_over_texts_and_stores_them() -> None:
    models = ToldModels(a="one two three four", b="one one one one one")
    [row] = score(Fluency(GenerationConfig()), models, record(7, "a", "b"))
    first = (2 / 3 * math.log2(3) + 4 / 3 * math.log2(2)) / 2
    assert row["fluency/entropies"] == pytest.approx([first, 0.0])
    assert row["fluency/entropy"] == pytest.approx(first / 2)
    assert row["generation"] == ["one two three four", "one one one one one"]
    assert [query.name for query in models.asked] == ["7/0", "7/1"]


def test_consistency_prefers_texts_about_the_new_object() -> None:
    models = ToldModels(a="The Needle is in Paris", b="The Needle is near a harbour", c="Xyz")
    rows = score(
        Consistency(GenerationConfig()), models, record(1, "a"), record(2, "b"), record(3, "c")
    )
    like, unlike, nothing = (row["consistency/reference"] for row in rows)
    assert 1 > like > unlike > nothing == 0.0
    assert [row["generation"] for row in rows] == [[models.output[key]] for key in "abc"]


def test_consistency_of_the_reference_texts_themselves_is_one() -> None:
    [row] = score(
        Consistency(GenerationConfig()), ToldModels(a=" ".join(REFERENCES)), record(1, "a")
    )
    assert row["consistency/reference"] == pytest.approx(1.0)


def test_records_without_prompts_or_references_have_no_score() -> None:
    models = ToldModels(a="The Needle")
    metric = Consistency(GenerationConfig())
    assert score(metric, models, record(1), record(2, "a", references=())) == [
        {},
        {"generation": ["The Needle"]},
    ]
    assert score(Fluency(GenerationConfig()), models, record(1)) == [{}]


def test_consistency_must_be_prepared() -> None:
    models = cast(EditedModels, ToldModels())
    with pytest.raises(PluginError, match="is not prepared"):
        Consistency(GenerationConfig()).score(models, [record(1, "a")])


def test_texts_are_normalised_unless_disabled() -> None:
    models = ToldModels(a="São Paulo\n\nand")
    [row] = score(Fluency(GenerationConfig()), models, record(1, "a"))
    assert row["generation"] == ["Sa\u0303o Paulo and"]
    [row] = score(Fluency(GenerationConfig(normalization="none")), models, record(1, "a"))
    assert row["generation"] == ["São Paulo and"]


def test_metrics_with_the_same_values_share_their_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, 1)])
    config = GenerationConfig(tokens=20)
    [first] = Fluency(config).score(models, [record(1, "The Space Needle is")])
    consistency = Consistency(config)
    consistency.prepare(CORPUS)
    monkeypatch.setattr(models, "rows", None)  # any further writing fails
    [second] = consistency.score(models, [record(1, "The Space Needle is")])
    assert first["generation"] == second["generation"]


def test_essence_is_the_perplexity_of_the_first_tokens() -> None:
    model = tiny()
    models = EditedModels(model, [delta_for(model, seed) for seed in (1, 2)])
    about = Record(1, REQUEST, texts={"essence": ("The Space Needle is", "in the city.")})
    bare = Record(2, REQUEST)
    long = Record(3, REQUEST, texts={"essence": ("The Space Needle is in the city. " * 40,)})
    row, nothing = Essence(EssenceConfig()).score(models, [about, bare])
    assert nothing == {}
    exact = Essence(EssenceConfig(divisor="scored_tokens")).score(models, [about, bare])[0]
    n = len(model.encode(["The Space Needle is in the city."])[0])
    logs = [math.log(cast(float, r["essence/perplexity"])) for r in (row, exact)]
    assert logs[0] * n == pytest.approx(logs[1] * (n - 1))
    rows = Essence(EssenceConfig()).score(models, [long, long])  # longer than the context
    assert rows[0] != rows[1]


def test_sentences_end_at_punctuation_before_white_space() -> None:
    assert words("It isn't so. Is it? Yes!") == [
        *("It", "is", "n't", "so", "."),
        *("Is", "it", "?"),
        *("Yes", "!"),
    ]
    assert words("") == []


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_entropy_is_bounded_for_texts_of_any_length(tokens: list[str]) -> None:
    for n in (2, 3):
        result = ngram_entropy(tokens, n)
        grams = max(len(tokens) - n + 1, 1)
        assert 0 <= result <= math.log2(min(grams, 3**n)) + 1e-9
    assert combined_entropy(["a"] * len(tokens)) == 0.0
