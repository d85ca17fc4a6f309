"""The prompt of ``editkit edit --interactive``: the unedited and the edited models answer."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from editkit.cli.arguments import path as path_of
from editkit.cli.edit_inputs import check_writable, patch_paths
from editkit.editing.deltas import WeightDelta
from editkit.editing.edited_models import EditedModels
from editkit.editing.greedy import greedy_continuations
from editkit.editing.queries import GenerationQuery
from editkit.errors import EditkitError, UsageError, did_you_mean
from editkit.patches.asking import ask_all
from editkit.patches.content import Question
from editkit.patches.numerals import percent
from editkit.safe_text import one_line
from editkit.terminal import columns, rendered

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from editkit.models.language_model import LanguageModel
    from editkit.patches.patch import Patch

__all__ = ["Conversation", "talk"]

_WELCOME = "Type a prompt; every model continues it. :help lists the commands, :quit leaves."
_HELP = """\
PROMPT                every model continues it; in a chat, answers it
:chat                 prompts become a user's turns in a chat; again: plain texts
:probability ANSWER   how likely each model finds this answer to the last prompt
:save FILE            write the patch; with several editors, {editor} in its name
:help                 print this
:quit                 leave; so do Ctrl-D and Ctrl-C"""
_SIGN = "> "
_NEW_TOKENS = 40
_NARROWEST = 24  # characters of a column; narrower ones are hard to read
_WORDS = re.compile(r"\S+")
_DIFFERS = "bold yellow"


def talk(conversation: Conversation) -> None:
    """Answer what is typed, or piped, until it ends."""
    _print(_WELCOME)
    with contextlib.suppress(KeyboardInterrupt):
        for line in _lines():
            if line.strip() == ":quit":
                break
            try:
                _print(conversation.answer(line))
            except EditkitError as error:
                _print(f"error: {one_line(str(error))}")
    if sys.stdin.isatty():
        _print("")


def _lines() -> Iterator[str]:
    """The lines of standard input; a terminal's are edited as in a shell."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # input() uses it
        while True:
            try:
                yield input(_SIGN)
            except EOFError:
                return
    for line in sys.stdin:
        _print(_SIGN + one_line(line.rstrip("\r\n")))
        yield line.rstrip("\r\n")


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


class Conversation:
    """What the commands of the prompt need to know.

    Args:
        model: The unedited model.
        patches: The edits, by different editors.
        chat: Whether prompts are a user's turns in a chat.
        width: Characters per line.
        terminal: Whether to colour what differs; otherwise it is put in brackets.
        force: Whether to replace existing files.
    """

    def __init__(
        self,
        model: LanguageModel,
        patches: Sequence[Patch],
        *,
        chat: bool = False,
        width: int = 80,
        terminal: bool = False,
        force: bool = False,
    ) -> None:
        self._patches = list(patches)
        none = WeightDelta({}, None, "none", {}, model.fingerprint)
        self._models = EditedModels(model, [none, *(each.delta for each in patches)])
        self._labels = ["before", *(each.editor for each in patches)]
        self._chat, self._width, self._terminal, self._force = chat, width, terminal, force
        self._last = patches[0].requests[0].sentence

    def answer(self, line: str) -> str:
        """What to print about a line.

        Raises:
            EditkitError: The line is not a prompt that the models can read, or not a command.
        """
        command, _, rest = line.strip().partition(" ")
        if not command:
            return ""
        if not command.startswith(":"):
            return self._continue(line)
        if command == ":help":
            return _HELP
        if command == ":chat":
            return self._switch_chat()
        if command == ":save":
            return self._save(rest.strip())
        if command in (":probability", ":p"):
            return self._probability(rest.strip())
        known = [":chat", ":help", ":probability", ":quit", ":save"]
        raise UsageError(
            f"there is no command {command!r}.",
            hint=did_you_mean(command, known) or f"Known: {', '.join(known)}.",
        )

    def _switch_chat(self) -> str:
        if not self._chat:
            _ = self._models.model.chat_template  # raises if the model has none
        self._chat = not self._chat
        return "Prompts are now " + ("a user's turns in a chat." if self._chat else "plain texts.")

    def _continue(self, prompt: str) -> str:
        queries = [
            GenerationQuery(edit, prompt, chat=self._chat) for edit in range(len(self._labels))
        ]
        answers = greedy_continuations(self._models, queries, new_tokens=_NEW_TOKENS)
        self._last = prompt
        before, *after = (one_line(" ".join(each.text.split())) for each in answers)
        shown = [self._marked(text, before) for text in after]
        first = self._marked(before, after[0] if len(after) == 1 else before)
        return rendered(*self._layout([first, *shown]), terminal=self._terminal, width=self._width)

    def _layout(self, texts: Sequence[Text]) -> Iterator[RenderableType]:
        from rich.padding import Padding
        from rich.text import Text

        if (self._width - 3 * (len(texts) - 1)) // len(texts) >= _NARROWEST:
            yield columns(self._labels, [texts])
            return
        for label, text in zip(self._labels, texts, strict=True):
            yield Text(one_line(label), "bold")
            yield Padding(text, (0, 0, 0, 2))

    def _marked(self, text: str, other: str) -> Text:
        """A text with the words that another does not have at that place marked."""
        from rich.text import Text

        own, others = _WORDS.findall(text), _WORDS.findall(other)
        marked = Text()
        matcher = difflib.SequenceMatcher(a=others, b=own, autojunk=False)
        for tag, _, _, start, end in matcher.get_opcodes():
            if start == end:
                continue
            words = " ".join(own[start:end])
            if marked:
                marked.append(" ")
            if tag == "equal":
                marked.append(words)
            else:
                marked.append(words if self._terminal else f"[{words}]", _DIFFERS)
        return marked

    def _probability(self, answer: str) -> str:
        if not answer:
            raise UsageError(
                ":probability needs an answer.",
                hint=f"For example :probability {self._patches[0].requests[0].target_new}",
            )
        question = Question("free", self._last, (answer,), chat=self._chat)
        given = [answers[0].probabilities[0] for answers in ask_all(self._models, [question])]
        shown = [
            f"{one_line(label)} {percent(probability)}"
            for label, probability in zip(self._labels, given, strict=True)
        ]
        return one_line(f"{self._last} {answer}: ") + ", ".join(shown)

    def _save(self, name: str) -> str:
        try:
            paths = patch_paths(path_of(name), self._labels[1:])
        except ArgumentTypeError as error:
            raise UsageError(f":save {error}.", hint="For example :save my.safetensors") from None
        check_writable(paths.values(), force=self._force)
        for patch in self._patches:
            patch.save(paths[patch.editor])
        return "\n".join(f"Saved {path}" for path in paths.values())
