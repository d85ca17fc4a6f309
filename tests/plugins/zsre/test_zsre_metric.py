from __future__ import annotations

import dataclasses
import logging
from statistics import fmean

import pytest
import torch

from editkit import (
    DeltaError,
    EditedModels,
    EditRequest,
    Probe,
    PromptContext,
    Record,
    WeightDelta,
    applied,
    make_metric,
)
from editkit.testing.samples import RECORDS, random_edits
from editkit_plugins.zsre.metric import KINDS
from tests.tiny import tiny

LONG = "far away " * 60


def naive_hits(models: EditedModels, record: Record, edit: int, score: str) -> list[float]:
    """The definition: one text after the other through the changed model."""
    tokenizer, hits = models.model.tokenizer, []
    with applied(models.model, models.deltas[edit]), torch.no_grad():
        for probe in record.probes[KINDS[score]]:
            answer = probe.target_true if score == "specificity" else probe.target_new
            tokens = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
            for i, token in enumerate(tokens):
                ids = tokenizer(probe.prompt + tokenizer.decode(tokens[:i]))["input_ids"]
                logits = models.model.hf(input_ids=torch.tensor([ids])).logits[0, -1]
                text = tokenizer.decode([token])
                right = tokenizer(text, add_special_tokens=False)["input_ids"][0]
                hits.append(float(int(logits.argmax()) == right))
    return hits


def to_its_own_answer(models: EditedModels, record: Record, edit: int) -> Record:
    """The record with a new target of which the edited model writes the first token itself."""
    with applied(models.model, models.deltas[edit]), torch.no_grad():
        [encoding] = models.model.encode([record.request.sentence])
        logits = models.model.hf(input_ids=torch.tensor([encoding.ids])).logits[0, -1]
    vocabulary = models.model.tokenizer.get_vocab()
    words = [i for token, i in vocabulary.items() if token.startswith("Ġ") and len(token) > 2]
    best = max(words, key=lambda i: float(logits[i]))
    text = models.model.tokenizer.decode([best]).strip()
    probes = {
        kind: tuple(dataclasses.replace(p, target_new=f"{text} over there") for p in of)
        for kind, of in record.probes.items()
    }
    return dataclasses.replace(record, probes=probes)


@pytest.mark.parametrize("architecture", ["gpt2", "gptj"])
def test_hits_match_the_definition(architecture: str) -> None:
    model = tiny(architecture, context_length=128)
    models = EditedModels(model, random_edits(model, RECORDS))
    records = [to_its_own_answer(models, record, i) for i, record in enumerate(RECORDS)]
    rows = make_metric("zsre").score(models, records)
    for edit, (record, row) in enumerate(zip(records, rows, strict=True)):
        for score in KINDS:
            expected = naive_hits(models, record, edit, score)
            assert row[f"zsre/{score}_hits"] == expected
            assert row[f"zsre/{score}"] == fmean(expected)


def test_a_long_prompt_is_cropped_before_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    probe = Probe("The capital is", LONG.strip(), LONG.strip())
    record = Record(
        0,
        EditRequest("{} is", "Rome", "far"),
        probes={"rewrite": (probe,), "neighborhood": (probe,)},
    )
    models = EditedModels(model, random_edits(model, [record]))
    with caplog.at_level(logging.WARNING):
        [row] = make_metric("zsre").score(models, [record])
    tokens = model.tokenizer(f" {LONG.strip()}")["input_ids"]
    assert len(row["zsre/efficacy_hits"]) == len(tokens) > model.context_length
    assert len(caplog.records) == 1
    assert "zsre/paraphrase" not in row


def test_a_character_of_several_tokens_is_compared_as_its_text_tokenises() -> None:
    """Half a character decodes to a mark of its own, which is what the published code expects."""
    model = tiny()
    probe = Probe("The capital is", "Łódź", "Łódź")
    record = Record(0, EditRequest("{} is", "Rome", "Łódź"), probes={"rewrite": (probe,)})
    models = EditedModels(model, random_edits(model, [record]))
    published, tokens = (
        make_metric("zsre", forcing=forcing).score(models, [record])[0]["zsre/efficacy_hits"]
        for forcing in ("text", "tokens")
    )
    assert len(published) == len(tokens)
    assert published == naive_hits(models, record, 0, "efficacy")


@pytest.mark.parametrize("forcing", ["text", "tokens"])
def test_answers_are_read_after_the_context_of_an_edit(forcing: str) -> None:
    model = tiny(context_length=128)
    record = to_its_own_answer(EditedModels(model, random_edits(model, RECORDS)), RECORDS[0], 0)
    context = PromptContext(("Rome is in Seattle.", "Paris is in Rome."))
    delta = WeightDelta({}, record.request, "test", {}, model.fingerprint, context=context)
    probes = {
        kind: tuple(dataclasses.replace(p, prompt=context.before(p.prompt) + p.prompt) for p in of)
        for kind, of in record.probes.items()
    }
    metric = make_metric("zsre", forcing=forcing)
    models = EditedModels(model, [delta])
    asked = dataclasses.replace(record, probes=probes)
    assert metric.score(models, [record]) == metric.score(models.unedited(), [asked])
    with pytest.raises(DeltaError, match="that the edit puts before it"):
        long = dataclasses.replace(delta, context=PromptContext(context.texts * 20))
        metric.score(EditedModels(model, [long]), [record])


HITS = {  # by record: the unedited model's right tokens, and the edited one's
    0: ([1.0, 1.0], [1.0, 0.0]),
    1: ([1.0, 0.0], [0.0, 1.0]),
    2: ([0.0, 0.0], [1.0, 1.0]),
    3: ([1.0, 1.0], [1.0, 1.0]),
}


@pytest.mark.parametrize(
    ("unit", "lost", "known"),
    [
        ("answer", [1.0, None, None, 0.0], [1, 0, 0, 1]),
        ("token", [0.5, 1, None, 0], [1, 0.5, 0, 1]),
    ],
)
def test_drawdown_counts_facts_right_before_and_wrong_after(
    unit: str, lost: list[float | None], known: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    records = [dataclasses.replace(RECORDS[0], case_id=case) for case in HITS]
    models = EditedModels(model, random_edits(model, records))

    def hits_of(asked: EditedModels, of: list[Record], *_: object) -> list[dict[str, list[float]]]:
        assert asked in (models, models.unedited())
        return [{"specificity": HITS[record.case_id][asked is models]} for record in of]

    monkeypatch.setattr("editkit_plugins.zsre.drawdown.hits_of", hits_of)
    rows = make_metric("drawdown", unit=unit).score(models, records)
    assert [row.get("drawdown/lost") for row in rows] == lost
    assert [row["drawdown/known"] for row in rows] == known
    assert [row["drawdown/drop"] for row in rows] == [0.5, 0.0, -1.0, 0.0]


def test_an_edit_that_changes_nothing_has_no_drawdown() -> None:
    model = tiny(context_length=128)
    none = WeightDelta({}, RECORDS[0].request, "none", {}, model.fingerprint)
    [row] = make_metric("drawdown").score(EditedModels(model, [none]), RECORDS[:1])
    assert row["drawdown/drop"] == 0
    assert row.get("drawdown/lost", 0) == 0
