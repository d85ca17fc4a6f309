"""Every number of ``parity/finetune``, and the fine-tuning of ``parity/extra_models``."""

from __future__ import annotations

import pytest
import torch

from editkit_plugins.finetune.config import (
    AttentionFineTuneConfig,
    ConstrainedFineTuneConfig,
    FineTuneConfig,
)
from editkit_plugins.finetune.editor import FineTuneEditor, Training
from tests.parity import Parity, difference

CONFIGS = {
    "ft": FineTuneConfig(layer=1),
    "ft_l": ConstrainedFineTuneConfig(layer=0, max_change=2e-3),
    "attn_edit": AttentionFineTuneConfig(layer=4),
}
_ULP = 1e-8


def check(training: Training, run: dict, *, skip: tuple[str, ...] = ()) -> None:
    assert list(training.losses) == pytest.approx(run["losses"], rel=2e-5, abs=1e-5)
    for name, norm in run["norm"].items():
        if name not in skip:
            assert float(training.change[name].norm()) == pytest.approx(norm, rel=2e-5), name
    for name, largest in run.get("max_abs", {}).items():
        change = float(training.change[name].abs().max())
        assert change == pytest.approx(largest, rel=2e-5, abs=_ULP), name


@pytest.mark.parametrize("method", CONFIGS)
def test_each_request_alone_in_one_batch(parity: Parity, method: str) -> None:
    published = parity.json("finetune/runs.json")[method]["cases"]
    trained = FineTuneEditor(CONFIGS[method]).train(parity.model, parity.requests)
    # The loss does not depend on the keys' bias (softmax does not see a constant), so its gradient
    # is rounding noise, which Adam blows up to whole steps: its norm cannot be reproduced.
    skip = ("transformer.h.4.attn.c_attn.bias",)
    for training, run in zip(trained, published, strict=True):
        check(training, run, skip=skip)
    for case in (0, 1):
        for name, change in trained[case].change.items():
            key = f"{method}.case{case}.{name}"
            if key in parity.arrays("finetune"):
                # An entry whose gradient is rounding noise may move by Adam's whole step.
                assert difference(change, parity.arrays("finetune")[key]) < 5e-4, key


@pytest.mark.parametrize("method", ["ft", "ft_l"])
def test_one_request_at_a_time_gives_the_same(parity: Parity, method: str) -> None:
    together = FineTuneEditor(CONFIGS[method]).train(parity.model, parity.requests[:3])
    for request, expected in zip(parity.requests, together, strict=False):
        [alone] = FineTuneEditor(CONFIGS[method]).train(parity.model, [request])
        assert alone.losses == pytest.approx(expected.losses, rel=1e-4)
        for name, change in alone.change.items():
            # An entry whose gradient is rounding noise moves by whole steps of Adam, up or down
            # as the noise falls: a handful of 82,944 entries. All others agree.
            apart = (change - expected.change[name]).abs() > 1e-3 * change.abs().max()
            assert float(apart.float().mean()) < 1e-4, name


def test_six_requests_jointly(parity: Parity) -> None:
    published = parity.json("finetune/runs.json")["ft_six_requests_in_one_call"]
    editor = FineTuneEditor(FineTuneConfig(layer=1))
    check(editor.train_jointly(parity.model, parity.requests), published)


def test_gptj(parity: Parity) -> None:
    runs = parity.json("extra_models/gptj_random/runs.json")
    requests = [parity.requests[run["case_id"]] for run in runs["finetune"]]
    trained = FineTuneEditor(FineTuneConfig(layer=runs["layer"])).train(parity.gptj, requests)
    for training, run in zip(trained, runs["finetune"], strict=True):
        check(training, run)
    assert all(torch.isfinite(w).all() for t in trained for w in t.change.values())
