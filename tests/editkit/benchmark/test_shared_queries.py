from __future__ import annotations

import pytest

from editkit import EditedModels, make_metric
from editkit.benchmark.shared_queries import ask_together
from editkit.testing.samples import RECORDS, random_edits
from tests.tiny import tiny


def test_one_pass_answers_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("efficacy", "paraphrase", "neighborhood", "attribute", "correctness")
    metrics = [make_metric(name) for name in names]
    model = tiny()
    edits = random_edits(model, RECORDS)
    alone = [metric.score(EditedModels(model, edits), RECORDS) for metric in metrics]
    models = EditedModels(model, edits)
    ask_together(models, RECORDS, metrics)

    def no_pass(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(EditedModels, "states_after", no_pass)
    for metric, expected in zip(metrics, alone, strict=True):
        rows = metric.score(models, RECORDS)
        assert any(rows)
        for row, one in zip(rows, expected, strict=True):
            assert row.keys() == one.keys()
            assert all(row[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6) for key in row)
