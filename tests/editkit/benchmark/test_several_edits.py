"""Records with several edits: written together, each once, in every regime."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit import EditRequest, PluginError, WeightDelta, load_delta
from editkit.benchmark import bench
from editkit.benchmark.aggregate import document
from editkit.benchmark.plan import Plan, make_plan
from editkit.benchmark.repeated_edits import contradictions, edits_to_write, warning_of
from editkit.benchmark.runner import run_plan
from editkit.benchmark.spec import parse_benchmark
from editkit.benchmark.store import requests_of, rows_of, runs_in
from editkit.editing.edited_models import CandidateQuery, EditedModels
from editkit.registry.plugins import Registry
from editkit.registry.random_state import seeded
from editkit.report.html_page import report
from editkit.report.sections import sections_of
from tests.editkit.benchmark import fakes, sequence_plugin
from tests.editkit.benchmark.sequence_plugin import CHAINS, STEPS, OneByOne, StepConfig, tower
from tests.tiny import tiny

BENCHMARK = """
name: several
model: tiny
dataset: chains
metrics: [loss]
batch: {batch}
editors:
  - name: {editor}
    config: {config}
edits: {edits}
"""
ALL = ("Tower 0", "Tower 1", "Tower 2", "Tower 3", "Tower 0", "Tower 4", "Tower 5", "Tower 6")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs an editor over the records of ``chains``; returns the plan and the run."""
    model = tiny("gpt2")
    monkeypatch.setattr(bench, "load_model_of", lambda choice: model)
    registry = Registry()
    registry.register(sequence_plugin, name="chains", distribution="chains", version="1.0")
    STEPS.clear()

    def execute(
        edits: str, editor: str = "stateful", config: str = "{}", batch: int = 6
    ) -> tuple[Plan, Any]:
        text = BENCHMARK.format(edits=edits, editor=editor, config=config, batch=batch)
        plan = make_plan(
            parse_benchmark(text, place="several.yaml"),
            registry,
            **fakes.lookups(model.fingerprint),
        )
        run_plan(plan, tmp_path / "out", registry, quiet=True, tracking=False)
        return plan, runs_in(tmp_path / "out")[-1]

    return execute


def by_case(run: Any) -> dict[int, Any]:
    return {row.case_id: row for row in rows_of(run, run.cells[-1])}


def written(out: Path) -> tuple[EditRequest, ...]:
    [path] = (out / "sequences").glob("*/delta-*")
    return load_delta(path).requests


# ---------------------------------------------------------------- independent


def test_a_record_is_written_as_one_joint_edit_into_its_own_copy(run: Any) -> None:
    _, done = run("independent", "one-by-one", batch=2)
    model, editor = tiny("gpt2"), OneByOne(StepConfig())
    with seeded(0, 0):  # the first batch: records 0 and 1, both with several edits
        deltas = [editor.edit_jointly(model, edits) for edits in CHAINS[:2]]
    models = EditedModels(model, deltas)
    for i, edits in enumerate(CHAINS[:2]):
        query = CandidateQuery(i, edits[0].sentence, (edits[0].target_new,))
        [[loss]] = models.candidate_nll([query])
        assert by_case(done)[i].scores["loss"] == pytest.approx(loss, abs=1e-6)
    assert STEPS[:4] == [("Tower 0",), ("Tower 1",), ("Tower 1",), ("Tower 2",)]


def test_records_with_one_edit_are_edited_as_before(run: Any) -> None:
    _, done = run("independent", "one-by-one", batch=6)
    assert STEPS[:2] == [("Tower 3",), ("Tower 1",)]  # first, in one call
    single, several = by_case(done)[2].notes, by_case(done)[5].notes
    assert single["advice"] == "about\u2028Tower 3"
    assert "facts" not in single
    assert [own["advice"] for own in several["facts"]] == [
        f"about\u2028Tower {n}" for n in (5, 6, 5)
    ]
    assert STEPS[-2:] == [("Tower 5",), ("Tower 6",)]  # the repeated edit is written once


@pytest.mark.parametrize("editor", ["one-by-one", "stateful"])
def test_a_record_that_fails_fails_alone(run: Any, editor: str) -> None:
    _, done = run("independent", editor, "{fail_on: [Tower 2]}")
    status = {case: row.status for case, row in by_case(done).items()}
    assert status == {**dict.fromkeys(range(6), "done"), 1: "failed"}
    assert "ValueError" in by_case(done)[1].error


