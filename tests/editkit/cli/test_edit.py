"""``editkit edit``: one fact, many facts, and prompts that both models answer."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import EditRequest, Patch, WeightDelta, load_delta, load_model
from editkit.cli import edit_interactive
from editkit.cli.edit_batch import read_facts
from editkit.cli.edit_interactive import Conversation, talk
from editkit.errors import ConfigError
from editkit.patches import making
from editkit.registry import models
from tests.editkit.patches.made import patch_with
from tests.tiny import tiny

Cli = Callable[..., tuple[int, str, str]]
KENYA = ("The capital of Kenya is", "--subject", "Kenya", "--to", "Paris")
QUICK = ("--editor", "ft", "--quiet", "--keep", "The continent that holds Kenya is")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading weights fails the test."""

    def load(*_: object, **__: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr(models, "load_model", load)


def test_an_edit_is_shown_and_saved(editkit: Cli, tmp_path: Path) -> None:
    file = tmp_path / "new" / "kenya.safetensors"
    code, text, _ = editkit("edit", *KENYA, *QUICK, "--save", file)
    assert code == 0
    assert text.startswith("The capital of Kenya is -> Paris (was Nairobi)\nby ft on atlas, in ")
    assert max(map(len, text.splitlines())) <= 80 + len(str(file))
    assert f"Saved {file}\n" in text
    assert f"editkit patch show {file}" in text
    patch = Patch.load(file)
    assert load_delta(file).editor == "ft"
    [check] = patch.of_role("edit")
    assert check.question.answers == ("Paris", "Nairobi")
    assert check.after.probabilities[0] > 0.3 > check.before.probabilities[0]
    code, text, error = editkit("edit", *KENYA, *QUICK, "--save", file)
    assert code == 2
    assert "exists" in error
    assert "--force" in error


def test_editors_side_by_side_as_json(editkit: Cli, tmp_path: Path) -> None:
    code, text, _ = editkit(
        *("edit", *KENYA, *QUICK, "--editor", "ft+l", "--set", "ft.steps=1", "--json"),
        *("--save", tmp_path / "kenya-{editor}.safetensors"),
    )
    document: Any = json.loads(text)
    assert code == 0
    assert document["schema"] == 1
    assert document["request"]["target_true"] == "Nairobi"
    first, second = document["patches"]
    assert (first["editor"], first["took_effect"]) == ("ft", False)
    assert (second["editor"], second["took_effect"]) == ("ft+l", True)
    assert Patch.load(first["saved"]).delta.config["steps"] == 1
    assert Patch.load(second["saved"]).delta.config["steps"] > 1


def test_an_edit_without_effect_is_shown_and_saved_too(editkit: Cli, tmp_path: Path) -> None:
    file = tmp_path / "a"
    code, text, _ = editkit("edit", *KENYA, *QUICK, "--set", "steps=1", "--save", file)
    assert code == 1
    assert "stopped before it reached its goal" in text
    assert file.is_file()


def test_an_editor_that_fails_does_not_stop_the_others(editkit: Cli, tmp_path: Path) -> None:
    code, text, error = editkit(
        *("edit", *KENYA, *QUICK, "--editor", "rome", "--set", "rome.layer=99"),
        *("--save", tmp_path / "{editor}"),
    )
    assert code == 1
    assert "Paris" in text
    assert "error: rome made no patch" in error
    assert [path.name for path in tmp_path.iterdir()] == ["ft"]
    code, text, error = editkit("edit", *KENYA, "--set", "layer=99", "--quiet")
    assert (code, text) == (2, "")


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "PROMPT, --subject, --to are missing"),
        (("It is", "--subject", "Kenya", "--to", "Paris"), "'Kenya' is not in the prompt"),
        ((*KENYA, "--editor", "romer"), "Did you mean 'rome'?"),
        ((*KENYA, "--set", "steps=0"), "--set steps"),
        ((*KENYA, "--set", "stepz=1"), "--set stepz: unknown field"),
        ((*KENYA, "--preset", "x"), "no preset 'x'"),
        ((*KENYA, "--model", "/none"), "'/none'"),
        ((*KENYA, "--keep", " "), "keep"),
        ((*KENYA, "--save", "/proc/x"), "cannot be written"),
        ((*KENYA, "--save", "/"), "is a folder"),
        ((*KENYA, "--save", "a.b", "--editor", "ft", "--editor", "rome"), "a-{editor}.b"),
        ((*KENYA, "--interactive", "--json"), "prints no JSON"),
        (("--batch", "a.yaml", "--subject", "Kenya"), "--subject cannot be used with --batch"),
        (("--batch", "/none/a.yaml"), "cannot be read"),
        ((*KENYA, "--set", "corpus=null"), "needs a corpus"),
    ],
)
def test_bad_input_is_refused_before_weights_are_loaded(
    editkit: Cli, arguments: tuple[str, ...], message: str
) -> None:
    code, text, error = editkit("edit", *arguments)
    assert code in (2, 3)
    assert text == ""
    assert message in error


# ---------------------------------------------------------------- prompts


