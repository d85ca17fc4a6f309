"""Delta files that somebody wrote by hand, with a digest that fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from editkit import DeltaError, Dense, EditRequest, LowRank, PromptContext, Rows, WeightDelta
from editkit.editing.delta_files import load_delta, save_delta
from editkit.storage.digests import digest_of_tensors
from tests.hostile import either

Tensors = dict[str, torch.Tensor]
REQUEST = {"prompt": "{} is in", "subject": "Rome", "target_new": "Seattle"}
DESCRIPTION: dict[str, Any] = {
    "format": 1,
    "changes": {"a.weight": {"kind": "low_rank"}, "b.weight": {"kind": "rows", "n_rows": 4}},
    "requests": [REQUEST],
    "joint": False,
    "editor": "test",
    "config": {"layer": 1},
    "model_fingerprint": "f",
    "notes": {"loss": 0.5},
}


def sound_tensors() -> Tensors:
    return {
        "a.weight/left": torch.ones(3, 1),
        "a.weight/right": torch.ones(1, 2),
        "b.weight/indices": torch.tensor([2, 0]),
        "b.weight/values": torch.ones(2, 5),
    }


def write(path: Path, description: Any, tensors: Tensors) -> Path:
    """A file whose digest fits, whatever it says."""
    text = description if isinstance(description, str) else json.dumps(description)
    metadata = {"editkit": text, "digest": digest_of_tensors(tensors, text)}
    save_file(tensors, path, metadata=metadata)
    return path


def test_the_sample_file_is_valid_before_it_is_damaged(tmp_path: Path) -> None:
    delta = load_delta(write(tmp_path / "d", DESCRIPTION, sound_tensors()))
    assert delta.request == EditRequest(**REQUEST)
    assert delta.changes["b.weight"].shape == (4, 5)
    assert delta.context is None
    delta = load_delta(write(tmp_path / "d", context(), sound_tensors()))
    assert delta.context == PromptContext(("Rome is in Seattle.",), most=1)


def changed(**values: Any) -> dict[str, Any]:
    return {**DESCRIPTION, **values}


def change(name: str, **values: Any) -> dict[str, Any]:
    changes = {**DESCRIPTION["changes"], name: {**DESCRIPTION["changes"].get(name, {}), **values}}
    return changed(changes=changes)


CONTEXT: dict[str, Any] = {
    "texts": ["Rome is in Seattle."],
    "most": 1,
    "order": "written",
    "separator": "\n",
    "before_prompt": "",
}


def context(lacks: str = "", **values: Any) -> dict[str, Any]:
    """A description of format 2 with a changed context."""
    own = {k: v for k, v in {**CONTEXT, **values}.items() if k != lacks}
    return changed(format=2, context=own)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in DESCRIPTION.items() if k != key}


DESCRIPTIONS: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "damaged: Expecting"),
    "a list": ([], "its description is not a mapping"),
    "null": (None, "its description is not a mapping"),
    "twice a key": (json.dumps(DESCRIPTION)[:-1] + ', "joint": true}', "'joint' occurs twice"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "huge number": (json.dumps(changed(notes={"x": 10**40})), "beyond 64 bits"),
    "surrogate": (changed(editor="\ud800"), "lone surrogate"),
    "format text": (changed(format="1"), "format is '1', expected a number"),
    "format true": (changed(format=True), "format is True"),
    "format zero": (changed(format=0), "format is 0"),
    "format newer": (changed(format=3), "has format 3, this version reads up to 2"),
    "format missing": (without("format"), "format is None"),
    "unknown key": (changed(more=1), "'more' in the description, which this version does not know"),
    **{
        f"no {key}": (without(key), f"lacks '{key}'")
        for key in DESCRIPTION
        if key not in ("format",)
    },
    "editor number": (changed(editor=1), "editor is 1, expected a text"),
    "config list": (changed(config=[]), "config is .*, expected a mapping"),
    "config null": (changed(config=None), "config is None, expected a mapping"),
    "notes text": (changed(notes="x"), "notes is 'x', expected a mapping"),
    "fingerprint list": (changed(model_fingerprint=[]), "model_fingerprint is .*, expected a text"),
    "joint number": (changed(joint=0), "joint is 0, expected true or false"),
    "made on numbers": (changed(made_on=[1]), "made_on is not a list of texts"),
    "made on text": (changed(made_on="f"), "made_on is 'f', expected a list"),
    "requests null": (changed(requests=None), "requests is None, expected a list"),
    "request text": (changed(requests=["x"]), "a request is not a mapping"),
    "request empty": (changed(requests=[{}]), "a request cannot be read"),
    "request unknown": (changed(requests=[{**REQUEST, "x": 1}]), "a request cannot be read"),
    "request number": (changed(requests=[{**REQUEST, "subject": 3}]), "subject is 3"),
    "request no place": (changed(requests=[{**REQUEST, "prompt": "x"}]), "exactly one '{}'"),
    "several, not joint": (changed(requests=[REQUEST, REQUEST]), "has several requests"),
    "changes list": (changed(changes=[]), "changes is .*, expected a mapping"),
    "change null": (changed(changes={"a.weight": None}), "is not a mapping"),
    "kind unknown": (change("a.weight", kind="sparse"), "unknown kind 'sparse'"),
    "kind list": (change("a.weight", kind=["rows"]), "unknown kind"),
    "kind missing": (changed(changes={"a.weight": {}}), "unknown kind None"),
    "rows without number": (
        changed(changes={**DESCRIPTION["changes"], "b.weight": {"kind": "rows"}}),
        "lacks 'n_rows'",
    ),
    "rows true": (change("b.weight", n_rows=True), "True rows"),
    "rows text": (change("b.weight", n_rows="4"), "'4' rows"),
    "rows too few": (change("b.weight", n_rows=2), "2 indices of 2 rows"),
    "rows negative": (change("b.weight", n_rows=-4), "of -4 rows"),
    "rows huge": (change("b.weight", n_rows=10**15), "has the shape"),
    "low rank with rows": (change("a.weight", n_rows=3), "'n_rows' in the change of 'a.weight'"),
    "dense without tensor": (change("c.weight", kind="dense"), "lacks its tensor 'values'"),
    "name empty": (change("", kind="dense"), "not the name of a parameter"),
    "name with NUL": (change("a\0b", kind="dense"), "not the name of a parameter"),
    "no changes": (changed(changes={}), "belongs to no change"),
    "context missing": (changed(format=2), "lacks 'context'"),
    "context in format 1": (changed(context=CONTEXT), "'context' in the description"),
    "context null": (changed(format=2, context=None), "context is None, expected a mapping"),
    "context list": (changed(format=2, context=["x"]), "context is .*, expected a mapping"),
    **{f"context without {key}": (context(key), f"lacks '{key}'") for key in CONTEXT},
    "context with more": (context(more=1), "'more' in the context"),
    "texts a text": (context(texts="abc"), "texts is 'abc', expected a list"),
    "texts none": (context(texts=[]), "expected at least one text"),
    "texts numbers": (context(texts=[1]), "expected at least one text"),
    "texts blank": (context(texts=["a", " "]), "none of them blank"),
    "texts nested": (context(texts=[["a"]]), "expected at least one text"),
    "most zero": (context(most=0), "most 0, expected a number of texts from 1"),
    "most negative": (context(most=-1), "most -1"),
    "most true": (context(most=True), "most True"),
    "most fraction": (context(most=1.0), "most 1.0"),
    "most text": (context(most="1"), "most '1'"),
    "order unknown": (context(order="random"), "order 'random'"),
    "order list": (context(order=["written"]), "order"),
    "order null": (context(order=None), "order None"),
    "separator null": (context(separator=None), "separator None, expected a text"),
    "before prompt number": (context(before_prompt=1), "before_prompt 1, expected a text"),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_invalid_descriptions_are_refused(name: str, tmp_path: Path) -> None:
    description, problem = DESCRIPTIONS[name]
    with pytest.raises(DeltaError, match=problem):
        load_delta(write(tmp_path / "d", description, sound_tensors()))


TENSORS: dict[str, Callable[[Tensors], Any]] = {
    "NaN": lambda t: t["a.weight/left"].fill_(float("nan")),
    "infinite": lambda t: t["b.weight/values"].fill_(float("inf")),
    "integers": lambda t: t.update({"a.weight/left": torch.ones(3, 1, dtype=torch.int64)}),
    "all integers": lambda t: t.update(
        {key: t[key].long() for key in ("a.weight/left", "a.weight/right")}
    ),
    "booleans": lambda t: t.update({"b.weight/values": torch.ones(2, 5, dtype=torch.bool)}),
    "complex": lambda t: t.update({"b.weight/values": torch.ones(2, 5, dtype=torch.complex64)}),
    "fp8": lambda t: t.update({"b.weight/values": torch.ones(2, 5).to(torch.float8_e4m3fn)}),
    "two types": lambda t: t.update({"a.weight/left": torch.ones(3, 1).half()}),
    "one dimension": lambda t: t.update({"a.weight/left": torch.ones(3)}),
    "three dimensions": lambda t: t.update({"a.weight/left": torch.ones(3, 1, 1)}),
    "no dimension": lambda t: t.update({"a.weight/left": torch.tensor(1.0)}),
    "another rank": lambda t: t.update({"a.weight/left": torch.ones(3, 2)}),
    "no outputs": lambda t: t.update({"a.weight/right": torch.ones(1, 0)}),
    "no inputs": lambda t: t.update({"a.weight/left": torch.ones(0, 1)}),
    "huge product": lambda t: t.update(
        {"a.weight/left": torch.ones(70_000, 1), "a.weight/right": torch.ones(1, 70_000)}
    ),
    "float indices": lambda t: t.update({"b.weight/indices": torch.tensor([2.0, 0.0])}),
    "mask indices": lambda t: t.update({"b.weight/indices": torch.tensor([True, False])}),
    "byte indices": lambda t: t.update(
        {"b.weight/indices": torch.tensor([1, 0], dtype=torch.uint8)}
    ),
    "indices twice": lambda t: t.update({"b.weight/indices": torch.tensor([2, 2])}),
    "negative index": lambda t: t.update({"b.weight/indices": torch.tensor([2, -1])}),
    "index beyond": lambda t: t.update({"b.weight/indices": torch.tensor([2, 4])}),
    "one index": lambda t: t.update({"b.weight/indices": torch.tensor(2)}),
    "matrix of indices": lambda t: t.update({"b.weight/indices": torch.tensor([[2], [0]])}),
    "more values": lambda t: t.update({"b.weight/values": torch.ones(3, 5)}),
    "flat values": lambda t: t.update({"b.weight/values": torch.ones(2)}),
    "deep values": lambda t: t.update({"b.weight/values": torch.ones(2, 5, 1)}),
    "missing factor": lambda t: t.pop("a.weight/right"),
    "missing indices": lambda t: t.pop("b.weight/indices"),
    "a stranger": lambda t: t.update({"c.weight/values": torch.ones(2)}),
}


@pytest.mark.parametrize("name", TENSORS)
def test_invalid_tensors_are_refused(name: str, tmp_path: Path) -> None:
    tensors = sound_tensors()
    TENSORS[name](tensors)
    with pytest.raises(DeltaError, match="is damaged: "):
        load_delta(write(tmp_path / "d", DESCRIPTION, tensors))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (LowRank, (torch.ones(2, 1).long(), torch.ones(1, 2).long())),
        (LowRank, (torch.ones(2, 1), torch.ones(1, 2).half())),
        (LowRank, (torch.ones(2), torch.ones(1, 2))),
        (Rows, (torch.tensor([True]), torch.ones(1, 2), 3)),
        (Rows, (torch.tensor([0]), torch.ones(1), 3)),
        (Rows, (torch.tensor([0]), torch.ones(1, 2), 3.0)),
        (Dense, (torch.ones(2, 2, dtype=torch.bool),)),
        (Dense, (torch.ones(2, 2, 2),)),
        (Dense, (torch.tensor(1.0),)),
    ],
)
def test_changes_of_a_wrong_shape_or_type_are_refused(kind: Any, values: Any) -> None:
    with pytest.raises(DeltaError):
        kind(*values)


def test_a_change_without_rows_is_saved_and_loaded(tmp_path: Path) -> None:
    none = Rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5), 4)
    save_delta(WeightDelta({"b.weight": none}, None, "kn", {}, "f"), tmp_path / "d")
    assert not load_delta(tmp_path / "d").changes["b.weight"].dense().any()


@pytest.mark.parametrize("name", ["", ".", "nul\0", "folder", "x" * 5000, "d/e"])
def test_paths_that_are_not_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "d").write_bytes(b"")
    delta = WeightDelta({}, None, "none", {}, "f")
    for act in (lambda: load_delta(tmp_path / name), lambda: save_delta(delta, tmp_path / name)):
        with pytest.raises(DeltaError):
            act()


@pytest.mark.parametrize("notes", [{"a": torch.ones(1)}, {"a": "\ud800"}, {"a": 10**40}])
def test_notes_that_cannot_be_loaded_are_not_saved(notes: Any, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="cannot be saved"):
        save_delta(WeightDelta({}, None, "none", {}, "f", notes), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_notes_that_are_not_finite_are_saved_and_loaded(tmp_path: Path) -> None:
    save_delta(WeightDelta({}, None, "none", {}, "f", {"loss": float("inf")}), tmp_path / "d")
    assert load_delta(tmp_path / "d").notes == {"loss": float("inf")}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats()
    | st.sampled_from(["low_rank", "rows", "dense", "a.weight", "{}", "\ud800", "", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a.weight", "kind", "n_rows", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KINDS = st.sampled_from(
    [*(torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8)]
)
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@settings(
    max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_delta_is_loaded_completely_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    description, tensors = (
        dict(data.draw(st.sampled_from([DESCRIPTION, context()]))),
        sound_tensors(),
    )
    for _ in range(data.draw(st.integers(1, 2))):
        if "context" in description and data.draw(st.booleans()):
            own = {**CONTEXT, data.draw(st.sampled_from([*CONTEXT])): data.draw(JSON)}
            description["context"] = own
        elif data.draw(st.booleans()):
            description[data.draw(st.sampled_from([*DESCRIPTION, "made_on"]))] = data.draw(JSON)
        else:
            key = data.draw(st.sampled_from(sorted(sound_tensors())))
            tensors[key] = torch.ones(data.draw(SHAPES), dtype=data.draw(KINDS))
    path = write(tmp_path / "d", description, tensors)
    delta = either(lambda: load_delta(path), DeltaError)
    if not isinstance(delta, DeltaError):
        assert delta.is_finite()
        assert delta.norm() >= 0
        save_delta(delta, tmp_path / "again")
        again = load_delta(tmp_path / "again")
        assert (again.config, again.context) == (delta.config, delta.context)


@settings(
    max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 2000), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_are_detected(place: int, value: int, cut: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "d", DESCRIPTION, sound_tensors())
    content = bytearray(path.read_bytes())
    before = bytes(content)
    place %= len(content)
    if cut:
        del content[place:]
    else:
        content[place] = value
    path.write_bytes(content)
    actual = either(lambda: load_delta(path), DeltaError)
    if not isinstance(actual, DeltaError):
        assert content == before or actual.config == DESCRIPTION["config"]
