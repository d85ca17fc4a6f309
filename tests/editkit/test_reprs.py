"""Reprs are one short line for any value, and tables of notebooks escape every text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import editkit
from editkit import (
    Dense,
    EditedModels,
    EditkitError,
    EditRequest,
    Fact,
    Localization,
    LowRank,
    Probe,
    PromptContext,
    Record,
    Records,
    Rows,
    Trace,
    WeightDelta,
    applied,
)
from editkit.results import Cell, ModelRow, Row, Run
from tests.tiny import tiny

MODEL = tiny("gpt2")
REQUEST = EditRequest("{} is in the city of", "Space Needle", "Rome", separator="")
LOW_RANK = LowRank(torch.ones(4, 1), torch.ones(1, 3))
ONE = WeightDelta({"h.0.weight": LOW_RANK}, REQUEST, "rome", {"layer": 0}, "f")
CELL = Cell("rome", "published", {}, {}, "editkit", "1", 3, "f", {}, {})
RUN = Run(
    Path("out"), "atlas", {"name": "atlas"}, {"name": "atlas", "n_records": 20}, (), (), (3,),
    (CELL,), 10,
)  # fmt: skip


FACT = Fact("Space Needle", "Space")


def localization(fact: Fact = FACT) -> Localization:
    return Localization(fact, ("Space", " Needle"), "mlp", ((0.1, 0.2), (0.0, 0.25)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MODEL, "<LanguageModel tiny-gpt2: gpt2, 4 layers, width 32, 65,728 parameters, float32 on "
         "cpu>"),
        (REQUEST, "EditRequest(prompt='{} is in the city of', subject='Space Needle', "
         "target_new='Rome', separator='')"),
        (Probe("Where?", "Seattle", "Rome"),
         "Probe(prompt='Where?', target_true='Seattle', target_new='Rome')"),
        (Fact("Space Needle", "Space"), "Fact(prompt='Space Needle', subject='Space')"),
        (Record(7, REQUEST, {"rewrite": (Probe("a", "b", "c"),)}, {"generation": ("x", "y")}),
         '<Record 7: "Space Needle is in the city of" -> "Rome"; 1 rewrite, 2 generation>'),
        (Records((), "0123456789abcdef"), "<Records: 0 records, digest 0123456789ab>"),
        (LOW_RANK, "<LowRank: rank 1, (4, 3)>"),
        (Dense(torch.ones(3)), "<Dense: dense, (3,)>"),
        (Rows(torch.tensor([1]), torch.ones(1, 3), 4), "<Rows: 1 of 4 rows, (4, 3)>"),
        (ONE, '<WeightDelta by rome: "Space Needle is in the city of" -> "Rome"; '
         "h.0.weight (rank 1, (4, 3))>"),
        (WeightDelta({}, (REQUEST,) * 3, "memit", {}, "f"),
         '<WeightDelta by memit: 3 facts, the first "Space Needle is in the city of" -> "Rome"; '
         "no changes>"),
        (WeightDelta({}, None, "in-context", {}, "f", context=PromptContext(("a", "b"))),
         "<WeightDelta by in-context: no facts; 2 texts before every prompt>"),
        (EditedModels(MODEL, [WeightDelta({}, REQUEST, "none", {}, "f")] * 2),
         "<EditedModels: tiny-gpt2 under 2 edits by none>"),
        (editkit.make_metric("efficacy"), "<Efficacy efficacy>"),
        (editkit.make_editor("ft", MODEL, layer=1, lr=0.5), "<FineTuneEditor ft: "),
        (editkit.make_locator("causal-tracing", seed=5),
         "<CausalTracingLocator causal-tracing: seed=5, "),
        (editkit.make_dataset("counterfact", path="x.json"), "<CounterFact"),
        (localization(), '<Localization of "Space Needle": mlp, 2 tokens x 2 layers, '
         'largest 0.25 at " Needle" in layer 1>'),
        (Trace("atlas", "causal-tracing", (localization(),)),
         '<Trace of "Space Needle" -> "None" on atlas by causal-tracing: mlp>'),
        (Row(7, "done", {"efficacy/score": 1.0}, checkpoint=10),
         "<Row of record 7 at 10 facts: efficacy/score=1>"),
        (Row(7, "failed", error="no\nluck"), "<Row of record 7: failed: no luck>"),
        (ModelRow(0, 10, {"drift/kl": 0.123456}),
         "<ModelRow of model 0 at 10 facts: drift/kl=0.123>"),
        (CELL, "<Cell rome, preset published, seed 3, independent>"),
        (RUN, "<Run of atlas on atlas: 20 records of atlas, 1 cell: rome>"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_reprs(value: object, expected: str) -> None:
    assert repr(value).startswith(expected)
    assert "\n" not in repr(value)
    assert len(repr(value)) <= 320


def test_a_request_s_repr_makes_the_same_request() -> None:
    assert eval(repr(REQUEST), {"EditRequest": EditRequest}) == REQUEST  # noqa: S307


def test_applied_edits_are_counted() -> None:
    delta = WeightDelta(
        {"transformer.h.0.mlp.c_proj.bias": Dense(torch.ones(MODEL.hidden_size))},
        REQUEST, "x", {}, MODEL.fingerprint,
    )  # fmt: skip
    with applied(MODEL, [delta, delta]):
        assert repr(MODEL).endswith(", 2 edits applied>")
    assert not repr(MODEL).endswith("applied>")


def test_a_repr_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(type(MODEL), "fingerprint", property(refuse))
    monkeypatch.setattr(WeightDelta, "digest", refuse)
    monkeypatch.setattr(WeightDelta, "norm", refuse)
    assert repr(MODEL).startswith("<LanguageModel tiny-gpt2: ")
    assert repr(ONE).startswith("<WeightDelta by rome: ")
    assert "LanguageModel tiny-gpt2" in MODEL._repr_html_()


TEXTS = st.text(st.characters(), min_size=1, max_size=400)


def made(make: Callable[..., Any], *texts: str) -> list[Any]:
    """The value, if such texts are allowed."""
    try:
        return [make(*texts)]
    except EditkitError:
        return []


@given(TEXTS, TEXTS, TEXTS)
def test_no_text_breaks_a_repr(a: str, b: str, c: str) -> None:
    values: list[Any] = made(lambda: Fact(a + b, b, c))
    values += made(lambda: Probe(a, b, c))
    for request in made(lambda: EditRequest(f"{a}{{}}", b, c)):
        values += [request, Record(0, request, {a: ()}, {b: (c,)})]
        values += [WeightDelta({a: LOW_RANK}, (request,) * 3, b, {}, "f")]
        values += [Trace(a, b, (localization(Fact(f"{a}{b}", b, c)),))]
    values += [Row(0, "failed", error=a), ModelRow(0, 1, {a: 1.0}, errors={b: c}), Records((), a)]
    values += [Run(Path(), a, {"name": b}, {"name": c, "n_records": 1}, (), (), (), (CELL,), 1)]
    values += [Localization(Fact("x", "x"), (a,), b, ((1.0,),))]
    for value in values:
        shown = repr(value)
        assert len(shown) <= 800
        assert shown.isprintable() or not any(ord(each) < 32 for each in shown)
        assert "<object" not in shown
        assert " at 0x" not in shown
        if hasattr(value, "_repr_html_") and not isinstance(value, Trace):  # drawn: slow
            check_html(value._repr_html_())


def check_html(shown: str) -> None:
    tags = set(re.findall(r"<[^>]*>", shown))
    known = {"div", "strong", "table", "thead", "tbody", "tr", "td", "th"}
    assert {re.sub(r"[</>]| style=.*", "", tag) for tag in tags} <= known
    inside = re.sub(r"<[^>]*>", "", shown)
    assert "<" not in inside
    assert ">" not in inside


def test_markup_in_texts_is_inert() -> None:
    evil = '<img src=x onerror=alert(1)>"'
    request = EditRequest(f"{evil} {{}}", evil, evil)
    delta = WeightDelta({evil: LOW_RANK}, request, evil, {}, "f")
    for value in (
        delta,
        Run(Path(), evil, {"name": evil}, {"name": evil, "n_records": 1}, (), (), (), (CELL,), 1),
    ):
        assert "<img" not in value._repr_html_()
        check_html(value._repr_html_())
    trace = Trace(evil, "x", (localization(Fact(f"{evil} x", "x")),))
    [tag] = re.findall(r"<[^>]*>", trace._repr_html_())
    assert tag.startswith('<img src="data:image/png;base64,')
    assert "onerror=alert(1)&gt;&quot;" in tag
    assert tag.count('"') == 6


def test_a_half_built_value_has_a_repr() -> None:
    for kind in (
        type(MODEL),
        WeightDelta,
        EditedModels,
        Trace,
        Run,
        Cell,
        Row,
        Record,
        EditRequest,
    ):
        value = object.__new__(kind)
        assert " object at 0x" in repr(value)
        if hasattr(value, "_repr_html_"):
            assert value._repr_html_().startswith("<div>&lt;editkit")
