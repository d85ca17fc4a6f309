"""Requests as turns of a chat: templates of several families, and the subjects in them."""

from __future__ import annotations

import datetime
import functools
from typing import Any

import pytest

from editkit import EditRequest, Fact, ModelError, Probe, Record, RequestError, make_editor
from editkit import trace as trace_fact
from editkit.editing.edited_models import CandidateQuery, EditedModels, GenerationQuery
from editkit.editing.rome_rows import request_rows
from editkit.models import LanguageModel
from editkit.models.chat import ChatTemplate
from editkit_plugins.learned.training.data import draw_edits, fact_texts
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.text_metrics.config import GenerationConfig
from editkit_plugins.text_metrics.metrics import generated_texts
from editkit_plugins.zsre.config import ZsreAccuracyConfig
from editkit_plugins.zsre.metric import ZsreAccuracy
from tests.tokenizers import TEMPLATES, model_of, tokenizer_of

REQUEST = EditRequest("In which city is {}?", "The Space Needle", "Paris", "Seattle", chat=True)
STYLES = ("llama3", "chatml", "gemma")
FRONT = {"llama3": ["<s>"], "gemma": ["<s>"], "chatml": ["<s>"]}
BEFORE = {
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\n",
    "chatml": "<|im_start|>user\n",
    "gemma": "<start_of_turn>user\n",
}
AFTER = {
    "llama3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "chatml": "<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<end_of_turn>\n<start_of_turn>model\n",
}


def chat_model(style: str, family: str = "llama3", **options: Any) -> LanguageModel:
    return model_of(family, template=style, context_length=256, **options)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", ["llama3", "llama3+eos", "gpt2"])
def test_a_request_is_encoded_as_the_template_renders_it(style: str, family: str) -> None:
    model = chat_model(style, family)
    [sentence] = model.requested([REQUEST])
    tokenizer = model.tokenizer
    text = tokenizer.decode(sentence.encoding.ids)
    assert text.endswith(f"{BEFORE[style]}{REQUEST.sentence}{AFTER[style]}Paris")
    front = tokenizer.convert_ids_to_tokens(list(sentence.encoding.ids)).count("<s>")
    assert front == (0 if (style, family) == ("chatml", "gpt2") else 1)
    assert "</s>" not in text
    assert tokenizer.decode(sentence.target) == "Paris"
    first, last = (
        sentence.prompt.position(REQUEST.subject_span, where)
        for where in ("subject_first", "subject_last")
    )
    assert tokenizer.decode(sentence.encoding.ids[first : last + 1]).strip() == REQUEST.subject
    assert sentence.prompt.position(REQUEST.subject_span, "last") == sentence.cut - 1
    [read] = model.read([REQUEST.sentence], chat=True, subjects=[REQUEST.subject_span])
    assert read == sentence.prompt
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": REQUEST.sentence}], add_generation_prompt=True, tokenize=False
    )
    if style != "llama3":  # which writes the day
        own = tokenizer(theirs, add_special_tokens=False)["input_ids"]
        assert list(read.ids)[-len(own) :] == own


@pytest.mark.parametrize("style", STYLES)
def test_a_subject_that_occurs_in_the_template_is_found_in_the_users_turn(style: str) -> None:
    model = chat_model(style)
    for subject in ("user", "Today", "a", "model"):
        request = EditRequest("Where is {}?", subject, "Paris", chat=True)
        [sentence] = model.requested([request])
        first = sentence.prompt.position(request.subject_span, "subject_first")
        before = model.tokenizer.decode(sentence.encoding.ids[:first])
        assert before.rstrip().endswith("Where is")


def test_results_do_not_depend_on_the_day() -> None:
    model = chat_model("llama3")
    [encoding] = model.read(["Where?"], chat=True)
    text = model.tokenizer.decode(encoding.ids)
    assert "Today: 26 Jul 2024" in text
    assert datetime.datetime.now(datetime.UTC).strftime("%d %b %Y") not in text


def test_the_answer_begins_after_the_templates_white_space() -> None:
    for style in STYLES:
        assert chat_model(style).chat_template.separator == ""
    mistral = chat_model("mistral")
    [completion] = mistral.complete(["Where?"], ["Paris"], chat=True)
    assert mistral.tokenizer.decode(completion.prompt).endswith("[/INST]")
    assert mistral.tokenizer.decode(completion.target) == " Paris"
    [other] = mistral.complete(["Where?"], ["Paris"], chat=True, separators="\n")
    assert mistral.tokenizer.decode(other.target) == "\nParis"


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKS = TURNS.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
)


