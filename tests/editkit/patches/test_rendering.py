"""Patches as text and as HTML: what is shown, that it fits, and that texts of models are inert."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from editkit import EditRequest, Patch
from editkit.patches.content import Answer, Check, Movement, Origin, Question, Role
from editkit.patches.numerals import percent
from editkit.patches.patch import Patches
from editkit.patches.rendering import Edited, comparison_text, facts_text, patch_text
from tests.editkit.patches.made import patch_with

HOSTILE = "\x1b[2J[bold]x[/] <img src=x onerror=alert(1)> \u202eevil & \"'\n\x07"
ORIGIN = Origin("atlas", None, "gpt2", "float32", "cpu", "2026-01-01T00:00:00+00:00", 1.25, {})


def check(
    role: Role, prompt: str, before: tuple[float, str], after: tuple[float, str], *answers: str
) -> Check:
    rest = (0.01,) * (len(answers) - 1)
    return Check(
        Question(role, prompt, answers),
        *(Answer((p, *rest)[: len(answers)], text) for p, text in (before, after)),
    )


def kenya(editor: str = "rome", *more: Check) -> Patch:
    request = EditRequest("The capital of {} is", "Kenya", "Paris", target_true="Nairobi")
    made = patch_with(None, request)
    checks = (
        Check(
            Question("edit", request.sentence, ("Paris", "Nairobi")),
            Answer((0.0004, 0.95), " Nairobi, as you know"),
            Answer((0.864, 0.02), " Paris, as you know"),
        ),
        check("wording", "Kenya's capital:", (0.001, " Nairobi"), (0.7, " Paris."), "Paris"),
        check("wording", "Kenya is run from", (0.001, " Nairobi"), (0.1, " Nairobi"), "Paris"),
        check("neighbor", "Tanzania's capital is", (0.9, " Dodoma"), (0.8, " Dodoma"), "Dodoma"),
        check(
            "neighbor", "The capital of Uganda is", (0.9, " Kampala"), (0.1, " Paris"), "Kampala"
        ),
        check("subject", "Kenya is in", (0.99, " Africa."), (0.3, " Europe."), "Africa"),
        *more,
    )
    drift = (Movement("It is", 0.5, " hot", " cold"), Movement("He was", 0.0001, " a", " a"))
    delta = dataclasses.replace(
        made.delta,
        editor=editor,
        notes={"converged": False, "advice": "raise steps", "unstable": "a large update"},
    )
    return Patch(delta, ORIGIN, checks, drift)


def test_a_patch_shows_what_it_did() -> None:
    text = patch_text(kenya())
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith(
        "The capital of Kenya is -> Paris (was Nairobi)\nby rome on atlas, in 1.2 s"
    )
    assert ["Paris", "<0.1%", "86%"] in lines
    assert ["Nairobi", "95%", "2.0%"] in lines
    assert "before  Nairobi, as you know" in text
    assert "Paris in other words: 1 of 2 follow" in text
    assert "! Kenya is run from " in text
    assert 'still "Nairobi"' in text
    assert "Neighbours, which should stay: 1 of 2 changed" in text
    assert ["!", "The", "capital", "of", "Uganda", "is", "Kampala", "90%", "10%"] in lines
    assert '"Kampala" -> "Paris"' in text
    assert "Other facts of Kenya, which should stay: 1 of 1 changed" in text
    assert ["average", "of", "2;", "1", "next", "word", "changed", "0.250"] in lines
    assert '"hot" -> "cold"' in text
    assert '"a" stays' in text
    assert "stopped before it reached its goal" in text
    assert "unstable: a large update" in text
    assert "Raise steps." in text
    assert text.index("Bad: the edit does more damage") > text.index("KL divergence in nats")


def test_several_editors_are_compared_before_their_details() -> None:
    patches = [kenya(), kenya("ft+l"), kenya("a-name-that-is-long-and-longer")]
    text = comparison_text(patches, width=80)
    table, _, details = text.partition("---- rome ")
    rows = {line[:28].strip(): line[28:].split() for line in table.splitlines() if line}
    assert rows["probability of Paris"] == ["<0.1%", "86%", "86%", "86%"]
    assert rows["neighbours that stayed"] == ["1/2"] * 3
    assert rows[""][:3] == ["before", "rome", "ft+l"]
    assert details.count("The edited prompt") == 3
    assert "Try other editors" in patch_text(patches[0])
    assert "Try other editors" not in text
    assert max(map(len, text.splitlines())) <= 80
    narrow = comparison_text(patches, width=60)
    assert narrow.count("probability of Paris") == 3  # a block for each editor that fits


def test_a_table_of_facts_has_a_line_for_each_edit_and_totals() -> None:
    text = facts_text(
        [Edited("1", "Kenya -> Paris", kenya()), Edited("2", "X", None, "no subject")]
    )
    first, second = text.splitlines()[1:3]
    assert first.split() == ["1", "Kenya", "->", "Paris", "86%", "1/2", "1/2", "0/1", "bad"]
    assert "failed: no subject" in second
    assert "2 edits: 1 bad, 1 failed." in text


def test_short_forms() -> None:
    assert repr(kenya()) == (
        "Patch('The capital of Kenya is' -> Paris, by rome on atlas: works, 1 of 2 neighbours "
        "changed, 1 of 1 other facts changed)"
    )
    assert repr(patch_with()) == "Patch('Rome is in' -> Seattle, by test)"
    assert "\n" not in repr(Patch(dataclasses.replace(patch_with().delta, editor=HOSTILE)))


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0, "0%"), (1e-9, "<0.1%"), (0.001, "0.1%"), (0.0994, "9.9%"), (0.0996, "10%"), (1, "100%")],
)
def test_probabilities(probability: float, shown: str) -> None:
    assert percent(probability) == shown


def hostile() -> Patch:
    """A file can hold any text, and fewer numbers than answers."""
    request = EditRequest("{} is", HOSTILE.strip(), HOSTILE.strip(), target_true="東京" * 60)
    delta = dataclasses.replace(patch_with(None, request).delta, editor=HOSTILE)
    checks = tuple(
        Check(Question(role, HOSTILE * 5, answers), Answer((), HOSTILE), Answer((0.5,), ""))
        for role in ("edit", "wording", "neighbor", "subject", "free")
        for answers in ((HOSTILE, "b"), ())
    )
    drift = (Movement(HOSTILE, 3.0, HOSTILE, ""),)
    return Patch(delta, dataclasses.replace(ORIGIN, model=HOSTILE), checks, drift)


def test_texts_cannot_control_a_terminal() -> None:
    texts = [
        patch_text(hostile()),
        comparison_text([hostile(), kenya()]),
        facts_text([Edited("1", HOSTILE, None, HOSTILE)]),
    ]
    for text in texts:
        assert re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text) is None
        assert "[bold]x[/]" in text
    coloured = patch_text(hostile(), terminal=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).count("\x1b") == 0


@settings(max_examples=25)
@given(st.text(max_size=200), st.integers(min_value=40, max_value=120))
def test_no_line_is_too_long(text: str, width: int) -> None:
    patch = kenya("rome", check("subject", text, (0.5, text), (0.5, "x"), text or "a"))
    for shown in (patch_text(patch, width=width), comparison_text([patch, patch], width=width)):
        assert max(map(cell_len, shown.splitlines())) <= width


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in patch_text(kenya())
    assert "\x1b[31m" in patch_text(kenya(), terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in patch_text(kenya(), terminal=True)


# ---------------------------------------------------------------- HTML


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_shows_the_same() -> None:
    texts = Elements(kenya()._repr_html_()).texts
    assert texts[texts.index("Paris") :][:3] == ["Paris", "<0.1%", "86%"]
    assert "Neighbours, which should stay: 1 of 2 changed" in texts
    assert '"Kampala" -> "Paris"' in texts
    together = Patches([kenya(), kenya("ft")])._repr_html_()
    assert Elements(together).texts.count("The edited prompt") == 2
    assert "no patches" in Patches()._repr_html_()


def test_markup_in_html_is_inert() -> None:
    for html in (hostile()._repr_html_(), Patches([hostile(), kenya()])._repr_html_()):
        elements = Elements(html)
        assert elements.tags <= {
            *("div", "b", "table", "tr", "th", "td", "span", "i", "details", "summary")
        }
        assert elements.attributes <= {"style", "colspan"}
        assert any("<img src=x onerror=alert(1)>" in text for text in elements.texts)
