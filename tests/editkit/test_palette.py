"""Styles: bound to names, distinct on a page, and far apart for every kind of colour vision."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import yaml

from editkit import EditorSpec
from editkit.editing.outcomes import BASELINE
from editkit.palette import (
    COLORS,
    DARK_COLORS,
    DARK_PAGE,
    DASHES,
    GREY,
    MARKERS,
    Style,
    contrast,
    distinct_styles,
    named_style,
    problem_of_style,
    series_style,
)
from editkit.registry.plugins import default_registry
from editkit.registry.styles import style_of, styles_of
from editkit.storage.resources import resource_text

VISION = {  # linear RGB -> linear RGB as it is seen, Machado et al. 2009, severity 1
    "full": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(color: str, vision: str) -> tuple[float, float, float]:
    """CIE L*a*b* of a colour as it is seen."""
    shares = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISION[vision] @ linear, 0, 1)
    x, y, z = (
        t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116
        for t in (TO_XYZ @ seen) / TO_XYZ.sum(1)
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean_c = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 1.5 - 0.5 * math.sqrt(mean_c**7 / (mean_c**7 + 25**7))
    c1, c2 = math.hypot(g * a1, b1), math.hypot(g * a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, g * a)) for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    d_h = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn) / 2)
    mean_l, mean_c, mean_h = (l1 + l2) / 2, (c1 + c2) / 2, h1 + turn / 2

    def cos(factor: float, shift: float) -> float:
        return math.cos(math.radians(factor * mean_h + shift))

    t = 1 - 0.17 * cos(1, -30) + 0.24 * cos(2, 0) + 0.32 * cos(3, 6) - 0.2 * cos(4, -63)
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / math.sqrt(20 + (mean_l - 50) ** 2)
    x, y = (c2 - c1) / (1 + 0.045 * mean_c), d_h / (1 + 0.015 * mean_c * t)
    angle = math.radians(60 * math.exp(-((((mean_h % 360) - 275) / 25) ** 2)))
    r = -2 * math.sqrt(mean_c**7 / (mean_c**7 + 25**7)) * math.sin(angle)
    return math.sqrt(((l2 - l1) / s_l) ** 2 + x * x + y * y + r * x * y)


def nearest(colors: set[str]) -> float:
    """The smallest distance between two colours for any kind of vision."""
    return min(
        ciede2000(lab(one, vision), lab(other, vision))
        for vision in VISION
        for one, other in itertools.combinations(sorted(colors), 2)
    )


def declared() -> dict[str, Style]:
    """The styles of all built-in editors."""
    styles = {
        offer.name: offer.spec.style
        for offer in default_registry().offers("editor")
        if offer.source.distribution == "editkit" and isinstance(offer.spec, EditorSpec)
    }
    assert None not in styles.values(), styles
    return {name: style for name, style in styles.items() if style is not None}


def of_default_benchmark() -> list[str]:
    text = resource_text("editkit_benchmarks:atlas.yaml")
    return [e if isinstance(e, str) else e["name"] for e in yaml.safe_load(text)["editors"]]


def of_mass_editing() -> set[str]:
    text = yaml.safe_load(resource_text("editkit_benchmarks.experiments:mass-editing.yaml"))
    named = {e if isinstance(e, str) else e["name"] for e in text["benchmark"]["editors"]}
    return (named | {each["editor"] for each in text["sweep"]}) - {BASELINE}


@pytest.mark.parametrize(  # Sharma, Wu and Dalal 2005, table 1
    ("one", "other", "distance"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_is_that_of_its_published_examples(
    one: tuple[float, float, float], other: tuple[float, float, float], distance: float
) -> None:
    assert ciede2000(one, other) == pytest.approx(distance, abs=1e-4)


def test_colours_of_the_default_benchmark_differ_for_every_kind_of_vision() -> None:
    styles = [declared()[name] for name in of_default_benchmark()]
    assert len(styles) == 10
    assert len({style.marker for style in styles}) == 10
    light, dark = {style.color for style in styles}, {style.dark for style in styles}
    assert len(light) == 8
    assert nearest(light) > 14  # 2.0 with the colours of Okabe and Ito that had this contrast
    assert nearest(dark) > 11
    assert nearest({*COLORS.values(), GREY}) > 12


def test_editors_of_mass_editing_differ_in_marker_and_are_not_near_memit() -> None:
    styles = {name: declared()[name] for name in of_mass_editing()}
    assert {"memit", "ft", "rome", "lora"} < styles.keys()
    assert len({style.marker for style in styles.values()}) == len(styles)
    memit = styles.pop("memit")
    for style in styles.values():
        assert nearest({memit.color, style.color}) > 14
        assert nearest({memit.dark, style.dark}) > 11


def test_colours_are_visible_on_both_pages() -> None:
    for color in (*COLORS.values(), GREY):
        assert contrast(color) >= 3, color
        assert contrast(DARK_COLORS[color], DARK_PAGE) >= 4.5, color
    assert contrast("#000000") == pytest.approx(21)
    assert contrast(Style("#102030", "o").dark, DARK_PAGE) >= 4.5


def test_each_built_in_editor_has_its_own_style() -> None:
    styles = declared()
    assert len({(style.color, style.marker) for style in styles.values()}) == len(styles)
    assert {name for name, style in styles.items() if style.color == GREY} == {BASELINE}
    for name, style in styles.items():
        assert problem_of_style(style, may_be_grey=name == BASELINE) is None
    assert styles_of({name: name for name in styles}) == styles


def test_an_editor_without_a_style_looks_the_same_on_every_page() -> None:
    style = style_of("third-party")
    assert style == style_of("third-party")
    assert style.color != GREY
    built_in = {(own.color, own.marker) for own in declared().values()}
    names = [f"third-party-{i}" for i in range(20)]
    assert not built_in & {(each.color, each.marker) for each in map(style_of, names)}
    page = styles_of({name: name for name in (*declared(), *names)})
    assert len({(each.color, each.marker) for each in page.values()}) == len(page)
    assert styles_of({"third-party": "third-party", "rome": "rome"})["third-party"] == style


def test_labels_of_one_editor_share_its_colour_only() -> None:
    labels = {f"rome (layer {i})": "rome" for i in range(4)} | {"r-rome": "r-rome"}
    page = styles_of(labels)
    assert page["rome (layer 0)"] == style_of("rome")
    assert page["r-rome"] == style_of("r-rome")
    assert len({style.marker for style in page.values()}) == 5
    assert len({style.color for style in page.values()}) == 1
    dashes = [page[f"rome (layer {i})"].dash for i in range(3)]
    assert len(set(dashes)) == 3


def test_many_settings_of_one_editor_have_a_colour_per_group_and_no_other_editors_style() -> None:
    labels = {f"rome (layer {i}, position {p})": p for p in "abcd" for i in range(6)}
    page = styles_of({**dict.fromkeys(labels, "rome"), "ft": "ft"}, labels)
    assert page["ft"] == style_of("ft")
    taken = {(own.color, own.marker) for name, own in declared().items() if name != "rome"}
    assert not taken & {(page[label].color, page[label].marker) for label in labels}
    assert len({(style.color, style.marker) for style in page.values()}) == len(page)
    colors = {(group, page[label].color) for label, group in labels.items()}
    assert len(colors) == len(dict(colors)) == len({color for _, color in colors}) == 4
    assert dict(colors)["a"] == style_of("rome").color


def test_eighty_series_and_labels_are_distinct() -> None:
    n = len(COLORS) * len(MARKERS)
    assert len({(s.color, s.marker) for s in map(series_style, range(n))}) == n == 80
    assert series_style(n) == series_style(0)
    page = distinct_styles({f"label {i}": None for i in range(n)})
    assert len({(style.color, style.marker) for style in page.values()}) == n
    reserved = [series_style(i) for i in range(n - 1)]
    assert named_style("any", reserved) == series_style(n - 1)
    assert {style.dash for style in page.values()} == set(DASHES)
    assert len({Style(GREY, marker).hatch for marker in MARKERS}) == len(MARKERS)