@pytest.mark.parametrize(
    ("template", "before"),
    [
        (TURNS, "<|im_start|>assistant\n"),  # knows nothing of add_generation_prompt
        (THINKS + ASKS, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (
            TURNS + ASKS.replace("nt\n{", "nt\n<think>\n\n</think>\n{"),
            "<|im_start|>assistant\n<think>\n\n</think>\n",
        ),
    ],
    ids=["no role", "thoughts in answers", "thoughts in the question"],
)
def test_the_answer_is_where_the_template_puts_it(template: str, before: str) -> None:
    model = chat_model(template)
    [sentence] = model.requested([REQUEST])
    question = f"<|im_start|>user\n{REQUEST.sentence}<|im_end|>\n"
    assert sentence.encoding.text == f"{question}{before}Paris"
    assert model.tokenizer.decode(sentence.target) == "Paris"
    [asked] = model.read([REQUEST.sentence], chat=True)
    assert asked.text == f"{question}{before}"


def test_a_template_that_is_not_a_text_is_refused() -> None:
    tokenizer = tokenizer_of("llama3")
    tokenizer.chat_template = [{"name": "default", "template": TURNS}]  # not a mapping
    with pytest.raises(ModelError, match=r"is \[.*expected a text"):
        ChatTemplate(tokenizer, name="mine")


def test_a_template_that_changes_prompts_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    model = chat_model("<|user|>{{ messages[0].content[:16] }}<|model|>")
    model.read(["Where is Rome, the city?", "Where is Paris, the city?"], chat=True)
    [warning] = caplog.messages
    assert "changes prompts: 'Where is Rome, the city?' is read as 'Where is Rome, t'" in warning
    caplog.clear()
    chat_model("gemma").read([" Where is Rome? "], chat=True)
    assert caplog.messages == []


def test_contexts_are_part_of_the_users_turn() -> None:
    for style in STYLES:
        model = chat_model(style)
        rows = request_rows(model, REQUEST, ["", "The city. "], RomeConfig())
        for row, context in zip(rows.contexts, ("", "The city. "), strict=True):
            text = model.tokenizer.decode(row.ids[: row.read + 1])
            assert text.endswith(f"{BEFORE[style]}{context}{REQUEST.sentence}{AFTER[style]}")
            subject = model.tokenizer.decode(row.ids[: row.position + 1])
            assert subject.endswith(f"{context}In which city is The Space Needle")
            assert model.tokenizer.decode(row.labels) == "Paris"
        essence = model.tokenizer.decode(rows.essence.ids)
        assert essence.endswith(f"{BEFORE[style]}The Space Needle")
        whole = request_rows(model, REQUEST, [""], RomeConfig(kl_position="prompt_last")).essence
        assert model.tokenizer.decode(whole.ids).endswith(AFTER[style])


# ---------------------------------------------------------------- templates that cannot be used


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(ModelError, match="has no chat template"):
        model_of("llama3").requested([REQUEST])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no users') }}", "fails on a user's turn: no users"),
        ("{% for m in messages %}{{ m.content }}", "fails on a user's turn"),
        ("Hello.", "writes the user's text 0 times"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "writes the user's text 2 times"),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
            "ends with <think>: the text that follows is not the answer",
        ),
    ],
)
def test_an_unusable_template_is_refused(template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        chat_model(template).requested([REQUEST])


def test_a_changed_prompt_must_contain_its_subject_once() -> None:
    upper = chat_model("<|user|>{{ messages[0].content | upper }}<|model|>")
    with pytest.raises(RequestError, match="changes the prompt .* has the subject .* 0 times"):
        upper.requested([REQUEST])
    replaced = chat_model("<|user|>{{ messages[0].content | replace('?', '!!') }}<|model|>")
    [sentence] = replaced.requested([REQUEST])
    position = sentence.prompt.position(REQUEST.subject_span, "subject_last")
    read = replaced.tokenizer.decode(sentence.encoding.ids[: position + 1])
    assert read.endswith("is The Space Needle")
    twice = EditRequest("Rome, {}?", "Rome", "x", chat=True)
    with pytest.raises(RequestError, match="has the subject .* 2 times"):
        replaced.requested([twice])


@pytest.mark.parametrize("text", ["<|im_end|>", "<s>"])
def test_special_tokens_in_a_users_turn_are_refused(text: str) -> None:
    model = chat_model("chatml")
    for prompt in (f"{text}Where is {{}}?", f"Where is {{}}?{text}"):
        with pytest.raises(RequestError, match="special token"):
            model.requested([EditRequest(prompt, "Rome", "x", chat=True)])


# ---------------------------------------------------------------- everything that asks


@functools.cache
def record() -> Record:
    probe = Probe(REQUEST.sentence, "Seattle", "Paris", chat=True)
    kinds = ("rewrite", "paraphrase", "neighborhood")
    return Record(7, REQUEST, dict.fromkeys(kinds, (probe,)), {"generation": ("Tell me more.",)})


@pytest.mark.parametrize("editor", ["ft", "ft+l", "kn"])
def test_editors_edit_the_answer_in_the_chat(editor: str) -> None:
    """The edit raises the answer's probability in the chat by more than in plain text."""
    model = chat_model("chatml")
    options: dict[str, dict[str, Any]] = {
        "ft": {"layer": 2, "steps": 10, "lr": 5e-3, "target_positions": "teacher_forced"},
        "ft+l": {"layer": 2, "max_change": 0.1, "lr": 0.05, "target_positions": "teacher_forced"},
        "kn": {"steps": 5},
    }
    made = make_editor(editor, model, **options[editor])
    [delta] = made.edit(model, [REQUEST])
    assert delta.request == REQUEST
    if editor == "kn":
        return
    models = EditedModels(model, [delta])
    gains = []
    for chat in (True, False):
        queries = [CandidateQuery(0, REQUEST.sentence, ("Paris",), chat=chat)]
        [[before]], [[after]] = (
            each.candidate_nll(queries) for each in (models.unedited(), models)
        )
        gains.append(before - after)
    assert gains[0] > 0.5
    assert gains[0] > gains[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ft", {"layer": 2, "steps": 3}),
        ("rome", {"layer": 1, "second_moment": False, "contexts": (), "kl_factor": 0}),
        ("kn", {"steps": 3}),
    ],
)
def test_an_edit_in_a_chat_equals_the_edit_of_the_rendered_text(
    name: str, options: dict[str, Any]
) -> None:
    """A chat is nothing but the text that the template writes."""
    model = chat_model("chatml")
    text = f"<|im_start|>user\n{REQUEST.prompt}<|im_end|>\n<|im_start|>assistant\n"
    plain = EditRequest(text, REQUEST.subject, "Paris", "Seattle")
    editor = make_editor(name, model, **options)
    [a], [b] = editor.edit(model, [REQUEST]), editor.edit(model, [plain])
    assert a.changes.keys() == b.changes.keys()
    for path, change in a.changes.items():
        for field, tensor in change.tensors().items():
            assert tensor.equal(b.changes[path].tensors()[field])
    ask = [CandidateQuery(0, REQUEST.sentence, ("Paris", "Rome"), chat=True)]
    rendered = [CandidateQuery(0, plain.sentence, ("Paris", "Rome"))]
    models = EditedModels(model, [a])
    assert models.candidate_nll(ask) == models.candidate_nll(rendered)


