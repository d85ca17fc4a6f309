from __future__ import annotations

from pathlib import Path

import pytest

from editkit.testing import ARCHITECTURES
from editkit_benchmarks import models_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_the_page_has_a_row_for_each_family() -> None:
    rows = PAGE.read_text(encoding="utf-8").removeprefix(models_table.HEAD).splitlines()
    assert [row.split("`")[1] for row in rows] == sorted(ARCHITECTURES)
    assert not [row for row in rows if "FAIL" in row]


@pytest.mark.slow
def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    models_table.main()
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8")
