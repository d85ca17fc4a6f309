from __future__ import annotations

from pathlib import Path

from editkit.figures import COLORS, NotebookFigure, plot_with_interval, save_figures


def figure() -> NotebookFigure:
    drawn = NotebookFigure(width=3, height=2)
    panel = drawn.subplots()
    for number in range(2):
        plot_with_interval(
            panel, [0, 1], [number, 2], [0, 1], [3, 3], number=number, label=f"line {number}"
        )
    return drawn


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    one, two = (save_figures({"name": figure()}, tmp_path / folder) for folder in "ab")
    assert [file.name for file in one] == ["name.png", "name.svg"]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


def test_lines_differ_in_colour_marker_and_dash() -> None:
    first, second = figure().axes[0].get_lines()
    assert (first.get_color(), second.get_color()) == COLORS[:2]
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()


def test_notebooks_display_a_figure() -> None:
    assert figure()._repr_png_().startswith(b"\x89PNG")
