"""The shift of distributions at a record's prompts, against plain forward passes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from editkit import (
    EditedModels,
    LanguageModel,
    LowRank,
    PromptContext,
    Record,
    WeightDelta,
    applied,
)
from editkit.editing.next_tokens import next_log_p
from editkit.testing.samples import RECORDS, random_edits
from editkit_plugins.model_health import shift
from editkit_plugins.model_health.config import KINDS, ShiftConfig
from editkit_plugins.model_health.shift import Shift
from tests.tiny import tiny

NAMES = ("kl", "tv", "top_changed", "p_true")


def log_p(model: LanguageModel, text: str) -> tuple[list[int], Tensor]:
    """The tokens, and log probabilities of the next token after each: (T, V)."""
    ids = model.tokenizer(text)["input_ids"]
    with torch.no_grad():
        return ids, torch.log_softmax(model.hf.eval()(torch.tensor([ids])).logits[0].double(), -1)


def p_of(model: LanguageModel, prompt: str, answer: str) -> float:
    """Geometric mean of the probabilities of the answer's tokens."""
    n = len(model.tokenizer(prompt)["input_ids"])
    ids, scores = log_p(model, f"{prompt} {answer}")
    chosen = [float(scores[place - 1, ids[place]]) for place in range(n, len(ids))]
    return math.exp(sum(chosen) / len(chosen))


def answers(model: LanguageModel, record: Record, before: str = "") -> dict[str, list[Any]]:
    """Distribution of the next token, and probability of the true object, by kind and prompt."""
    return {
        kind: [
            (
                log_p(model, before + probe.prompt)[1][-1],
                p_of(
                    model,
                    before + probe.prompt,
                    probe.target_new if kind == "attribute" else probe.target_true,
                ),
            )
            for probe in probes
        ]
        for kind, probes in record.probes.items()
    }


def moved(old: dict[str, list[Any]], new: dict[str, list[Any]]) -> dict[str, list[float]]:
    numbers: dict[str, list[float]] = {}
    for kind in old:
        for (p_0, before), (p, after) in zip(old[kind], new[kind], strict=True):
            values = (
                sum(float(q.exp() * (q - r)) for q, r in zip(p_0, p, strict=True)),
                sum(abs(float(q.exp() - r.exp())) for q, r in zip(p_0, p, strict=True)) / 2,
                float(int(p_0.argmax()) != int(p.argmax())),
                after - before,
            )
            for name, value in zip(NAMES, values, strict=True):
                numbers.setdefault(f"shift/{kind}_{name}", []).append(value)
    return numbers


def check(row: Any, expected: dict[str, list[float]]) -> None:
    assert row.keys() == {key + end for key in expected for end in ("", "_by_prompt")}
    for key, values in expected.items():
        assert row[f"{key}_by_prompt"] == pytest.approx(values, rel=1e-3, abs=2e-6)
        assert row[key] == pytest.approx(sum(values) / len(values), rel=1e-3, abs=2e-6)


def test_the_shift_is_that_of_plain_forward_passes() -> None:
    model = tiny()
    edits = random_edits(model, RECORDS)
    rows = Shift(ShiftConfig()).score(EditedModels(model, edits), RECORDS)
    largest = 0.0
    for record, edit, row in zip(RECORDS, edits, rows, strict=True):
        old = answers(model, record)
        with applied(model, edit):
            new = answers(model, record)
        check(row, moved(old, new))
        largest = max(largest, row["shift/neighborhood_kl"])
    assert largest > 1e-3
    assert {key.split("/")[1].rsplit("_kl", 1)[0] for key in rows[0] if key.endswith("_kl")} == {
        *KINDS
    }


def test_what_an_edit_puts_before_prompts_moves_them() -> None:
    model, record = tiny(), RECORDS[1]
    context = PromptContext(("Rome is in Seattle.",))
    delta = WeightDelta({}, None, "test", {}, model.fingerprint, context=context)
    [row] = Shift(ShiftConfig()).score(EditedModels(model, [delta]), [record])
    old, new = answers(model, record), answers(model, record, context.before("x"))
    check(row, moved(old, new))


def test_an_unedited_model_has_not_moved_at_all() -> None:
    model = tiny()
    none = WeightDelta({}, None, "none", {}, model.fingerprint)
    rows = Shift(ShiftConfig()).score(EditedModels(model, [none] * 3), RECORDS)
    assert {value for row in rows for key, value in row.items() if "by_prompt" not in key} == {0.0}


def test_distributions_are_kept_and_computed_again_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny()
    metric, edits = Shift(ShiftConfig()), random_edits(model, RECORDS)
    asked: list[int] = []

    def counting(models: EditedModels, queries: Any) -> Any:
        asked.append(len(queries))
        return next_log_p(models, queries)

    monkeypatch.setattr(shift, "next_log_p", counting)
    first = metric.score(EditedModels(model, edits), RECORDS)
    assert len(asked) == 4  # each record unedited, and all records edited
    again = metric.score(EditedModels(model, edits), RECORDS)
    assert len(asked) == 5
    other = metric.score(EditedModels(model, edits[::-1]), RECORDS)
    assert len(asked) == 6
    assert again == first != other
    monkeypatch.setattr(shift, "_KEPT_NUMBERS", 0)
    metric = Shift(ShiftConfig())
    assert metric.score(EditedModels(model, edits), RECORDS) == first
    assert metric.score(EditedModels(model, edits), RECORDS) == first
    assert len(asked) == 14
    monkeypatch.setattr(shift, "_NUMBERS_AT_ONCE", 1)  # record by record
    rows = metric.score(EditedModels(model, edits), RECORDS)
    for row, one in zip(rows, first, strict=True):
        for key, value in one.items():
            assert row[key] == pytest.approx(value, abs=1e-5)
    assert len(asked) == 20


def test_another_model_has_distributions_of_its_own() -> None:
    metric = Shift(ShiftConfig(kinds=("neighborhood",)))
    rows = []
    for seed in (0, 1, 0):
        model = tiny(seed=seed)
        rows.append(metric.score(EditedModels(model, random_edits(model, RECORDS)), RECORDS))
    assert rows[0] == rows[2] != rows[1]
    assert {key.rsplit("_kl", 1)[0] for key in rows[0][0] if key.endswith("_kl")} == {
        "shift/neighborhood"
    }


def test_a_broken_model_has_moved_as_far_as_possible() -> None:
    model = tiny()
    edit = random_edits(model, RECORDS)[0]
    [(name, change)] = edit.changes.items()
    assert isinstance(change, LowRank)
    broken = dataclasses.replace(edit, changes={name: LowRank(change.left, 1e38 * change.right)})
    [row] = Shift(ShiftConfig()).score(EditedModels(model, [broken]), RECORDS[:1])
    assert row["shift/neighborhood_kl"] == 100
    assert row["shift/neighborhood_tv"] == 1
