"""Prompts as turns of a chat: the tokenizer's chat template, and the prompt's place in it."""

from __future__ import annotations

import datetime
import json
import logging
import re
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from editkit.errors import ModelError, RequestError, first_line

__all__ = ["ChatTemplate", "Rendered"]

_USER, _ANSWER = "7309517340925173", "8204628162046281"  # digits: no template changes them
_DAY = datetime.datetime(2024, 7, 26)  # for templates that write today's date into the prompt
_FORMATS = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1""")


_log = logging.getLogger(__name__)


class Rendered(NamedTuple):
    """A prompt as the model reads it.

    Attributes:
        text: The whole text.
        start: Offset of the prompt: its character ``i`` is at ``start + i``. If the template strips
            white space from the prompt's beginning, this is less than where the text of the prompt
            begins.
    """

    text: str
    start: int


class ChatTemplate:
    """The chat template of a tokenizer, for one user's turn.

    Attributes:
        separator: White space that the template puts before an answer; empty for most templates.
        after_answer: What it writes after an answer, such as the token that ends a turn; empty if
            it has no turns of assistants.

    Args:
        tokenizer: The tokenizer.
        name: The model, for messages.

    Raises:
        ModelError: The tokenizer has no usable chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, name: str) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {name} has no chat template, so a prompt cannot be a turn of a "
                "chat.",
                hint="Use an instruction-tuned model, or leave chat out.",
            )
        self._tokenizer, self._name = tokenizer, name
        self._template = _on_a_fixed_day(self._chosen())
        framed = self._written([{"role": "user", "content": _USER}])
        if framed.count(_USER) != 1:
            raise ModelError(
                f"the chat template of {name} writes the user's text {framed.count(_USER)} times, "
                "expected once.",
                hint="Check chat_template.jinja, or chat_template in tokenizer_config.json.",
            )
        self._head, _, self._tail = framed.partition(_USER)
        self._more, self.separator, self.after_answer = self._around_answer(framed)
        self._warned = False

    def _around_answer(self, asked: str) -> tuple[str, str, str]:
        """Text and white space that the template puts before an answer, and what it puts after it.

        The answer begins where the template itself puts one. Before an answer, some templates write
        more than they do when they prompt for one: a role, or an empty section of thoughts.

        Args:
            asked: A user's turn with the prompt for an answer.

        Raises:
            ModelError: The template asks the model to think first and never places an answer.
        """
        turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
        try:
            before, answer, after = self._written(turns, ask=False).partition(_ANSWER)
        except ModelError:  # a template without assistant turns
            before, answer, after = "", "", ""
        if answer and before.startswith(asked):
            between = before.removeprefix(asked)
            return (between, "", after) if between.strip() else ("", between, after)
        if self._tail.count("<think>") > self._tail.count("</think>"):
            raise ModelError(
                f"the chat template of {self._name} ends with <think>: the text that follows is "
                "not the answer.",
                hint="Give the tokenizer a chat template that prompts for the answer itself, for "
                "example one that ends with '<think>\\n\\n</think>\\n\\n'.",
            )
        return "", "", after

    def render(self, prompt: str, subject: tuple[int, int] | None = None) -> Rendered:
        """A prompt as a user's turn, up to where the answer begins.

        Args:
            prompt: The user's text.
            subject: Half-open character span of its subject.

        Raises:
            ModelError: The template fails.
            RequestError: The template changes the prompt, and the result does not contain the
                subject exactly once.
        """
        text = self._written([{"role": "user", "content": prompt}]) + self._more
        start, tail = len(self._head), f"{self._tail}{self._more}"
        for content in (prompt, prompt.strip(), prompt.rstrip(), prompt.lstrip()):
            if text == f"{self._head}{content}{tail}":
                dropped = prompt.index(content)
                if subject is None or (
                    dropped <= subject[0] and subject[1] <= dropped + len(content)
                ):
                    return Rendered(text, start - dropped)
        inside = text
        if text.startswith(self._head) and text.endswith(tail):
            inside = text[start : len(text) - len(tail)]
        if not self._warned:
            self._warned = True
            _log.warning(
                "the chat template of %s changes prompts: %.60r is read as %.60r",
                self._name,
                prompt,
                inside,
            )
        if subject is None:
            return Rendered(text, start)
        name = prompt[slice(*subject)]
        if inside.count(name) != 1:
            raise RequestError(
                f"the chat template of {self._name} changes the prompt {prompt!r:.60}, and the "
                f"result has the subject {name!r} {inside.count(name)} times, expected once.",
                hint="Write the prompt as the template changes it.",
            )
        return Rendered(text, text.index(inside) + inside.index(name) - subject[0])

    def _chosen(self) -> str:
        try:
            template: object = self._tokenizer.get_chat_template()
        except ValueError as error:  # several templates without a default
            raise ModelError(
                f"the tokenizer of {self._name} has no default chat template: {error}",
                hint="Name one of its templates 'default'.",
            ) from error
        if not isinstance(template, str):
            raise ModelError(
                f"the chat template of {self._name} is {template!r:.60}, expected a text.",
                hint="Set tokenizer.chat_template to a text, or to a mapping of names to texts.",
            )
        return template

    def _written(self, turns: list[dict[str, str]], *, ask: bool = True) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=ask,
                )
            )
        except Exception as error:  # templates can raise anything
            raise ModelError(
                f"the chat template of {self._name} fails on a user's turn: {first_line(error)}",
                hint="Check chat_template.jinja, or chat_template in tokenizer_config.json.",
            ) from error


def _on_a_fixed_day(template: str) -> str:
    """The template with a fixed date, so that results do not depend on the day of the run."""
    formats = {match[2] for match in _FORMATS.finditer(template)}
    if "strftime_now" not in template:
        return template
    days = json.dumps({each: _DAY.strftime(each) for each in formats})
    other = json.dumps(_DAY.strftime("%d %b %Y"))
    macro = f"{{{{- {days}.get(format, {other}) -}}}}"
    return f"{{%- macro strftime_now(format) -%}}{macro}{{%- endmacro %}}{template}"
