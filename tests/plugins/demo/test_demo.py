"""What the page does with a model, what it shows, and whom it answers; without gradio."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import (
    DeltaError,
    EditkitError,
    EditRequest,
    Patch,
    PluginError,
    RequestError,
    counting,
    load_model,
)
from editkit.cli.main import main
from editkit.patches.content import Answer
from editkit_plugins.demo import command, rendering
from editkit_plugins.demo.studio import Made, Offered, Studio, Traced, Wish
from editkit_plugins.demo.worker import WAITING, Worker, statuses

KENYA = Wish("Kenya is in the continent of", "Kenya", "Europe")
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(load_model("atlas"), tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def made(studio: Studio) -> Made:
    return studio.edit(KENYA, ["ft", "in-context"])


# ---------------------------------------------------------------- the command


def test_without_gradio_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == PluginError.exit_code
    assert "pip install 'editkit[demo]'" in capsys.readouterr().err


def test_the_help_imports_neither_gradio_nor_torch() -> None:
    code = (
        "import sys; from editkit.cli.main import main; code = main(['demo', '--help']);"
        "sys.exit(code or any(name in sys.modules for name in ('gradio', 'torch', 'uvicorn')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--port" in done.stdout


def test_a_busy_port_is_an_error_in_words_before_the_model_is_loaded() -> None:
    pytest.importorskip("uvicorn", reason="the extra demo is not installed")
    from editkit import UsageError
    from editkit_plugins.demo.server import listen

    with listen(0) as busy:
        port = busy.getsockname()[1]
        assert busy.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UsageError, match=f"cannot listen on port {port}"):
            listen(port)


# ---------------------------------------------------------------- the model's thread


def run_and_collect(worker: Worker, *works: Callable[[], Any]) -> list[Any]:
    jobs = [worker.submit(work) for work in works]
    worker.stop()
    worker.run()
    return [job.future for job in jobs]


def test_jobs_are_done_one_after_the_other_and_their_errors_reach_who_asked() -> None:
    order: list[int] = []

    def fail() -> None:
        raise RequestError("no")

    first, second, third = run_and_collect(
        Worker(), lambda: order.append(1), fail, lambda: order.append(3)
    )
    assert order == [1, 3]
    assert isinstance(second.exception(), RequestError)
    assert first.exception() is third.exception() is None


def test_a_job_that_waits_says_so_and_one_that_works_shows_its_progress() -> None:
    worker, go = Worker(), threading.Event()

    def work() -> str:
        with counting("edits", 4, unit="editor") as advance:
            advance(2)
            go.wait(20)
        return "done"

    async def follow() -> tuple[list[str], list[str]]:
        first, second = worker.submit(work), worker.submit(lambda: "next")
        running, waiting = statuses(first), statuses(second)
        seen = ([await anext(running)], [await anext(waiting)])
        go.set()
        seen[0].extend([status async for status in running])
        return seen

    thread = threading.Thread(target=worker.run)
    thread.start()
    running, waiting = asyncio.run(follow())
    worker.stop()
    thread.join()
    assert running[0].startswith("2/4 editors: edits")
    assert waiting == [WAITING]


def test_a_job_is_dropped_when_nobody_waits_for_it_any_more() -> None:
    worker = Worker()
    calls: list[int] = []

    async def leave() -> None:
        waiting = statuses(worker.submit(lambda: calls.append(1)))
        assert await anext(waiting) == WAITING
        await waiting.aclose()

    asyncio.run(leave())
    worker.stop()
    worker.run()
    assert not calls


def test_ctrl_c_interrupts_an_edit_at_once() -> None:
    worker = Worker()
    restored: list[bool] = []

    def endless() -> None:
        try:
            while True:
                time.sleep(0.001)
        finally:
            restored.append(True)

    job = worker.submit(endless)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    assert restored
    assert isinstance(job.future.exception(), KeyboardInterrupt)


# ---------------------------------------------------------------- what it does with a model


def test_editors_that_cannot_edit_the_model_have_the_reason(studio: Studio) -> None:
    offered = {each.name: each for each in studio.editors()}
    assert "none" not in offered
    assert offered["rome"].refused is None
    assert offered["rome"].slow
    assert not offered["ft"].slow
    assert "has not been trained for atlas" in str(offered["mend-zsre"].refused)


def test_several_editors_make_patches_that_can_be_downloaded(studio: Studio, made: Made) -> None:
    assert list(made.patches) == ["ft", "in-context"]
    assert made.objects == ("Europe", "Africa")
    path, name = studio.file(made.key, "ft") or (Path(), "")
    assert studio.sizes(made)["ft"] == path.stat().st_size
    assert name == "Kenya-Europe-ft.safetensors"
    assert Patch.load(path).delta.digest() == made.patches["ft"].delta.digest()
    assert studio.file(made.key, "rome") is None
    assert studio.file("../" + made.key, "ft") is None


def test_the_model_and_the_edited_ones_answer_a_free_prompt(studio: Studio, made: Made) -> None:
    answers = studio.ask(made.key, " Kenya is in the continent of ", chat=False)
    [unedited, ft, _] = [answer.probabilities for answer in answers]  # Europe, Africa
    assert unedited[0] < 0.01 < 0.9 < unedited[1]
    assert ft[0] > 0.9
    with pytest.raises(RequestError, match="the prompt is empty"):
        studio.ask(made.key, "  ", chat=False)


def test_traces_are_pictures_and_an_edit_without_weights_has_the_reason(
    studio: Studio, made: Made
) -> None:
    unedited, edited = studio.traces(made.key, "in-context")
    assert unedited.picture.startswith(b"\x89PNG")
    assert "puts texts before prompts" in edited.problem
    with pytest.raises(RequestError, match="no edited model is chosen"):
        studio.traces(made.key, "rome")


def test_an_editor_that_fails_does_not_stop_the_others(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from editkit_plugins.finetune.editor import FineTuneEditor

    def refuse(self: Any, model: Any, requests: Any) -> Any:
        raise DeltaError("ft is tired.", hint="Wait.")

    monkeypatch.setattr(FineTuneEditor, "edit", refuse)
    both = studio.edit(KENYA, ["ft", "in-context"])
    assert list(both.patches) == ["in-context"]
    assert both.failed == {"ft": "ft is tired. Wait."}
    assert "ft is tired. Wait." in rendering.result(both, studio.sizes(both))
    with pytest.raises(DeltaError, match="ft is tired"):
        studio.edit(KENYA, ["ft"])


@pytest.mark.parametrize(
    ("wish", "editors", "problem"),
    [
        (KENYA, [], "no editor is chosen"),
        (Wish("Kenya is in", "Uganda", "Europe"), ["in-context"], "is not in the prompt"),
        (Wish("Kenya is in", "Kenya", " "), ["in-context"], "the new answer is empty"),
        (Wish("", "", ""), ["in-context"], "the sentence is empty"),
    ],
)
def test_facts_that_cannot_be_edited_are_refused_in_words(
    studio: Studio, wish: Wish, editors: list[str], problem: str
) -> None:
    with pytest.raises(RequestError) as raised:
        studio.edit(wish, editors)
    assert problem in str(raised.value)
    assert raised.value.hint


def test_taking_an_edit_back_removes_its_patches_and_leaves_the_same_model(studio: Studio) -> None:
    digest = studio.model.weights_digest()
    mine = studio.edit(KENYA, ["in-context"])
    path, _ = studio.file(mine.key, "in-context") or (Path(), "")
    assert path.exists()
    _, is_same, answer = studio.take_back(mine.key)
    assert is_same
    assert answer.probabilities[1] > 0.9  # Africa
    assert not path.exists()
    assert studio.file(mine.key, "in-context") is None
    assert studio.model.weights_digest() == digest
    with pytest.raises(RequestError, match="there is no edited model"):
        studio.take_back(mine.key)


# ---------------------------------------------------------------- what it shows


def hostile(made: Made) -> Iterator[str]:
    """Every part of the page with markup in every text that a model or a user writes."""
    import dataclasses

    patch = made.patches["ft"]
    request = EditRequest(f"{{}} {MARKUP}", MARKUP, MARKUP, target_true=f"{MARKUP}!")
    checks = tuple(
        dataclasses.replace(
            check,
            question=dataclasses.replace(
                check.question, prompt=MARKUP, answers=(MARKUP,) * len(check.question.answers)
            ),
            before=dataclasses.replace(check.before, text=MARKUP),
            after=dataclasses.replace(check.after, text=MARKUP),
        )
        for check in patch.checks
    )
    drift = tuple(
        dataclasses.replace(each, prompt=MARKUP, before=MARKUP, after=MARKUP)
        for each in patch.drift
    )
    delta = dataclasses.replace(patch.delta, request=request, notes={"warning": MARKUP})
    bad = dataclasses.replace(
        made,
        request=request,
        patches={MARKUP: Patch(delta, patch.origin, checks, drift, remarks=(MARKUP,))},
        failed={MARKUP: MARKUP},
    )
    answer = Answer((0.5, 0.5), MARKUP)
    yield rendering.result(bad, {MARKUP: 1})
    yield rendering.table(bad)
    yield rendering.answers(bad, [(MARKUP, [answer, answer])])
    yield rendering.taken_back(bad, True, answer)
    yield rendering.traces([Traced(MARKUP, b"png"), Traced(MARKUP, problem=MARKUP)])
    yield rendering.editors([Offered(MARKUP, MARKUP), Offered(MARKUP, MARKUP, refused=MARKUP)])
    yield rendering.status(MARKUP)
    yield rendering.problem(EditkitError(MARKUP, hint=MARKUP))
    yield rendering.problem(ValueError(MARKUP))


def test_markup_in_any_text_is_inert(made: Made) -> None:
    pages = list(hostile(made))
    assert all("&lt;img" in page for page in pages)
    assert not [page for page in pages if "<img src=x" in page]


def test_an_unexpected_error_is_a_sentence_without_secrets() -> None:
    page = rendering.problem(ValueError("https://me:secret@example.org/ failed\nat line 3"))
    assert "unexpected ValueError" in page
    assert "secret" not in page
    assert "line 3" not in page


def test_the_options_are_those_that_the_documentation_names() -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    text = (Path(__file__).parents[3] / "docs" / "demo.md").read_text(encoding="utf-8")
    flags = parser._option_string_actions.keys() - {"-h", "--help"}
    assert not [flag for flag in flags if flag not in text]
