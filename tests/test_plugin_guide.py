"""The guide for plugin authors works as printed: its example is written out, offered and run."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import Config, EditedModels, EditRequest, ModelError, applied, load_model
from editkit.editing.deltas import stack
from editkit.editing.edited_models import CandidateQuery
from editkit.models.encoding import padded
from editkit.models.running import forward, replacing
from editkit.progress import listening
from editkit.registry.config import GivenValues, resolve_config
from editkit.registry.plugins import Registry
from editkit.testing import tiny_model
from tests.listeners import Log

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "plugins.md"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with the guide's plugin in it."""
    text = GUIDE.read_text(encoding="utf-8")
    files = re.findall(r"```python\n# (my_package/\w+\.py)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == [
        "my_package/__init__.py",
        "my_package/config.py",
        "my_package/editor.py",
    ]
    for name, code in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        monkeypatch.delitem(sys.modules, name)
    my_package = importlib.import_module("my_package")
    registry = Registry()
    registry.register(my_package, name="mine", distribution="my-package", version="0.1.0")
    return registry


def test_the_guides_editor_edits(registry: Registry) -> None:
    offer = registry.get("editor", "mine")
    editor = registry.build("editor", "mine", resolve_config(offer).config)
    model = load_model("atlas")
    before = model.weights_digest()
    request = EditRequest("The capital of {} is", "France", "Rome", "Paris")
    deltas = editor.edit(model, [request])
    assert model.weights_digest() == before
    assert editor.edit(model, []) == []
    edited = EditedModels(model, deltas)
    query = CandidateQuery(0, request.sentence, ("Rome", "Paris"))
    [[new_after, _]] = edited.candidate_nll([query])
    [[new_before, _]] = edited.unedited().candidate_nll([query])
    assert new_after < new_before


def test_the_guides_editor_refuses_a_wrong_layer_at_once(registry: Registry) -> None:
    offer = registry.get("editor", "mine")
    config = resolve_config(offer, given=[GivenValues({"layer": 99}, "test", "mine")]).config
    with pytest.raises(ModelError, match="layer 99 does not exist"):
        registry.build("editor", "mine", config).check(load_model("atlas"))


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama"])
def test_the_guides_gradient_is_the_one_of_the_loss(architecture: str) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(\[fact\] = .*?)```", text, re.DOTALL)
    model = tiny_model(architecture)
    request = EditRequest("{} is in the city of", "The Space Needle", "Paris")
    [encoding] = model.encode([request.sentence])
    names: dict[str, Any] = {
        "model": model,
        "request": request,
        "path": model.path(1, "mlp_out"),
        "position": encoding.position(request.subject_span, "subject_last"),
        "torch": torch,
        "padded": padded,
        "forward": forward,
        "replacing": replacing,
    }
    exec(compile(code, "plugins.md", "exec"), names)
    before, gradient = names["loss"].item(), names["gradient"]
    names["step"] = 1e-3 * gradient / gradient.norm()
    nudged = code.replace("requires_grad=True)", "requires_grad=True) - step")
    exec(compile(nudged, "plugins.md", "exec"), names)
    fell = before - names["loss"].item()
    assert fell == pytest.approx(1e-3 * gradient.norm().item(), rel=0.05)


def test_the_guides_progress_counts_every_text() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(from editkit import counting.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"__name__": "counted"}
    exec(compile(code, "plugins.md", "exec"), names)
    log = Log()
    with listening(log):
        assert names["column_sums"](["ab", "b"], 2) == [97 + 98, 98]
    assert log.events == [
        ("column sums", 0, 2),
        ("column sums", 1, 2),
        ("column sums", 2, 2),
        "end",
    ]


def test_the_guides_editor_with_a_state_takes_two_steps() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    [code] = re.findall(
        r"```python\n(import torch\nfrom editkit import Dense.*?)```", text, re.DOTALL
    )
    names: dict[str, Any] = {"__name__": "fading"}
    exec(compile(code, "plugins.md", "exec"), names)
    model, editor = tiny_model("gpt2"), names["FadingEditor"](Config())
    requests = [EditRequest("{} is in the city of", "The Space Needle", city) for city in "ABC"]
    first, state = editor.step(model, requests[:2], {})
    with applied(model, first):
        second, state = editor.step(model, requests[2:], state)
    assert float(state["taken"]) == 3
    assert stack([first, second]).requests == tuple(requests)
    assert second.norm() == pytest.approx(first.norm() * 1.1 / 3, rel=1e-4)
