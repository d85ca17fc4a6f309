from __future__ import annotations

import pytest
import torch

from editkit import Fact
from editkit.models.running import forward, recording
from editkit_plugins.tracing.config import IntegratedGradientsConfig, SaliencyConfig
from editkit_plugins.tracing.gradients import IntegratedGradientsLocator, SaliencyLocator
from editkit_plugins.tracing.questions import questions
from tests.tiny import tiny

FACT = Fact("The Space Needle is in the city of", "The Space Needle")


def test_contributions_sum_up_to_what_the_probability_gains() -> None:
    model = tiny(scale=1.0)
    config = IntegratedGradientsConfig(steps=64, baseline="mean", memory_mb=1)
    [found] = IntegratedGradientsLocator(config).locate(model, [FACT])
    [question] = questions(model, [FACT])
    ids = torch.tensor([question.ids])
    path = model.architecture.block(model.n_layers - 1)
    with torch.no_grad(), recording(model, [path]) as seen:
        forward(model, ids)
        mean = seen[path].output.mean(dim=1)  # (1, H)
        start = torch.softmax(model.head(model.final_hidden(mean)), dim=-1)[0, question.answer[0]]
    gained = found.baselines["clean"] - float(start)
    total = sum(row[-1] for row in found.scores)
    assert total == pytest.approx(gained, rel=1e-2, abs=1e-6)


def test_saliency_is_the_slope() -> None:
    model = tiny(scale=1.0)
    config = SaliencyConfig(measure="state_times_gradient")
    [found] = SaliencyLocator(config).locate(model, [FACT])
    [question] = questions(model, [FACT])
    path = model.architecture.block(model.n_layers - 1)
    step = 1e-2
    with torch.no_grad(), recording(model, [path]) as seen:
        forward(model, torch.tensor([question.ids]))
        state = seen[path].output[0, -1]  # (H,)
        pair = torch.stack([state * (1 + step), state * (1 - step)])
        p = torch.softmax(model.head(model.final_hidden(pair)), dim=-1)[:, question.answer[0]]
    slope = abs(float(p[0] - p[1])) / (2 * step)
    assert found.scores[-1][-1] == pytest.approx(slope, rel=0.05, abs=1e-6)


def test_states_that_nothing_reads_have_no_effect() -> None:
    model = tiny()
    for found in SaliencyLocator(SaliencyConfig()).locate(model, [FACT]):
        assert all(row[-1] == 0.0 for row in found.scores[:-1])
        assert found.scores[0][0] > 0.0