def test_one_delta_for_all_edits_is_required(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(self: Any, model: Any, requests: Any) -> WeightDelta:
        return self.delta(model, requests[:1], {})

    monkeypatch.setattr(sequence_plugin.Stateful, "edit_jointly", part)
    with pytest.raises(PluginError, match="for 2 requests, expected one delta with all of them"):
        run("independent")


# ---------------------------------------------------------------- groups


def test_a_joint_edit_writes_each_edit_once(run: Any, tmp_path: Path) -> None:
    _, done = run("{joint: 6}")
    assert STEPS == [ALL]
    assert written(tmp_path / "out") == (
        *(tower(0), tower(1), tower(2), tower(3), tower(0, "Oslo")),
        *(tower(4), tower(5), tower(6)),
    )
    assert {row.status for row in by_case(done).values()} == {"done"}


def test_a_step_has_all_edits_of_its_records(run: Any, tmp_path: Path) -> None:
    run("{sequential: 6, step: 2}")
    assert [ALL[:3], ALL[3:6], ALL[6:]] == STEPS
    assert written(tmp_path / "out")[-1] == tower(6)


def test_a_record_with_nothing_new_has_the_notes_of_its_edit(run: Any) -> None:
    _, done = run("{sequential: 6}", "one-by-one")
    notes = {case: row.notes for case, row in by_case(done).items()}
    assert notes[4] == {"advice": "about\u2028Tower 1"}
    assert [own["advice"] for own in notes[1]["facts"]] == [f"about\u2028Tower {n}" for n in (1, 2)]
    assert notes[1]["delta_norm"] > 0
    assert [(subject,) for subject in ALL] == STEPS


def test_an_edit_shared_with_a_record_that_fails_is_still_written(run: Any, tmp_path: Path) -> None:
    _, done = run("{joint: 6}", config="{fail_on: [Tower 0]}")
    failed = {case for case, row in by_case(done).items() if row.status == "failed"}
    assert failed == {0, 3}
    assert written(tmp_path / "out") == (tower(1), tower(2), tower(3), tower(5), tower(6))


# ---------------------------------------------------------------- shared and contradicting edits


def test_an_edit_is_written_again_after_one_that_contradicts_it() -> None:
    old, new = tower(0), tower(0, "Oslo")
    assert edits_to_write([[old], [new], [old], [old]]) == (old, new, old)
    assert edits_to_write([[old]], written=[old, new]) == (old,)
    assert edits_to_write([[old]], written=[new, old]) == ()
    chat = dataclasses.replace(old, chat=True)
    assert edits_to_write([[old], [chat]]) == (old, chat)


def test_contradictions_are_counted_and_named() -> None:
    assert contradictions([(1, (tower(0),)), (2, (tower(0), tower(1)))]) == []
    [one] = contradictions([(7, (tower(0),)), (9, (tower(0, "Oslo"), tower(1)))])
    assert (one.objects, one.cases) == (("Paris", "Oslo"), (7, 9))
    text = warning_of([[], [one], [one]])
    assert text is not None
    assert text.startswith("contradicting edits of 2 records in one model, at 2 prompts, such as")
    assert "'Tower 0 is in the city of' -> 'Paris' and 'Oslo' (cases 7, 9)" in text
    assert warning_of([[], []]) is None


@pytest.mark.parametrize(
    ("edits", "contradicts"), [("{joint: 6}", True), ("{joint: 3}", False), ("independent", False)]
)
def test_the_log_and_the_table_name_contradictions(run: Any, edits: str, contradicts: bool) -> None:
    plan, done = run(edits)
    [section] = sections_of([done], [()])
    for texts in (plan.warnings, section.scores().notes):
        own = [text for text in texts if "contradicting" in text]
        assert len(own) == contradicts
        assert not own or "'Paris' and 'Oslo' (cases 0, 3)" in own[0]


# ---------------------------------------------------------------- stored, counted, reported


def test_all_edits_are_stored_and_counted(run: Any) -> None:
    _, done = run("{joint: 6}", "one-by-one", "{fail_on: [Tower 4]}")
    assert requests_of(done) == dict(enumerate(CHAINS))
    assert done.dataset["n_edits"] == sum(map(len, CHAINS)) == 11
    assert document(done)["dataset"]["n_edits"] == 11
    [section] = sections_of([done], [()])
    assert "6 records (11 edits) of chains" in section.title
    [outcomes] = section.outcomes
    assert outcomes.n == 10  # those of the failed record have no notes of their own
    assert section.relations == {}
    assert json.loads(json.dumps(document(done)))


def test_editors_without_joint_edits_are_named(run: Any) -> None:
    plan, _ = run("independent", "one-by-one")
    assert any(note.startswith("one-by-one: one fact after the other") for note in plan.notes)
    plan, _ = run("independent", "stateful")
    assert not any("one fact after the other" in note for note in plan.notes)


def test_the_page_shows_all_edits_of_a_record(run: Any) -> None:
    _, done = run("independent")
    text = re.sub(r"<[^>]+>", "", report(sections_of([done], [()]), against=None))
    shown = [
        f"{case} {'; '.join(f'{edit.statement} (was Rome)' for edit in edits)}" in text
        for case, edits in enumerate(CHAINS)
    ]
    assert shown.count(True) == 5  # the hardest ones
