from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from editkit import EditRequest, ModelError, RequestError, applied
from editkit.editing.outcomes import unwatched
from editkit_plugins.ultraedit.config import EditedModules, UltraEditConfig
from editkit_plugins.ultraedit.editor import Statistics, UltraEditEditor
from tests.plugins.rome.test_rome import REQUESTS
from tests.tiny import tiny

ONE_TOKEN = EditRequest("{} is in the city of", "Rome", "9", separator="")


def editor(**values) -> UltraEditEditor:
    part = values.pop("part", "out")
    modules = (EditedModules(part=part, first=1, last=2),)
    return UltraEditEditor(UltraEditConfig(**{"modules": modules, "lr": 1e-4, **values}))


def test_running_statistics_are_those_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    chunks = [torch.randn(n, 5, generator=generator) * n + 3 for n in (1, 4, 2, 7)]
    statistics = Statistics.of({}, "5x0", 5)
    for chunk in chunks:
        statistics.update(chunk, exact=True)
    rows = torch.cat(chunks).double()
    torch.testing.assert_close(statistics.mean, rows.mean(dim=0))
    torch.testing.assert_close(statistics.var, rows.var(dim=0) * (len(rows) - 1))
    torch.testing.assert_close(
        statistics.normalised(rows), (rows - rows.mean(dim=0)) / rows.std(dim=0), rtol=1e-5, atol=0
    )


def test_two_steps_are_two_steps_with_the_state_in_a_file_between_them(tmp_path: Path) -> None:
    model, before = tiny(), tiny().weights_digest()
    first, state = editor().step(model, REQUESTS[:2], {})
    kept = {name: tensor.clone() for name, tensor in state.items()}
    save_file(dict(state), tmp_path / "state.safetensors")
    with applied(model, first):
        second, _ = editor().step(model, REQUESTS[2:], state)
        again, _ = editor().step(model, REQUESTS[2:], load_file(tmp_path / "state.safetensors"))
        fresh, _ = editor().step(model, REQUESTS[2:], {})
    assert again.digest() == second.digest() != fresh.digest()
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    assert model.weights_digest() == before


def test_a_joint_edit_of_one_fact_is_its_independent_edit() -> None:
    model, ours = tiny("llama"), editor(variance="exact", part="in")
    together, alone = ours.edit_jointly(model, REQUESTS[:1]), ours.edit(model, REQUESTS)[0]
    assert together.digest() == alone.digest()
    assert len(together.changes) == 4  # gate and up projections of two blocks


def test_a_single_row_is_refused_or_changes_nothing() -> None:
    model = tiny()
    with pytest.raises(RequestError, match="one row"):
        editor().edit(model, [ONE_TOKEN])
    one = UltraEditEditor(
        UltraEditConfig(modules=(EditedModules(part="out", first=1, last=1),), variance="exact")
    )
    with unwatched():
        [delta] = one.edit(model, [ONE_TOKEN])
    assert delta.is_finite()
    assert delta.norm() == 0
    assert "a single row" in delta.notes["warning"]


def test_gates_exist_only_where_they_are_a_module() -> None:
    assert editor(part="gate").paths(tiny("llama"))[0] == "model.layers.1.mlp.gate_proj"
    assert editor(part="up").paths(tiny("llama"))[0] == "model.layers.1.mlp.up_proj"
    with pytest.raises(ModelError, match="no separate projection for 'gate'"):
        editor(part="gate").check(tiny())
    with pytest.raises(ModelError, match="layer 4 does not exist"):
        UltraEditEditor(
            UltraEditConfig(modules=(EditedModules(part="out", first=3, last=9),))
        ).check(tiny())
