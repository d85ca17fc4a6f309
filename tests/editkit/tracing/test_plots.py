"""Plots of traces: what panels are called, and what their colours mean."""

from __future__ import annotations

from typing import Any

import pytest

from editkit import Fact, Localization
from editkit.figures import description_of, png_bytes
from editkit.tracing.plots import HeatMap, heat_maps, restored
from editkit.tracing.trace import Trace

FACT = Fact("Kenya is in", "Kenya", "Africa")
TOKENS = ("Kenya", " is", " in")


def localization(kind: str, top: float, **values: Any) -> Localization:
    scores = ((top, 0.0), (0.0, 0.1), (0.1, 0.2))
    baselines = {"clean": 0.9, "corrupted": 0.1}
    given = {"baselines": baselines, "subject": (0, 1), "answer": " Africa", **values}
    return Localization(FACT, TOKENS, kind, scores, **given)


def test_panels_name_what_is_restored_and_its_window() -> None:
    maps = (localization("state", 0.3), localization("mlp", 0.5, window=2))
    figure = Trace("atlas", "causal-tracing", maps).plot()
    state, mlp, *_ = figure.axes
    assert state.get_title() == "Impact of restoring state\nafter corrupted input"
    assert state.get_xlabel() == "single restored layer"
    assert mlp.get_title() == "Impact of restoring MLP in 2 layers\nafter corrupted input"
    assert mlp.get_xlabel() == "center of interval of 2 restored MLP layers"
    assert [label.get_text() for label in mlp.get_yticklabels()] == ["Kenya*", "is", "in"]
    title, description = description_of(figure)
    assert title == '"Kenya is in" -> "Africa", causal-tracing on atlas'
    assert description == "p(Africa) = 0.900 clean, 0.100 with a corrupted subject (*)"


@pytest.mark.parametrize("shared", [True, False])
def test_panels_share_a_scale_from_the_corrupted_run_on(shared: bool) -> None:
    maps = (localization("state", 0.3), localization("mlp", 0.5, window=2))
    figure = Trace("atlas", "causal-tracing", maps).plot(shared_scale=shared)
    limits = [panel.collections[0].get_clim() for panel in figure.axes[:2]]
    assert limits == [pytest.approx((0.1, 0.6 if shared else 0.4)), pytest.approx((0.1, 0.6))]
    bars = [bar.get_ylabel() for bar in figure.axes[2:]]
    suffix = ", same scale in all panels" if shared else ""
    assert bars == [f"p(Africa){suffix}"] * 2


def test_a_locator_without_a_corrupted_run_shows_its_scores() -> None:
    maps = (localization("state", 0.3, baselines={"clean": 0.9}),)
    figure = Trace("atlas", "saliency", maps).plot()
    assert figure.axes[0].get_title() == "state"
    assert figure.axes[1].get_ylabel() == "saliency score"
    assert "p(Africa) = 0.900; * marks the subject" in figure.get_suptitle()


def test_a_window_of_one_layer_is_a_single_layer() -> None:
    assert restored("attn", 1) == ("attention", "single restored attention layer")


def test_rows_that_were_not_traced_are_empty_and_do_not_set_the_scale() -> None:
    figure = heat_maps([HeatMap("state", [[9.0], [0.5]], traced=[False, True])], ["a", "b"], "", [])
    [drawn] = figure.axes[0].collections
    values = drawn.get_array()
    assert values is not None
    assert [bool(hidden) for hidden in values.mask.flat] == [True, False]
    assert drawn.get_clim() == (0.0, 0.5)


def test_dollars_in_tokens_are_not_mathematics() -> None:
    broken = "$x_{$"
    unit = f"p({broken})"
    figure = heat_maps([HeatMap("state", [[0.5]])], [broken], f"costs {broken}", [], unit=unit)
    assert png_bytes(figure).startswith(b"\x89PNG")