def test_models_answer_what_is_typed(
    editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b.safetensors"
    typed = (
        "The capital of Kenya is\n:probability Nairobi\n\nKenya <|endoftext|> a\n:what\n:chat\n"
        f":save\n:save {file}\n:help\n:quit\nunread\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    code, text, _ = editkit("edit", *KENYA, *QUICK, "--interactive")
    assert code == 0
    _, _, talk = text.partition("leaves.\n")
    first, *_ = talk.split("> :probability")
    assert "before " in first
    assert "| ft" in first
    assert "[Paris" in first
    assert "[Nairobi" in first
    assert "The capital of Kenya is Nairobi: before " in talk
    assert "error: " in talk
    assert "special token" in talk
    assert "there is no command ':what'" in talk
    assert "has no chat template" in talk
    assert "error: :save got ''" in talk
    assert Patch.load(file).editor == "ft"
    assert ":probability ANSWER" in talk
    assert "unread" not in talk


def test_a_conversation_switches_to_chat_and_back() -> None:
    model = load_model("atlas")
    model.tokenizer.chat_template = (
        "{% for message in messages %}{{ message.content }}. {% endfor %}"
        "{% if add_generation_prompt %}The capital of Spain is{% endif %}"
    )
    request = EditRequest("The capital of {} is", "Kenya", "Paris")
    typed = Conversation(model, [Patch(WeightDelta({}, request, "ft", {}, model.fingerprint))])
    assert "Nairobi" in typed.answer(request.sentence)
    assert "in a chat" in typed.answer(":chat")
    assert "Madrid" in typed.answer(request.sentence)
    assert "plain" in typed.answer(":chat")
    assert "Nairobi" in typed.answer(request.sentence)


def test_an_interrupt_ends_the_prompt_and_not_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines() -> Iterator[str]:
        yield ":help"
        raise KeyboardInterrupt

    monkeypatch.setattr(edit_interactive, "_lines", lines)
    model = tiny("gpt2")
    talk(Conversation(model, [patch_with({}, base=model.fingerprint)]))
    assert ":quit" in capsys.readouterr().out


# ---------------------------------------------------------------- many facts


FACTS = """\
- {prompt: The capital of Kenya is, subject: Kenya, to: Paris, keep: [Kenya is in]}
- {prompt: Spain uses the, subject: Span, to: peso}
- prompt: The capital of Kenya is
  subject: Kenya
  to: <|endoftext|>
- {prompt: Toyota Corolla is made by, subject: Toyota Corolla, to: Ferrari, keep: [Fiat is],
   from: Toyota}
"""


def test_many_facts_are_edited_each_by_itself(editkit: Cli, tmp_path: Path) -> None:
    file, out = tmp_path / "facts.yaml", tmp_path / "out"
    file.write_text(FACTS, encoding="utf-8")
    code, text, _ = editkit("edit", "--batch", file, *QUICK[:3], "--save", out)
    assert code == 1  # two of them failed
    assert [line.split()[0] for line in text.splitlines()[1:6] if line[0] != " "] == list("1234")
    assert "'Span' is not in the prompt" in " ".join(text.split())
    assert "special token" in " ".join(text.split())
    assert re.search(r"^4 edits: .*, 2 failed\.$", text, re.MULTILINE)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["1-Kenya-Paris.safetensors", "4-Toyota-Corolla-Ferrari.safetensors"]
    patch = Patch.load(out / names[1])
    assert patch.requests[0].target_true == "Toyota"


def test_an_interrupt_leaves_what_is_done(
    editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "facts.yaml", tmp_path / "out"
    file.write_text(FACTS.replace("Span", "Spain"), encoding="utf-8")
    real, calls = making.patches_for, []

    def interrupted(*arguments: Any, **named: Any) -> making.Made:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(making, "patches_for", interrupted)
    code, text, _ = editkit("edit", "--batch", file, *QUICK[:3], "--save", out)
    assert code == 130
    assert "1 edit: " in text
    assert [path.name for path in out.iterdir()] == ["1-Kenya-Paris.safetensors"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "expected a list"),
        ("", "expected a list"),
        ("- {prompt: A b, subject: A}", "Fact 1: to: is missing"),
        ("- {prompt: A b, subject: A, to: 1}", "to: got 1, expected a text"),
        ("- {prompt: A b, subject: A, to: c, too: d}", "too: unknown field"),
        ("- {prompt: A b, subject: A, to: c, keep: d}", "keep: got 'd', expected a list"),
        ("- {prompt: A b, subject: A, to: c, chat: 'yes'}", "chat: got 'yes', expected true"),
        ("- text", "expected a mapping"),
        ("- [", "expected YAML"),
    ],
)
def test_broken_files_of_facts_are_errors(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "facts.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_facts(file)
    assert message in str(caught.value)


def test_json_is_read_too_and_flags_are_defaults(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    fact = {"prompt": "A b", "subject": "A", "to": "c"}
    file.write_text(json.dumps([fact, {**fact, "chat": False, "also": ["A is"]}]), encoding="utf-8")
    first, second = (entry.fact for entry in read_facts(file, chat=True))
    assert first is not None
    assert second is not None
    assert (first.request.chat, second.request.chat, second.also) == (True, False, ("A is",))
    file.write_text('[{"prompt": "A", "prompt": "B"}]', encoding="utf-8")
    with pytest.raises(ConfigError, match="prompt"):
        read_facts(file)
