"""The page: fields, buttons, and which function each button calls.

gradio draws the fields and carries values between browser and server. Everything else on the page
is HTML from ``templates``, which escape every value.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import fastapi
import gradio
from fastapi.responses import FileResponse, Response

from editkit import EditkitError
from editkit.errors import first_line
from editkit_plugins.demo import rendering
from editkit_plugins.demo.examples import examples_for
from editkit_plugins.demo.server import App
from editkit_plugins.demo.studio import Studio, Wish
from editkit_plugins.demo.worker import Job, Worker, statuses

_MOST_ANSWERS = 8
_FIRST_CHOICE = ("rome", "ft")
_log = logging.getLogger("editkit.demo")


def application(studio: Studio, worker: Worker) -> App:
    """The page with its functions, and the files of patches.

    Args:
        studio: The model and its edits.
        worker: Does all work on the model.
    """
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def patch(key: str, editor: str) -> Response:
        """Send the file of a patch."""
        file = studio.file(key, editor)
        if file is None:
            return Response("This patch was taken back.", status_code=404, media_type="text/plain")
        path, name = file
        return FileResponse(path, filename=name, media_type="application/octet-stream")

    app.add_api_route("/patches/{key}/{editor}", patch)
    blocks = _Page(studio, worker).blocks()
    mounted: App = gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=False,
        theme=_theme(),
        css=rendering.style(),
    )
    return mounted


def _theme() -> Any:
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gradio.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )


class _Page:
    """The components and their functions."""

    def __init__(self, studio: Studio, worker: Worker) -> None:
        self._studio, self._worker = studio, worker

    # ------------------------------------------------------------ layout

    def blocks(self) -> Any:
        """The page."""
        model = self._studio.model
        editors = self._studio.editors()
        usable = [each for each in editors if each.refused is None]
        first = [each.name for each in usable if each.name in _FIRST_CHOICE] or [
            each.name for each in usable[:1]
        ]
        with gradio.Blocks(title="editkit demo", analytics_enabled=False) as page:
            _html(rendering.header(model), elem_id="top")
            with gradio.Row(equal_height=False, elem_id="main"):
                with gradio.Column(scale=4, min_width=320):
                    prompt, subject, to = self._fact()
                    names = gradio.CheckboxGroup(
                        [each.name for each in usable],
                        value=first,
                        label="Editors",
                        elem_id="editors",
                    )
                    chat, keep, also = self._options()
                    button = gradio.Button("Edit", variant="primary", elem_id="edit")
                    _html(rendering.editors(editors))
                with gradio.Column(scale=9, min_width=320):
                    status = _html("", elem_id="status")
                    result = _html(rendering.welcome(), elem_id="result")
                    key = gradio.State(None)
                    with gradio.Column(visible=False) as tools:
                        with gradio.Tabs():
                            with gradio.Tab("Before and after"):
                                table = _html("", elem_id="table")
                            with gradio.Tab("Ask all models", elem_id="ask-tab"):
                                free, ask, answers = self._free_prompts()
                            with gradio.Tab("Causal traces", elem_id="trace-tab"):
                                traced, trace, traces = self._traces()
                        back = self._take_back_button()
            gradio.on(
                [button.click, to.submit],
                self._edit,
                [prompt, subject, to, names, chat, keep, also],
                [status, result, table, key, tools, traced, answers, traces],
                **_EVENT,
            )
            gradio.on(
                [ask.click, free.submit],
                self._ask,
                [key, free, chat, asked := gradio.State(())],
                [status, answers, asked],
                **_EVENT,
            )
            trace.click(self._trace, [key, traced], [status, traces], **_EVENT)
            back.click(self._take_back, [key], [status, result, key, tools], **_EVENT)
        page.queue(default_concurrency_limit=None)
        return page

    def _fact(self) -> tuple[Any, Any, Any]:
        model = self._studio.model
        examples = examples_for(model.source or model.name)
        prompt = gradio.Textbox(
            examples[0].prompt, label="Sentence up to the answer", lines=2, elem_id="prompt"
        )
        with gradio.Row():
            subject = gradio.Textbox(
                examples[0].subject, label="Subject", min_width=120, elem_id="subject"
            )
            to = gradio.Textbox(
                examples[0].to, label="New answer", min_width=120, elem_id="new-object"
            )
        gradio.Examples(
            [list(each) for each in examples],
            [prompt, subject, to],
            label="Facts to try",
            example_labels=[f"{each.subject} → {each.to}" for each in examples],
        )
        return prompt, subject, to

    def _options(self) -> tuple[Any, Any, Any]:
        with gradio.Accordion("Options", open=False):
            chat = gradio.Checkbox(
                False,
                label="Chat: send prompts as a user's turns",
                interactive=self._studio.model.tokenizer.chat_template is not None,
                elem_id="chat",
            )
            keep = gradio.Textbox(
                "",
                label="Prompts with answers to keep, one a line",
                placeholder="empty: chosen from the answers of the model",
                lines=2,
                elem_id="keep",
            )
            also = gradio.Textbox(
                "",
                label="The fact in other words, one a line",
                placeholder="empty: chosen from the model's facts",
                lines=2,
                elem_id="also",
            )
        return chat, keep, also

    def _free_prompts(self) -> tuple[Any, Any, Any]:
        with gradio.Row(equal_height=True):
            free = gradio.Textbox(
                "",
                placeholder="any prompt; all models answer side by side",
                show_label=False,
                scale=6,
                container=False,
                elem_id="free",
            )
            button = gradio.Button("Ask", scale=1, min_width=90, elem_id="ask")
        return free, button, _html("", elem_id="answers")

    def _traces(self) -> tuple[Any, Any, Any]:
        _html(rendering.note("Where the model recalls the old fact, and an edited model the new."))
        with gradio.Row(equal_height=True):
            editor = gradio.Radio([], show_label=False, container=False, scale=6, elem_id="traced")
            button = gradio.Button("Trace", scale=1, min_width=90, elem_id="trace")
        return editor, button, _html("", elem_id="traces")

    def _take_back_button(self) -> Any:
        with gradio.Row(elem_id="undo"):
            text = "The model never changes: an edit is a value that is added to each question."
            _html(rendering.note(text))
            return gradio.Button("Take it back", size="sm", scale=0, elem_id="take-back")

    # ------------------------------------------------------------ functions

    async def _edit(
        self,
        prompt: str,
        subject: str,
        to: str,
        editors: Sequence[str],
        chat: bool,
        keep: str,
        also: str,
    ) -> AsyncIterator[tuple[Any, ...]]:
        wish = Wish(prompt, subject, to, chat, _lines(keep), _lines(also))
        unchanged = [gradio.skip()] * 7
        job = self._worker.submit(lambda: self._studio.edit(wish, editors))
        async for status in statuses(job):
            yield rendering.status(status), *unchanged
        error = _problem(job)
        if error:
            yield error, *unchanged
            return
        made = job.future.result()
        names = list(made.patches)
        yield (
            "",
            rendering.result(made, self._studio.sizes(made)),
            rendering.table(made),
            made.key,
            gradio.update(visible=True),
            gradio.update(choices=names, value=names[0]),
            "",
            "",
        )

    async def _ask(
        self, key: str | None, prompt: str, chat: bool, earlier: Sequence[Any]
    ) -> AsyncIterator[tuple[Any, ...]]:
        job = self._worker.submit(lambda: self._studio.ask(key, prompt, chat=chat))
        async for status in statuses(job):
            yield rendering.status(status), gradio.skip(), gradio.skip()
        error = _problem(job)
        if error:
            yield error, gradio.skip(), gradio.skip()
            return
        of_this_edit = [each for each in earlier if each[0] == key]
        shown = [(key, prompt, job.future.result()), *of_this_edit][:_MOST_ANSWERS]
        made = self._studio.made(key)
        yield "", rendering.answers(made, [each[1:] for each in shown]), shown

    async def _trace(self, key: str | None, editor: str) -> AsyncIterator[tuple[Any, ...]]:
        job = self._worker.submit(lambda: self._studio.traces(key, editor))
        async for status in statuses(job):
            yield rendering.status(status), gradio.skip()
        error = _problem(job)
        yield error or "", gradio.skip() if error else rendering.traces(job.future.result())

    async def _take_back(self, key: str | None) -> AsyncIterator[tuple[Any, ...]]:
        job = self._worker.submit(lambda: self._studio.take_back(key))
        async for status in statuses(job):
            yield rendering.status(status), *[gradio.skip()] * 3
        error = _problem(job)
        if error:
            yield error, *[gradio.skip()] * 3
            return
        yield "", rendering.taken_back(*job.future.result()), None, gradio.update(visible=False)


_EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _html(content: str, **options: Any) -> Any:
    return gradio.HTML(content, js_on_load=None, apply_default_css=False, **options)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _problem(job: Job[Any]) -> str | None:
    """Why a job failed, as HTML; None if it did not."""
    error = job.future.exception()
    if error is None:
        return None
    if not isinstance(error, EditkitError):
        _log.error("unexpected %s", first_line(error, named=True), exc_info=error)
    return rendering.problem(error)
