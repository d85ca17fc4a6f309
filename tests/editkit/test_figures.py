from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from editkit.figures import NotebookFigure, plot_with_interval, save_figures
from editkit.palette import series_style

DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


def figure(*, title: str = "", description: str = "") -> NotebookFigure:
    drawn = NotebookFigure(width=3, height=2, description=description)
    panel = drawn.subplots()
    for number in range(2):
        style = series_style(number)
        plot_with_interval(
            panel, [0, 1], [number, 2], [0, 1], [3, 3], style=style, label=f"line {number}"
        )
    if title:
        drawn.suptitle(title)
    return drawn


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    one, two = (save_figures({"name": figure()}, tmp_path / folder) for folder in "ab")
    assert [file.name for file in one] == ["name.png", "name.svg", "name.pdf"]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    for file in one:
        assert b"atplotlib v" not in file.read_bytes()  # another version writes the same file
        assert not re.search(rb"20[2-9]\d-\d\d-\d\d|CreationDate", file.read_bytes())


@pytest.mark.parametrize(
    ("title", "description", "expected"),
    [
        ("Effects → layers\n200 facts\n p = 0.9", "", ("Effects → layers", "200 facts; p = 0.9")),
        ("Effects\n200 facts", "Own words", ("Effects", "Own words")),
        ("", "", ("name", "")),
    ],
)
def test_files_have_title_and_description(
    tmp_path: Path, title: str, description: str, expected: tuple[str, str]
) -> None:
    drawn = figure(title=title, description=description)
    png, svg, pdf = save_figures({"name": drawn}, tmp_path)
    with Image.open(png) as image:
        assert (image.info["Title"], image.info.get("Description", "")) == expected
    root = ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    titles = [element.text for element in root.iter(f"{DUBLIN_CORE}title")]
    texts = [element.text for element in root.iter(f"{DUBLIN_CORE}description")]
    assert (titles, texts) == ([expected[0]], [expected[1]] if expected[1] else [])
    fields = re.findall(rb"/(Title|Subject) \((.*?)\)(?=\s)", pdf.read_bytes(), re.DOTALL)
    assert [name for name, _ in fields] == [b"Title", b"Subject"]
    assert tuple(_pdf_text(value) for _, value in fields) == expected


def test_a_pdf_has_selectable_text_and_no_margins(tmp_path: Path) -> None:
    drawn = NotebookFigure(width=8, height=6)
    drawn.text(0.5, 0.5, "Seattle*")
    *_, pdf = save_figures({"name": drawn}, tmp_path)
    content = pdf.read_bytes()
    assert b"/FontFile2" in content  # TrueType
    assert b"/ToUnicode" in content
    assert b"/Type3" not in content
    box = re.search(rb"/MediaBox \[ ?([-\d. ]+)\]", content)
    assert box is not None
    left, bottom, right, top = map(float, box[1].split())
    assert right - left < 72  # points
    assert top - bottom < 24


def test_a_line_has_its_style() -> None:
    for number, line in enumerate(figure().axes[0].get_lines()):
        style = series_style(number)
        assert line.get_color() == style.color
        assert line.get_marker() == style.marker
        assert line.get_linestyle() == style.dash


def test_notebooks_display_a_figure() -> None:
    assert figure()._repr_png_().startswith(b"\x89PNG")


def _pdf_text(value: bytes) -> str:
    """A string of a PDF: UTF-16 with a byte order mark, with escapes."""
    plain = re.sub(rb"\\([nrtbf()\\])", lambda m: _ESCAPES.get(m[1], m[1]), value)
    return plain.decode("utf-16") if plain.startswith(b"\xfe\xff") else plain.decode("latin-1")


_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
