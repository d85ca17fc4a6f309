"""Every number of ``parity/ultraedit``: four runs of three turns of four facts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from editkit import EditRequest, WeightDelta, applied
from editkit.models.encoding import padded
from editkit_plugins.ultraedit.config import EditedModules, UltraEditConfig
from editkit_plugins.ultraedit.editor import (
    Statistics,
    UltraEditEditor,
    collect,
    least_squares,
    shift,
)
from tests.parity import Parity, difference

RUNS = ("lr_default", "lr_large", "one_subbatch", "all_tokens")
PARTS = {"mlp.c_proj": "out", "mlp.c_fc": "in"}


def config_of(run: dict[str, Any]) -> UltraEditConfig:
    modules = []
    for path in run["edit_modules"]:
        layer, part = path.removeprefix("transformer.h.").split(".", 1)
        modules.append(EditedModules(part=PARTS[part], first=int(layer), last=int(layer)))
    return UltraEditConfig(
        modules=tuple(modules),
        lr=run["lr"],
        sub_batch=run["dataset_batch_size"],
        tokens="target" if run["token"] == "ans" else "all",
    )


def turns(parity: Parity) -> list[list[EditRequest]]:
    facts = parity.json("ultraedit/requests.json")
    return [
        [
            EditRequest(
                fact["prompt"].replace(fact["subject"], "{}"), fact["subject"], fact["target"]
            )
            for fact in facts
            if fact["turn"] == turn
        ]
        for turn in range(3)
    ]


@pytest.mark.parametrize("tag", RUNS)
def test_a_run(parity: Parity, tag: str) -> None:
    arrays, model = parity.arrays("ultraedit"), parity.model
    [run] = [run for run in parity.json("ultraedit/runs.json")["runs"] if run["tag"] == tag]
    config = config_of(run)
    editor = UltraEditEditor(config)
    paths = editor.paths(model)
    assert paths == run["edit_modules"]
    texts = [probe["text"] for probe in parity.json("ultraedit/probes.json")]
    probes = [each.ids for each in model.read(texts)]
    last = torch.tensor([len(ids) - 1 for ids in probes])

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model.hf(padded(probes, "cpu")).logits[torch.arange(len(probes)), last]

    torch.testing.assert_close(logits(), arrays["logits_unedited"], atol=5e-4, rtol=0)
    state: dict[str, torch.Tensor] = {}
    deltas: list[WeightDelta] = []
    for turn, requests in enumerate(turns(parity)):
        prefix = f"{tag}.t{turn}"
        with applied(model, deltas):
            batches, _ = collect(model, requests, paths, config)
            delta, state = editor.step(model, requests, state)
        deltas.append(delta)
        for path in paths:
            key = f"{prefix}.{path}"
            h, g = (torch.cat([batch[path][i] for batch in batches]) for i in (0, 1))
            assert difference(h, arrays[f"{key}.hidden"]) < 2e-5
            assert difference(g, arrays[f"{key}.grad"]) < 2e-5
            name = f"{h.shape[1]}x{g.shape[1]}"
            statistics = Statistics.of(state, name, h.shape[1] + g.shape[1])
            std = (statistics.var / (statistics.n - 1 + torch.finfo(torch.float32).eps)).sqrt()
            for field, value in (*statistics.tensors().items(), ("std", std)):
                if field == "n":
                    assert float(value) == run["turns"][turn]["n"][name]
                else:
                    assert difference(value, arrays[f"{prefix}.stats_{name}.{field}"]) < 1e-5

            published = arrays[f"{key}.shift_left"] @ arrays[f"{key}.shift_right"]
            change = delta.changes[f"{path}.weight"].dense()
            assert difference(change, published) < 3e-4
            # From the published rows and statistics: against the float64 reference.
            stored = Statistics.of({}, name, len(statistics.mean))
            stored.mean = arrays[f"{prefix}.stats_{name}.mean"].double()
            stored.var = arrays[f"{prefix}.stats_{name}.var"].double()
            stored.n = statistics.n
            hidden, gradients = arrays[f"{key}.hidden"], arrays[f"{key}.grad"]
            from_stored = shift(hidden, gradients, stored, config).dense()
            reference = hidden.double().T @ arrays[f"{key}.coeff64"].double()
            assert difference(from_stored, reference) < 1e-5
        with applied(model, deltas):
            torch.testing.assert_close(logits(), arrays[f"{prefix}.logits"], atol=5e-4, rtol=0)


def test_both_forms_of_the_least_squares_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(30, 8, generator=generator)
    v = torch.randn(30, 5, generator=generator)
    for h in (wide, wide[:3]):  # more rows than inputs, and fewer
        h64 = h.double()
        expected = torch.linalg.inv(h64.T @ h64 + 2 * torch.eye(8)) @ h64.T @ v[: len(h)].double()
        assert difference(least_squares(h, v[: len(h)], 2.0).dense(), expected) < 1e-6
