from __future__ import annotations

import pytest
import torch

from editkit import Fact
from editkit.models.running import forward, recording
from editkit_plugins.tracing.config import IntegratedGradientsConfig, SaliencyConfig
from editkit_plugins.tracing.gradients import IntegratedGradientsLocator, SaliencyLocator
from editkit_plugins.tracing.tokenized_facts import tokenize_facts
from tests.tiny import tiny

FACT = Fact("The Space Needle is in the city of", "The Space Needle")


def test_contributions_sum_to_the_gain_in_probability() -> None:
    model = tiny(scale=1.0)
    config = IntegratedGradientsConfig(steps=64, baseline="mean", memory_mb=1)
    [localization] = IntegratedGradientsLocator(config).locate(model, [FACT])
    [fact] = tokenize_facts(model, [FACT])
    ids = torch.tensor([fact.ids])
    path = model.architecture.block(model.n_layers - 1)
    with torch.no_grad(), recording(model, [path]) as recorded:
        forward(model, ids)
        mean = recorded[path].output.mean(dim=1)  # (1, H)
        start = torch.softmax(model.head(model.final_hidden(mean)), dim=-1)[0, fact.answer[0]]
    gained = localization.baselines["clean"] - float(start)
    total = sum(row[-1] for row in localization.scores)
    assert total == pytest.approx(gained, rel=1e-2, abs=1e-6)


def test_saliency_is_the_slope_along_a_state() -> None:
    model = tiny(scale=1.0)
    config = SaliencyConfig(measure="state_times_gradient")
    [localization] = SaliencyLocator(config).locate(model, [FACT])
    [fact] = tokenize_facts(model, [FACT])
    path = model.architecture.block(model.n_layers - 1)
    step = 1e-2
    with torch.no_grad(), recording(model, [path]) as recorded:
        forward(model, torch.tensor([fact.ids]))
        state = recorded[path].output[0, -1]  # (H,)
        pair = torch.stack([state * (1 + step), state * (1 - step)])
        p = torch.softmax(model.head(model.final_hidden(pair)), dim=-1)[:, fact.answer[0]]
    slope = abs(float(p[0] - p[1])) / (2 * step)
    assert localization.scores[-1][-1] == pytest.approx(slope, rel=0.05, abs=1e-6)


def test_states_that_no_block_reads_have_no_effect() -> None:
    model = tiny()
    for localization in SaliencyLocator(SaliencyConfig()).locate(model, [FACT]):
        assert all(row[-1] == 0.0 for row in localization.scores[:-1])
        assert localization.scores[0][0] > 0.0
