"""Knowledge neurons beyond the published numbers: every architecture, odd prompts, properties."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editkit import (
    ConfigError,
    EditedModels,
    EditRequest,
    Fact,
    LanguageModel,
    WeightDelta,
    applied,
    load_delta,
    make_editor,
    save_delta,
)
from editkit.editing.edited_models import CandidateQuery
from editkit.models.running import forward, recording
from editkit_plugins.kn.attribution import (
    Query,
    alphas,
    attribute,
    neurons_above_threshold,
    refined_neurons,
    shared_neurons,
)
from editkit_plugins.kn.config import AttributionConfig, KnConfig, KnowledgeNeuronsConfig
from editkit_plugins.kn.editor import KnEditor, prompts_of, read_templates, scaled
from editkit_plugins.kn.locator import KnowledgeNeuronsLocator
from tests.plugins.kn.oracle import attribute_plainly
from tests.slow_cases import by_default
from tests.tiny import ARCHITECTURES, ONE_OF_EACH_KIND, tiny

REQUESTS = [
    EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian", "French", "P103"),
    EditRequest("{} was created by", "Mario Kart", "Microsoft", "Nintendo"),
    EditRequest("“{}” is in", "Zoë Müller", "Rome"),
]


def asked(model: LanguageModel) -> list[Query]:
    encodings = model.encode([request.sentence for request in REQUESTS])
    return [
        *(Query(e.ids, (7 + i, 40)) for i, e in enumerate(encodings)),
        Query((5,), (9,)),  # nothing stands before the only token
    ]


@pytest.mark.parametrize(
    ("architecture", "site"),
    by_default(
        itertools.product(ARCHITECTURES, ["pre_activation", "post_activation"]),
        *((architecture, "pre_activation") for architecture in ONE_OF_EACH_KIND),
        ("gpt2", "post_activation"),
    ),
)
def test_batched_attribution_equals_one_step_at_a_time(architecture: str, site: str) -> None:
    model = tiny(architecture)
    values = {"site": site, "steps": 5}
    batched = attribute(model, asked(model), AttributionConfig(**values))
    plain = attribute_plainly(model, asked(model), AttributionConfig(**values))
    for actual, expected in zip(batched, plain, strict=True):
        assert actual.shape == expected.shape
        assert float((actual - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_neurons_of_a_fused_projection_are_those_of_a_gate_of_its_own() -> None:
    """Phi-3 with its fused projections taken apart is a Llama."""
    fused, separate = tiny("phi3", rms_norm_eps=1e-5), tiny("llama", rms_norm_eps=1e-5)
    weights = {}
    for name, weight in fused.hf.state_dict().items():
        parts = {name: weight}
        if "qkv_proj" in name:
            split = weight.split([32, 16, 16])
            parts = {name.replace("qkv", k): w for k, w in zip("qkv", split, strict=True)}
        elif "gate_up_proj" in name:
            split = weight.chunk(2)
            gate_and_up = zip(("gate", "up"), split, strict=True)
            parts = {name.replace("gate_up", k): w for k, w in gate_and_up}
        weights.update(parts)
    separate.hf.load_state_dict(weights)
    config = AttributionConfig(steps=3)
    together = attribute(fused, asked(fused), config)
    for scores, expected in zip(
        together, attribute(separate, asked(separate), config), strict=True
    ):
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("architecture", ["gpt2", "gptj", "llama"])
def test_a_layers_scores_sum_to_the_effect_of_silencing_it(architecture: str) -> None:
    """The completeness of integrated gradients: the sum is P(a) - P(0)."""
    model = tiny(architecture)
    config = AttributionConfig(site="post_activation", steps=400, alphas="right")
    [query, *_] = asked(model)
    [scores] = attribute(model, [query], config)
    ids, targets = torch.tensor([query.prompt]), torch.tensor(query.targets)

    def probability() -> float:
        with torch.no_grad():
            return float(torch.softmax(model.head(forward(model, ids)[0, -1]), -1)[targets].mean())

    for layer in range(model.n_layers):
        module = model.module(model.path(layer, "mlp_out"))

        def silence(_: object, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            x = args[0].clone()
            x.reshape(ids.shape[1], -1)[-1] = 0.0
            return (x,)

        whole = probability()
        handle = module.register_forward_pre_hook(silence)
        silent = probability()
        handle.remove()
        largest = float(scores.abs().max())
        assert float(scores[layer].sum()) == pytest.approx(whole - silent, abs=0.05 * largest)


def test_memory_mb_does_not_change_the_scores() -> None:
    model = tiny()
    [few, many] = [
        attribute(model, asked(model), AttributionConfig(steps=50, memory_mb=mb)) for mb in (1, 512)
    ]
    for one, other in zip(few, many, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "points"), [("linspace", [0, 0.5, 1]), ("left", [0, 1 / 3, 2 / 3])]
)
def test_the_points_of_the_path(kind: str, points: list[float]) -> None:
    assert alphas(AttributionConfig(alphas=kind, steps=3)) == pytest.approx(points)
    assert alphas(AttributionConfig(alphas="right", steps=1)) == [1.0]
    assert alphas(AttributionConfig(alphas=kind, steps=1)) == [0.0]


def test_thresholds() -> None:
    scores = torch.tensor([[0.1, 0.5, -3.0], [1.0, 0.2, 0.0]])
    assert neurons_above_threshold(scores, AttributionConfig(threshold=0.2)) == [(0, 1), (1, 0)]
    absolute = AttributionConfig(threshold=0.15, threshold_kind="absolute")
    assert neurons_above_threshold(scores, absolute) == [(0, 1), (1, 0), (1, 1)]
    share = AttributionConfig(threshold=0.5, threshold_kind="percentile")
    assert neurons_above_threshold(scores, share) == [(0, 1), (1, 0), (1, 1)]
    assert neurons_above_threshold(-scores.abs(), AttributionConfig(threshold=0.2)) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"threshold_kind": "percentile", "threshold": 5}, "threshold 5 is not a share"),
        ({"wanted_neurons": [5, 2]}, "wrong order"),
    ],
)
def test_contradictory_values_are_refused(values: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_editor("kn", "atlas", **values)


neuron_lists = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), unique=True), min_size=1, max_size=8
)


@given(neuron_lists, st.floats(0, 0.99))
def test_shared_neurons_are_in_more_than_p_of_the_lists(lists: list, p: float) -> None:
    actual = shared_neurons(lists, p)
    assert len(set(actual)) == len(actual)
    for neuron in {neuron for neurons in lists for neuron in neurons}:
        share = sum(neuron in neurons for neurons in lists)
        assert (neuron in actual) == (share > p * len(lists))


@given(neuron_lists, st.floats(0, 0.99), st.integers(1, 4), st.integers(0, 3))
def test_p_is_moved_towards_the_wanted_number(lists: list, p: float, least: int, more: int) -> None:
    config = KnConfig(refine=True, p=p, wanted_neurons=(least, least + more))
    actual = refined_neurons(lists, config)
    everything = shared_neurons(lists, 0.0)
    assert set(actual) <= set(everything)
    assert len(actual) >= min(least, len(everything))
    if least <= len(shared_neurons(lists, p)) <= least + more:
        assert actual == shared_neurons(lists, p)


def test_suppressing_is_silencing_and_enhancing_is_doubling() -> None:
    model = tiny()
    neurons = {1: [3, 5], 2: [0]}
    ids = torch.tensor([[3, 9, 27, 81]])
    path = model.path(1, "mlp_out")
    module = model.module(path)
    with torch.no_grad():
        with recording(model, [path]) as seen:
            forward(model, ids)
        weight = module.weight.clone()  # GPT-2 stores (in, out)
        neurons_effect = seen[path].inputs[..., [3, 5]] @ weight[[3, 5]]
        for factor in (0.0, 2.0):
            changes = scaled(model, neurons, factor)
            delta = WeightDelta(changes, None, "kn", {}, model.fingerprint)
            with applied(model, delta), recording(model, [path]) as after:
                forward(model, ids)
            change = after[path].output - seen[path].output
            assert torch.allclose(change, (factor - 1) * neurons_effect, atol=1e-4)
    assert torch.equal(module.weight, weight)


@pytest.mark.parametrize("operation", ["suppress", "enhance"])
def test_operations_are_edits_like_any_other(operation: str, tmp_path: Path) -> None:
    model = tiny()
    editor = KnEditor(KnConfig(operation=operation, target_space=True))
    deltas = editor.edit(model, REQUESTS)
    save_delta(deltas[0], tmp_path / "neurons.safetensors")
    again = load_delta(tmp_path / "neurons.safetensors")
    prompt = REQUESTS[0].sentence
    queries = [CandidateQuery(i, prompt, ("French",)) for i in range(3)]
    rows = EditedModels(model, deltas).candidate_nll(queries)
    with applied(model, again):
        none = [WeightDelta({}, None, "kn", {}, model.fingerprint)]
        [[alone]] = EditedModels(model, none).candidate_nll(queries[:1])
    assert rows[0][0] == pytest.approx(alone, rel=1e-4)


def test_original_scales_bring_embeddings_to_the_rows_norm() -> None:
    model = tiny()
    editor = make_editor("kn", model, preset="original", refine=False)
    [finding] = editor.find(model, REQUESTS[:1])
    [delta] = editor.edit(model, REQUESTS[:1])
    table = model.hf.get_input_embeddings().weight.detach()
    old = torch.nn.functional.normalize(table[list(finding.old)], dim=-1).sum(0)
    new = torch.nn.functional.normalize(table[list(finding.new)], dim=-1).sum(0)
    assert finding.old == model.complete([REQUESTS[0].sentence], ["French"])[0].target
    for name, change in delta.changes.items():
        rows = model.hf.get_parameter(name).detach()[change.indices]
        expected = rows.norm(dim=-1, keepdim=True) * (8 * new - old)
        assert torch.allclose(change.values, expected, rtol=1e-4, atol=1e-6)


def test_without_a_true_object_the_predicted_token_is_used() -> None:
    model = tiny()
    [finding] = KnEditor(KnConfig(old_token="target_true")).find(model, REQUESTS[2:])
    [encoding] = model.encode([REQUESTS[2].sentence])
    with torch.no_grad():
        hidden = forward(model, torch.tensor([encoding.ids]))
    assert finding.old == (int(model.head(hidden[0, -1]).argmax()),)


def test_without_neurons_the_edit_has_no_changes() -> None:
    model = tiny()
    editor = KnEditor(KnConfig(threshold_kind="absolute", threshold=2.0))
    [delta] = editor.edit(model, REQUESTS[:1])
    assert delta.changes == {}
    assert delta.notes["n_neurons"] == 0
    assert "lower threshold (2)" in delta.notes["advice"]


def test_targets_of_several_tokens_get_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    values = {"threshold_kind": "absolute", "threshold": 0.0}

    def warned(**more: object) -> list[bool]:
        deltas = KnEditor(KnConfig(**values, **more)).edit(model, REQUESTS)
        return ["several tokens" in delta.notes.get("warning", "") for delta in deltas]

    for space in (True, False):
        findings = KnEditor(KnConfig(**values, target_space=space)).find(model, REQUESTS)
        assert warned(target_space=space) == [len(each.new) > 1 for each in findings]
    assert any(warned())
    assert not any(warned(operation="suppress"))
    assert "several tokens" in caplog.text


# ---------------------------------------------------------------- several prompts of a fact


def test_templates_of_the_relation_are_filled(tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    file.write_text(json.dumps({"P103": ["{} speaks", "The mother tongue of {} is"]}), "utf-8")
    model = tiny()
    config = KnConfig(refine=True, templates=str(file), contexts=(3, 2))
    templates = read_templates(config)
    prompts = prompts_of(model, REQUESTS[0], templates, config)
    assert prompts == [REQUESTS[0].sentence, "Danielle Darrieux speaks"]
    sampled = prompts_of(model, REQUESTS[1], templates, config)
    assert len(sampled) == 4
    assert all(prompt.endswith(REQUESTS[1].sentence) for prompt in sampled)
    assert prompts_of(model, REQUESTS[0], templates, KnConfig()) == [REQUESTS[0].sentence]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ('["{} is"]', "do not map relations"),
        ('{"P1": ["no place"]}', "do not map relations"),
    ],
)
def test_bad_templates_are_refused_at_once(
    content: str | None, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "templates.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    editor = KnEditor(KnConfig(refine=True, templates=str(file)))
    with pytest.raises(ConfigError, match=problem):
        editor.check(tiny())


def test_refining_keeps_the_neurons_that_prompts_share() -> None:
    model = tiny()
    loose = KnEditor(KnConfig(refine=True, p=0.0, contexts=(4, 3)))
    strict = KnEditor(KnConfig(refine=True, p=0.8, contexts=(4, 3)))
    [[all_of_them], [common]] = [e.find(model, REQUESTS[:1]) for e in (loose, strict)]
    assert set(common.neurons) < set(all_of_them.neurons)


# ---------------------------------------------------------------- the locator


def test_the_locator_reports_layers_and_neurons() -> None:
    model = tiny()
    facts = [
        Fact("The mother tongue of Danielle Darrieux is", "Danielle Darrieux", "French"),
        Fact("Mario Kart was created by", "Mario Kart"),
    ]
    config = KnowledgeNeuronsConfig(most_neurons=5, threshold=0.01)
    actual = KnowledgeNeuronsLocator(config).locate(model, facts)
    assert [each.fact for each in actual] == facts
    for each in actual:
        assert "".join(each.tokens) == each.fact.prompt
        assert len(each.scores) == len(each.tokens)
        assert {len(row) for row in each.scores} == {model.n_layers}
        assert not any(any(row) for row in each.scores[:-1])
        assert 0 < len(each.neurons) <= 5
        effects = [effect for _, _, effect in each.neurons]
        assert effects == sorted(effects, reverse=True)
        assert 0 < each.baselines["clean"] < 1
    assert KnowledgeNeuronsLocator(config).locate(model, []) == []
