"""Every array and every list of ``parity/kn``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from editkit import EditRequest, LanguageModel, applied
from editkit.models.running import forward
from editkit_plugins.kn.attribution import (
    Query,
    attribute,
    neurons_above_threshold,
    shared_neurons,
)
from editkit_plugins.kn.config import AttributionConfig, KnConfig
from editkit_plugins.kn.editor import KnEditor
from tests.parity import Parity, difference
from tests.plugins.kn.oracle import attribute_plainly

_SCORES = {
    "scores_pre_gelu": {},
    "scores_pre_gelu_no_space_target": {},
    "scores_post_gelu_grid0to1": {"site": "post_activation"},
    "scores_post_gelu_right_riemann": {"site": "post_activation", "alphas": "right"},
}


def queries(parity: Parity, target: str = "target") -> list[Query]:
    model, asked = parity.model, []
    for entry in parity.json("kn/kn.json")["prompts"]:
        [prompt] = model.encode([entry["prompt"]])
        [wanted] = model.encode([entry[target]])
        asked.append(Query(prompt.ids, wanted.ids))
    return asked


@pytest.mark.parametrize("name", _SCORES)
@pytest.mark.parametrize("plain", [False, True], ids=["batched", "plain"])
def test_scores(parity: Parity, name: str, plain: bool) -> None:
    target = "no_space_target" if name.endswith("no_space_target") else "target"
    asked = queries(parity, target)
    attributed = attribute_plainly if plain else attribute
    actual = attributed(parity.model, asked, AttributionConfig(**_SCORES[name]))
    for index, scores in enumerate(actual):
        expected = parity.arrays("kn")[f"prompt{index}.{name}"]
        assert difference(scores, expected) < 1e-5
        assert float((scores - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_targets_are_the_tokens_of_the_published_run(parity: Parity) -> None:
    for entry, spaced, bare in zip(
        parity.json("kn/kn.json")["prompts"],
        queries(parity),
        queries(parity, "no_space_target"),
        strict=True,
    ):
        assert spaced.targets == (entry["target_token_id"],)
        assert list(bare.targets) == entry["no_space_target_token_ids"]


def test_coarse_lists(parity: Parity) -> None:
    entries = parity.json("kn/kn.json")["prompts"]
    for entry, scores in zip(
        entries, attribute(parity.model, queries(parity), AttributionConfig()), strict=True
    ):
        place = divmod(int(scores.argmax()), scores.shape[1])
        assert list(place) == entry["argmax"]
        assert float(scores.max()) == pytest.approx(entry["max_score"], rel=1e-5)
        for threshold in (0.2, 0.3):
            listed = [tuple(n) for n in entry[f"coarse_neurons_adaptive_{threshold}"]]
            assert neurons_above_threshold(scores, AttributionConfig(threshold=threshold)) == listed


def test_refined_lists(parity: Parity) -> None:
    config = AttributionConfig(threshold=0.3)
    entries = parity.json("kn/kn.json")["refined"]
    assert len(entries) == 12
    for entry in entries:
        [wanted] = parity.model.encode([entry["target"]])
        asked = [Query(e.ids, wanted.ids) for e in parity.model.encode(entry["prompts"])]
        lists = [
            neurons_above_threshold(scores, config)
            for scores in attribute(parity.model, asked, config)
        ]
        assert shared_neurons(lists, entry["p"]) == [tuple(neuron) for neuron in entry["neurons"]]


def edits(parity: Parity) -> list[tuple[dict[str, Any], EditRequest, KnConfig]]:
    cases = []
    for entry in parity.json("kn/kn.json")["edits"]:
        r = entry["request"]
        new, true = r["target_new"]["str"], r["target_true"]["str"]
        request = EditRequest(r["prompt"], r["subject"], new.strip(), true.strip())
        cases.append((entry, request, KnConfig(target_space=new.startswith(" "))))
    return cases


def probability(model: LanguageModel, prompt: str) -> torch.Tensor:
    [encoding] = model.encode([prompt])
    with torch.no_grad():
        hidden = forward(model, torch.tensor([encoding.ids]))
        return torch.softmax(model.head(hidden[0, -1]), dim=-1)


def test_edits(parity: Parity) -> None:
    model = parity.model
    assert len(edits(parity)) == 6
    for entry, request, config in edits(parity):
        [finding] = KnEditor(config).find(model, [request])
        assert finding.neurons == tuple(tuple(neuron) for neuron in entry["neurons"])
        assert finding.old == (entry["old_token_id"],)
        assert list(finding.new) == entry["new_token_ids"]
        [delta] = KnEditor(config).edit(model, [request])
        assert sorted(delta.changes) == sorted(entry["changed_parameters"])
        rows = torch.cat([change.values for change in delta.changes.values()])
        assert difference(rows, parity.arrays("kn")[entry["array"]]) < 1e-6
        assert delta.norm() == pytest.approx(entry["norm_total_delta"], rel=1e-6)
        before = probability(model, request.sentence)
        with applied(model, delta):
            after = probability(model, request.sentence)
        for key, token in (
            ("prob_of_first_new_token_before_after", entry["new_token_ids"][0]),
            ("prob_of_old_token_before_after", entry["old_token_id"]),
        ):
            assert [float(before[token]), float(after[token])] == pytest.approx(
                entry[key], rel=1e-3, abs=1e-9
            )


def test_requests_together_equal_requests_alone(parity: Parity) -> None:
    chosen = [(request, config) for _, request, config in edits(parity) if config.target_space]
    editor = KnEditor(chosen[0][1])
    together = editor.edit(parity.model, [request for request, _ in chosen])
    for (request, _), delta in zip(chosen, together, strict=True):
        [alone] = editor.edit(parity.model, [request])
        assert alone.changes.keys() == delta.changes.keys()
        for name, change in alone.changes.items():
            assert torch.equal(change.indices, delta.changes[name].indices)
            assert difference(change.values, delta.changes[name].values) < 1e-6
