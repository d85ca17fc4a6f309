"""Method cards in docs/methods: one for every editor, with the numbers of the pages they cite."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import harmonic_mean

import pytest

from editkit.registry.plugins import default_registry

DOCS = Path(__file__).resolve().parents[1] / "docs"
CARDS = sorted((DOCS / "methods").glob("*.md"))
SECTIONS = ["Method", "When it fails", "Numbers", "Try it"]


def rows(text: str) -> list[list[str]]:
    """The cells of every line of every table."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split(" |")] for line in lines]


def editors_on(card: Path) -> list[str]:
    [line] = [r[1] for r in rows(card.read_text(encoding="utf-8")) if r[0] in {"editor", "editors"}]
    return re.findall(r"`([a-z+-]+)`", line)


def test_every_editor_has_one_card() -> None:
    on_cards = [name for card in CARDS for name in editors_on(card)]
    built_in = [
        offer.spec.name
        for offer in default_registry().offers("editor")
        if offer.spec.factory.startswith("editkit_plugins.")
    ]
    counted = sorted(name for name in on_cards if name in built_in)
    assert counted == sorted(set(built_in) - {"none"})


def test_the_list_of_editors_links_to_every_card() -> None:
    listed = re.findall(r"\(methods/([a-z-]+\.md)\)", (DOCS / "editors.md").read_text("utf-8"))
    assert sorted(set(listed)) == [card.name for card in CARDS]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_a_card_has_its_parts(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    first = {row[0] for row in rows(text)}
    assert {"writes", "many facts", "needs once for a model", "cost of an edit"} <= first


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_numbers_on_atlas_are_those_of_the_page_on_edits_as_used(card: Path) -> None:
    measured: dict[str, list[str]] = {}
    for editor, *scores in rows((DOCS / "as-used.md").read_text("utf-8")):
        measured.setdefault(editor, scores)  # the first table is that of atlas
    numbers_of_card = card.read_text("utf-8").partition("## Numbers")[2]
    own = [row for row in rows(numbers_of_card) if row[0] == "atlas, 100 records"]
    assert own
    for _, editor, score, *numbers in own:
        shares = [float(number) for number in numbers[:3]]  # ES, PS, NS
        source = measured[editor]
        columns = (0, 1, 2, 6, 9, 10)  # ES, PS, NS; Free P, Cons, Kept
        assert numbers == [source[column] for column in columns], editor
        mean = harmonic_mean(shares) if all(shares) else 0.0
        assert float(score) == pytest.approx(mean, abs=0.051), editor
