"""What overlap and interference predict: pairs of ROME edits on atlas, for docs/patches.md.

pytest -m slow -s -n 0 tests/editkit/patches/test_interference_on_atlas.py
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from editkit import (
    EditedModels,
    EditRequest,
    LanguageModel,
    Patch,
    load_model,
    make_dataset,
    make_editor,
)
from editkit.editing.deltas import WeightDelta, stack
from editkit.editing.queries import CandidateQuery
from editkit.patches.interference import interference, overlaps

SUBJECTS = 30
BANDS = (0.0, 0.1, 0.3, 0.5, math.inf)


def requests() -> list[EditRequest]:
    """Two facts about each of some subjects."""
    chosen: list[EditRequest] = []
    for record in make_dataset("atlas").load().records:
        first, subject = record.request, record.request.subject
        if len(chosen) < 2 * SUBJECTS and (others := record.probes["same_subject"]):
            other = others[0]
            template = other.prompt.replace(subject, "{}", 1)
            second = EditRequest(template, subject, other.target_new, other.target_true)
            chosen += [first, second]
    return chosen


def log_probabilities(
    model: LanguageModel, deltas: Sequence[WeightDelta], facts: Sequence[EditRequest]
) -> list[float]:
    """Log probability of each fact's new object under its own edited model."""
    models = EditedModels(model, deltas)
    queries = [
        CandidateQuery(edit, fact.sentence, (fact.target_new,)) for edit, fact in enumerate(facts)
    ]
    lengths = [len(models.completions(query)[0].target) for query in queries]
    scores = models.candidate_scores(queries)
    return [-score.nll * n for [score], n in zip(scores, lengths, strict=True)]


@pytest.mark.slow
def test_both_numbers_predict_which_edits_suffer(capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("atlas")
    facts = requests()
    editor = make_editor("rome", model)
    editor.prepare(model)
    deltas = editor.edit(model, facts)
    patches = [Patch(delta) for delta in deltas]
    pairs = [(i, j) for i in range(len(facts)) for j in range(len(facts)) if i != j]
    alone = log_probabilities(model, deltas, facts)
    both = [
        value
        for start in range(0, len(pairs), 100)
        for value in log_probabilities(
            model,
            [stack([deltas[i], deltas[j]]) for i, j in pairs[start : start + 100]],
            [facts[i] for i, _ in pairs[start : start + 100]],
        )
    ]
    loss = np.array([alone[i] - value for (i, _), value in zip(pairs, both, strict=True)])
    table = overlaps(patches)
    predictions = {
        "overlap": np.array([table[i][j] for i, j in pairs]),
        "interference": np.array([interference(model, patches[i], patches[j]) for i, j in pairs]),
    }
    same = np.array([facts[i].subject == facts[j].subject for i, j in pairs])
    halved = loss > math.log(2)
    with capsys.disabled():
        print(f"\n{len(pairs)} ordered pairs, {same.sum()} of them about one subject")
        for name, some in [("one subject", same), ("two subjects", ~same)]:
            print(
                f"{name}: kept {np.exp(-loss[some]).mean():.1%}, halved {halved[some].mean():.2%}"
            )
        for name, values in predictions.items():
            ranks = [spearmanr(values, of)[0] for of in (loss, abs(loss))]
            area = roc_auc_score(halved, values)
            print(f"{name}: rank correlation with the loss {ranks[0]:.2f}, with its size "
                  f"{ranks[1]:.2f}, area under the ROC curve {area:.3f}")  # fmt: skip
            for least, most in itertools.pairwise(BANDS):
                some = (least <= values) & (values < most)
                kept = np.exp(-loss[some]).mean()
                print(f"  {least} to {most}: {some.sum()} pairs, kept {kept:.1%}, "
                      f"halved {halved[some].sum()}")  # fmt: skip
    size = {name: spearmanr(values, abs(loss))[0] for name, values in predictions.items()}
    area = {name: roc_auc_score(halved, values) for name, values in predictions.items()}
    assert size["interference"] > size["overlap"] > 0.1
    assert area["interference"] > area["overlap"] > 0.7
