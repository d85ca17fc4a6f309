"""The shared mathematics of value.py, for editors of other packages: the guide's, and MEMIT's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import EditedModels, EditRequest, ModelError, applied, load_model, make_dataset
from editkit.editing.edited_models import CandidateQuery
from editkit.editing.rome_rows import request_rows, sampled_or_given_contexts
from editkit.editing.rome_value import find_values, keys_and_outputs, rank_one_update
from editkit.editing.rome_value_config import ValueConfig
from tests.slow_cases import by_default
from tests.tiny import tiny

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "editors.md"
REQUESTS = [
    EditRequest("{} is in the city of", "The Space Needle", "Paris"),
    EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian words"),
]
FREE = ValueConfig(
    contexts=("Mario Kart. ", "The city. "), steps=4, stop_loss=0.0, weight_decay=0.0, clamp=None
)


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The code of the guide's examples."""
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_guides_editor_writes_many_facts_with_one_delta(guide: list[str]) -> None:
    names: dict[str, Any] = {"__name__": "joint_editor"}
    exec(compile(guide[0], "joint_editor.py", "exec"), names)
    model = load_model("atlas")
    requests = [record.request for record in make_dataset("atlas").load().records[:5]]
    corpus = {"corpus": "editkit_benchmarks.atlas:corpus_texts", "corpus_tokens": 5_000}
    editor = names["LeastSquaresEditor"](
        names["LeastSquaresConfig"](
            **corpus, weight=0.1, weight_decay=0.1, context_lengths=[[4, 4]]
        )
    )
    editor.check(model)
    before = model.weights_digest()
    delta = editor.edit_jointly(model, requests)
    assert model.weights_digest() == before
    assert editor.edit(model, []) == []
    assert (delta.requests, delta.editor) == (tuple(requests), "least-squares")
    edited = EditedModels(model, [delta] * len(requests))
    queries = [
        CandidateQuery(i, request.sentence, (request.target_new,))
        for i, request in enumerate(requests)
    ]
    after, old = edited.candidate_nll(queries), edited.unedited().candidate_nll(queries)
    assert all(new[0] < 0.5 * original[0] for new, original in zip(after, old, strict=True))


def test_the_guides_keys_of_a_higher_layer_depend_on_the_edits_below(guide: list[str]) -> None:
    model, layer, last_layer = tiny(), 2, 3
    contexts = sampled_or_given_contexts(model, FREE)
    rows = [request_rows(model, request, contexts, FREE) for request in REQUESTS]
    from tests.editkit.editing.test_deltas import delta_for

    names: dict[str, Any] = {
        "applied": applied,
        "config": FREE,
        "earlier": delta_for(model, 1),
        "find_values": find_values,
        "keys_and_outputs": keys_and_outputs,
        "last_layer": last_layer,
        "layer": layer,
        "model": model,
        "rows": rows,
    }
    exec(compile(guide[1], "editors.md", "exec"), names)
    unedited, _ = keys_and_outputs(model, rows[0].key_rows, layer)
    assert names["keys"].shape == unedited.shape == (len(contexts), 128)
    assert not torch.equal(names["keys"], unedited)
    assert names["now"].shape == (1, 32)
    assert not torch.equal(names["now"][0], names["values"][0].v0)


@pytest.mark.parametrize("architecture", ["gpt2", "gptj", "llama"])
def test_an_offset_at_the_block_is_an_offset_at_its_mlp(architecture: str) -> None:
    """Without the terms that depend on |v0|, both sites give the same offset."""
    model = tiny(architecture)
    rows = [request_rows(model, request, ("", *FREE.contexts), FREE) for request in REQUESTS]
    for mlp, block in zip(
        find_values(model, rows, 1, FREE),
        find_values(model, rows, 1, FREE, site="block"),
        strict=True,
    ):
        assert torch.equal(mlp.delta, block.delta)
        assert mlp.losses == block.losses
        assert torch.equal(mlp.keys, block.keys)
        assert not torch.equal(mlp.v0, block.v0)


def test_keys_and_outputs_match_those_of_the_optimisation() -> None:
    model = tiny()
    rows = [request_rows(model, request, ("", *FREE.contexts), FREE) for request in REQUESTS]
    for site in ("mlp_out", "block"):
        for request, value in zip(rows, find_values(model, rows, 1, FREE, site=site), strict=True):
            keys, outputs = keys_and_outputs(model, request.key_rows, 1, site=site)
            torch.testing.assert_close(keys, value.keys)
            torch.testing.assert_close(outputs, value.outputs)
            [bare], [v0] = keys_and_outputs(model, [request.bare_row], 1, site=site)
            torch.testing.assert_close(bare, value.bare_key)
            torch.testing.assert_close(v0, value.v0)


@pytest.mark.parametrize(
    "architecture", by_default(["gemma2", "olmo2", "glm4", "qwen3_moe"], "gemma2")
)
def test_behind_a_norm_there_are_only_values_of_the_projection(architecture: str) -> None:
    """Elsewhere, ROME's offset is compared with one in whole rows through the whole model."""
    model = tiny(architecture)
    rows = [request_rows(model, REQUESTS[0], ("", *FREE.contexts), FREE)]
    with pytest.raises(ModelError, match="is not a change of that projection.*mlp_out"):
        find_values(model, rows, 1, FREE, site="block")


def test_without_requests_there_are_no_values() -> None:
    assert find_values(tiny(), [], 1, FREE) == []


@pytest.mark.parametrize("key", ["bare", "mean"])
def test_the_update_maps_its_key_to_v_star(key: str) -> None:
    model = tiny()
    rows = [request_rows(model, request, ("", *FREE.contexts), FREE) for request in REQUESTS]
    for value in find_values(model, rows, 1, FREE):
        update = rank_one_update(value, lambda k: 2 * k, key=key)
        mapped, output = (
            (value.bare_key, value.v0)
            if key == "bare"
            else (value.keys.mean(dim=0), value.outputs.mean(dim=0))
        )
        assert float(update.u.norm()) == pytest.approx(1)
        torch.testing.assert_close(output + (mapped @ update.u) * update.right, value.v_star)
