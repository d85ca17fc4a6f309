"""The speed measurements: both ways give the same numbers. No test checks a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from editkit import UsageError
from editkit_benchmarks.speed.__main__ import main
from editkit_benchmarks.speed.cases import CASES as PLAIN_CASES
from editkit_benchmarks.speed.names import PLAIN, PUBLISHED
from editkit_benchmarks.speed.published import (
    CASES,
    Sides,
    _Tokenizer,
    load_published,
)
from editkit_benchmarks.speed.shapes import atlas, first_records, random_model
from editkit_benchmarks.speed.timing import best_of, relative_difference

ROME = os.environ.get("EDITKIT_ROME")
"""A clone of the published code."""

needs_rome = pytest.mark.skipif(ROME is None, reason="EDITKIT_ROME names no clone of kmeng01/rome")


def test_a_slow_way_is_timed_once_and_the_best_repeat_counts() -> None:
    ticks = iter([0.0, 5.0, 5.0, 30.0, 30.0, 33.0])
    calls: list[str] = []

    def way(name: str) -> list[float]:
        calls.append(name)
        return []

    ways = {"fast": lambda: way("fast"), "slow": lambda: way("slow")}
    best = best_of(ways, repeats=2, clock=lambda: next(ticks))
    assert best == {"fast": 3.0, "slow": 25.0}
    assert calls == ["fast", "slow", "fast"]


def test_differences_are_relative_to_the_largest_number() -> None:
    assert relative_difference([1.0, 10.0], [2.0, 10.0]) == pytest.approx(0.1)


def test_the_command_line_has_the_names_of_all_cases() -> None:
    assert tuple(case.name for case in PLAIN_CASES) == PLAIN
    assert CASES == PUBLISHED


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        ("speed", "plain --threads 0", "--threads: got '0', expected a whole number above 0"),
        ("speed", "plain --repeats 0", "--repeats: got '0', expected a whole number above 0"),
        ("speed", "--minutes nan", "--minutes: got 'nan', expected a number"),
        ("scale", "driver --records 0", "--records: got '0', expected a whole number from 1 to"),
        ("scale", "store --shards -1", "--shards: got '-1', expected a whole number above 0"),
        ("scale", "driver --seconds -1", "--seconds: got '-1', expected 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused_before_torch_is_loaded(
    module: str, arguments: str, reason: str
) -> None:
    code = (
        f"import sys, editkit_benchmarks.{module}.__main__ as command\n"
        "try: command.main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reason in ended.stderr
    assert ended.returncode == 2


def test_a_folder_without_the_published_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rome/rome_main.py"):
        load_published(tmp_path)
    assert main(["published", "--rome", str(tmp_path), CASES[0]]) == 2


def test_a_slice_of_encodings_is_a_list_as_in_transformers_4() -> None:
    tokenizer = _Tokenizer(atlas().tokenizer)
    encoded = tokenizer(["Kenya", "Kenya is in Africa"])
    lengths = [len(ids) for ids in encoded["input_ids"]]
    assert [len(each) for each in encoded[0:2]] == lengths
    assert lengths[0] < lengths[1]
    padded = tokenizer(["Kenya", "Kenya is in Africa"], padding=True).to("cuda")["input_ids"]
    assert padded[0][lengths[0] :] == [0] * (lengths[1] - lengths[0])
    assert atlas().tokenizer.pad_token is None


@needs_rome
def test_the_published_code_gives_the_same_numbers() -> None:
    assert ROME is not None
    sides = Sides(load_published(Path(ROME)), atlas(), layer=1, steps=3, contexts=["It rains. "])
    [record] = first_records(1)
    [delta] = sides.our_edits([record])
    [change] = delta.changes.values()
    u, right = sides.their_edit(record)
    dense = change.tensors()["left"] @ change.tensors()["right"]
    assert (
        relative_difference(dense.flatten().tolist(), (u[:, None] * right).flatten().tolist())
        < 1e-4
    )
    [ours] = sides.our_scores([delta], [record])
    before = atlas().weights_digest()
    assert relative_difference(ours, sides.their_record(record)) < 1e-4
    assert atlas().weights_digest() == before


@needs_rome
def test_the_json_document_has_the_machine_and_each_case(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["published", "--rome", str(ROME), "--repeats", "1", "--json", "score-atlas"]) == 0
    document = json.loads(capsys.readouterr().out)
    [result] = document["results"]
    assert document["schema"] == 1
    assert document["machine"]["torch_threads"] == 1
    assert result["case"] == "score-atlas"
    assert result["largest_relative_difference"] < 1e-4


def test_a_case_has_its_ratio_and_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plain", "--repeats", "1", "--json", "prompts-atlas"]) == 0
    document = json.loads(capsys.readouterr().out)
    [result] = document["results"]
    assert result["largest_difference"] < 1e-3
    assert result["limit"]["flops"] > 1e8
    assert 0 < result["limit"]["share_of_limit"] < 1
    [rates] = document["machine"]["rates"]
    assert rates["gb_per_s"] > 0
    assert main(["plain", "--repeats", "1", "prompts-atlas"]) == 0
    assert "of the limit" in capsys.readouterr().out


def test_large_shapes_are_not_built_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="gpt2-xl is too large for a CPU"):
        random_model("gpt2-xl")


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plain", "no-such-case"])
    assert "no case 'no-such-case'; expected one of" in capsys.readouterr().err
