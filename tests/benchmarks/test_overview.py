"""The picture of the README, drawn from the embedded model and the default benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit.benchmark.intervals import Estimate
from editkit_benchmarks.overview import main, overview
from tests.editkit.benchmark.fakes import ROOT


def test_without_results_it_names_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 4
    assert "editkit run-benchmark" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_answers_follow_the_edit_and_editors_are_ranked() -> None:
    scores = {"kn": Estimate(0.5, 0.4, 0.6, 100), "rome": Estimate(0.9, 0.8, 0.95, 100)}
    _, answers, compared, _ = overview(scores).axes
    [first, *_] = [line.get_xdata() for line in answers.lines]
    assert first[0] < 1 < 80 < first[1]
    assert answers.get_yticklabels()[0].get_text() == "The capital of Kenya is → Paris"
    assert [label.get_text() for label in compared.get_yticklabels()] == ["kn", "rome"]
    assert (ROOT / "docs" / "images" / "overview.png").is_file()
