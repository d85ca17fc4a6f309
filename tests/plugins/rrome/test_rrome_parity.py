"""Every array of ``parity/rrome``: R-ROME, p-ROME and ROME from the same code."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from editkit import Editor, EditRequest, WeightDelta, applied
from editkit.covariance.second_moment import SecondMoment, Whitening
from editkit.editing.deltas import stack
from editkit.editing.rome_value import RankOneUpdate, rank_one_update
from editkit.models import LanguageModel
from editkit_plugins.rrome.config import RRomeConfig
from editkit_plugins.rrome.editor import RRomeEditor
from tests.parity import Parity, difference, logits_at, requests_of, symmetric

CASES = range(4)


def statistic(parity: Parity, layer: int) -> tuple[SecondMoment, float]:
    """The reference's C, and its ridge relative to the mean diagonal."""
    if layer == 1:
        matrix = parity.arrays("rome")["second_moment_C"]
    else:
        matrix = symmetric(parity.tensors("memit/second_moment")[f"C.layer{layer}.upper"])
    ridge = parity.json("memit/second_moment.json")["ridge_added_to_diagonal"]
    return SecondMoment(matrix.clone(), 1), ridge / float(matrix.double().diagonal().mean())


class PinnedRRome(RRomeEditor):
    """R-ROME with the reference's second moment."""

    def __init__(self, parity: Parity, layer: int = 1, **changes: object) -> None:
        moment, ridge = statistic(parity, layer)
        values = {"layer": layer, "contexts": parity.contexts, "ridge": ridge, **changes}
        super().__init__(RRomeConfig(**values))
        self.factor = Whitening.of(moment, ridge)

    def whitening(self, model: LanguageModel) -> Whitening | None:
        return self.factor if self.config.second_moment else None


@pytest.fixture(scope="module")
def requests(parity: Parity) -> list[EditRequest]:
    return requests_of(parity, "memit")[: len(CASES)]


def check(
    parity: Parity, name: str, solutions: Sequence[RankOneUpdate], *, u: float, right: float
) -> None:
    arrays = parity.arrays("rrome")
    for case, solution in zip(CASES, solutions, strict=True):
        own = {
            "u": (solution.u, u),
            "u_float64": (solution.u, 1e-5),
            "right_vector": (solution.right, right),
            "key": (solution.value.keys.mean(dim=0), 1e-6),
            "output": (solution.value.outputs.mean(dim=0), 1e-6),
        }
        for field, (actual, tolerance) in own.items():
            array = f"{name}.case{case}.{field}"
            if array in arrays:
                assert difference(actual, arrays[array]) < tolerance, array
        expected = torch.outer(*(arrays[f"{name}.case{case}.{f}"] for f in ("u", "right_vector")))
        assert difference(torch.outer(solution.u, solution.right), expected) < u + right
        run = parity.json("rrome/runs.json").get(f"{name}.case{case}", {})
        if run:
            losses = [loss.total for loss in solution.value.losses]
            assert losses == pytest.approx(run["loss_rounded"], abs=6e-4)
            assert solution.divisor == pytest.approx(run["division_factor"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "layer", "changes", "u", "right"),
    [
        ("rrome", 1, {}, 2e-3, 3e-4),
        ("rrome_layer2", 2, {}, 2e-3, 3e-4),
        ("rrome_nomom2", 1, {"second_moment": False}, 1e-6, 1e-4),
        ("prome", 1, {"key": "bare"}, 2e-3, 3e-4),
    ],
)
def test_variants(
    parity: Parity,
    requests: list[EditRequest],
    name: str,
    layer: int,
    changes: dict[str, object],
    u: float,
    right: float,
) -> None:
    editor = PinnedRRome(parity, layer, **changes)
    solutions = editor.solve(parity.model, requests)
    check(parity, name, solutions, u=u, right=right)
    for solution in solutions:  # the key is mapped to v*
        value = solution.value
        bare = editor.config.key == "bare"
        key = value.bare_key if bare else value.keys.mean(dim=0)
        output = value.v0 if bare else value.outputs.mean(dim=0)
        torch.testing.assert_close(output + (key @ solution.u) * solution.right, value.v_star)


def test_keys_and_offsets_of_layer_1_and_the_update_of_rome(
    parity: Parity, requests: list[EditRequest]
) -> None:
    editor, arrays = PinnedRRome(parity), parity.arrays("rrome")
    solutions = editor.solve(parity.model, requests)
    for case, solution in zip(CASES, solutions, strict=True):
        value = solution.value
        for field, actual, tolerance in (
            ("keys_per_template", value.keys, 1e-6),
            ("bare_key_layer1", value.bare_key, 1e-6),
            ("bare_output_layer1", value.v0, 1e-6),
            ("delta_layer1", value.delta, 1e-4),
        ):
            assert difference(actual, arrays[f"case{case}.{field}"]) < tolerance, field
    rome = [rank_one_update(each.value, editor.factor.solve, key="bare") for each in solutions]
    check(parity, "rome", rome, u=2e-3, right=3e-4)


def test_four_edits_one_after_the_other(parity: Parity, requests: list[EditRequest]) -> None:
    arrays, model = parity.arrays("rrome"), parity.model
    probes = [probe["text"] for probe in parity.json("memit/probes.json")]
    editor = PinnedRRome(parity)

    def after(delta: WeightDelta) -> Tensor:
        with applied(model, delta):
            return logits_at(model, probes)  # (probes, V)

    [first] = editor.edit(model, requests[:1])
    torch.testing.assert_close(after(first), arrays["rrome.case0.logits"], rtol=0, atol=2e-3)
    total = _in_sequence(editor, model, requests)
    torch.testing.assert_close(after(total), arrays["rrome.sequential4.logits"], rtol=0, atol=5e-3)


def _in_sequence(
    editor: Editor[RRomeConfig], model: LanguageModel, requests: Sequence[EditRequest]
) -> WeightDelta:
    [total] = editor.edit(model, requests[:1])
    for request in requests[1:]:
        with applied(model, total):
            [delta] = editor.edit(model, [request])
        total = stack([total, delta])
    return total
