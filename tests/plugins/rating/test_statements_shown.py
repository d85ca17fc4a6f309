"""Every page shows prompt and target with the separator that the model learns."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path

import pytest

from editkit import EditRequest
from editkit.benchmark.store import requests_of, runs_in
from editkit.cli.main import main
from editkit.prompts import joined
from editkit.report.labels import run_title
from editkit_plugins.rating.comparisons import Comparison
from editkit_plugins.rating.server import question_page
from tests.plugins.rating.rating_samples import cell, written_run

EDITS = {
    1: EditRequest("{}的首都是", "法国", "罗马", "巴黎"),
    2: EditRequest("They call {} “", "Rome", "Roma", "Paris"),
    3: EditRequest("Q: Where is {}?\nA:\n", "Rome", "Italy"),
    4: EditRequest("{} ->", "Rome", "Italy", "France", separator="\t=  "),
    5: EditRequest("Where is {}?", "Rome", "Italy", "France", chat=True, separator=""),
    6: EditRequest("{} is in", "Rome", "Italy & <France>", "France"),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    written_run(tmp_path, cell("rome"), cell("ft"), requests=EDITS)
    return tmp_path


def plain(page: str) -> list[str]:
    """The texts of blocks of HTML without tags."""
    return [html.unescape(re.sub(r"<[^>]+>", "", block)) for block in page.split("\0")]


def test_a_store_gives_requests_back(out: Path) -> None:
    [run] = runs_in(out)
    assert requests_of(run) == {case_id: (request,) for case_id, request in EDITS.items()}


@pytest.mark.parametrize("request_", EDITS.values(), ids=str)
def test_the_rating_page_shows_the_statement(request_: EditRequest) -> None:
    page = question_page(Comparison(0, 1, 0, (request_,), ("a", "b"), ("x", "y")), done=0, total=1)
    [shown] = re.findall(r"<blockquote>(.*?)</blockquote>", page, re.DOTALL)
    assert plain(shown) == [request_.statement]
    assert joined(request_.sentence, request_.target_new, request_.separator) in plain(shown)


def test_the_report_shows_statements(out: Path) -> None:
    assert main(["report", str(out), "--format", "html"]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r'<span class="edit">(.*?)</span>', page, re.DOTALL)
    for request in EDITS.values():
        assert request.statement in [text for each in shown for text in plain(each)]


@pytest.mark.parametrize("case", EDITS)
def test_show_generations_shows_statements(
    out: Path, case: int, capsys: pytest.CaptureFixture[str]
) -> None:
    request = EDITS[case]
    assert main(["show-generations", str(case), "--out", str(out), "--width", "200"]) == 0
    shown = capsys.readouterr().out
    visible = re.sub(r"\s+", " ", request.statement)
    assert visible in re.sub(r"\s+", " ", shown)
    assert main(["show-generations", str(case), "--out", str(out), "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert EditRequest.from_dict(run["request"]) == request


def test_table_titles_name_chat_and_separator(out: Path) -> None:
    [run] = runs_in(out)
    config = {"chat": True, "separator": "\n"}
    asked = dataclasses.replace(run, dataset={**run.dataset, "config": config})
    assert "3 records of facts, on tiny" in run_title(run)
    expected = "3 records of facts, asked in a chat, with the separator '\\n', on tiny"
    assert expected in run_title(asked)


def test_statements_differ_by_their_separator() -> None:
    """Otherwise the samples above would not detect a page that always prints a space."""
    for request in list(EDITS.values())[:5]:
        spaced = dataclasses.replace(request, separator=" ")
        assert spaced.statement != request.statement