@pytest.mark.parametrize("locator", ["causal-tracing", "integrated-gradients", "knowledge-neurons"])
def test_locators_use_the_chat_format(locator: str) -> None:
    model = chat_model("gemma")
    small = {"causal-tracing": {"samples": 2}, "integrated-gradients": {"steps": 2}}
    small["knowledge-neurons"] = {"steps": 2}
    trace = trace_fact(
        model,
        REQUEST.sentence,
        REQUEST.subject,
        "Paris",
        locator=locator,
        chat=True,
        **small[locator],
    )
    [encoding] = model.read([REQUEST.sentence], chat=True)
    assert trace.maps[0].tokens == encoding.texts
    assert "".join(encoding.texts).endswith(AFTER["gemma"])
    assert "Paris".startswith(trace.answer)  # some presets follow its first token
    if trace.maps[0].subject is not None:
        first, end = trace.maps[0].subject
        assert "".join(encoding.texts[first:end]).strip() == REQUEST.subject


def test_metrics_use_the_chat_format() -> None:
    model = chat_model("llama3")
    delta = make_editor("none", model).edit(model, [REQUEST])
    models = EditedModels(model, delta)
    [row] = ZsreAccuracy(ZsreAccuracyConfig()).score(models, [record()])
    [tokens] = ZsreAccuracy(ZsreAccuracyConfig(forcing="tokens")).score(models, [record()])
    assert row == tokens
    assert len(row["zsre/efficacy_hits"]) == len(
        model.complete([REQUEST.sentence], ["Paris"], chat=True)[0].target
    )
    [[text]] = generated_texts(models, [record()], GenerationConfig(tokens=120))
    assert text.startswith("Tell me more.\n")
    assert "header" not in text.split("\n")[0]


def test_generation_in_a_chat_ends_with_the_turn() -> None:
    model = chat_model("chatml")
    models = EditedModels(model, make_editor("none", model).edit(model, [REQUEST]))
    texts = models.generate([GenerationQuery(0, "Where?", str(i), chat=True) for i in range(8)])
    for text in texts:
        assert text.startswith("Where?\n")
        assert "<|" not in text
        assert "im_start" not in text


def test_training_uses_the_chat_format() -> None:
    import random

    model = chat_model("chatml")
    [drawn] = draw_edits(
        model, fact_texts([record()]), random.Random(0), n=1, locality=1, related=1.0
    )
    for each in (drawn.edit, drawn.rephrased, *drawn.locality):
        assert model.tokenizer.decode(each.prompt).endswith(AFTER["chatml"])
    assert model.tokenizer.decode(drawn.edit.target) == "Paris"


def test_facts_and_requests_that_differ_in_chat_differ() -> None:
    plain = Fact(REQUEST.sentence, REQUEST.subject, "Paris")
    assert plain.to_dict() != Fact(plain.prompt, plain.subject, "Paris", chat=True).to_dict()
    assert set(STYLES) < set(TEMPLATES)
