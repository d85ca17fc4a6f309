"""A model behind an endpoint with OpenAI's interface, as a judge.

As in "The mirage of model editing" (Yang et al. 2025, arXiv 2502.11177), the model sees the
question, the right answer and the text, at temperature 0, and replies A or B. The wording of
the prompt is ours. Nothing is asked unless the user gives an address.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Sequence

from typing_extensions import override

from editkit import Attempt, Judge, JudgeError, Verdict, counting
from editkit_plugins.judge.config import OpenAiConfig
from editkit_plugins.judge.endpoint import Endpoint, RefusedError

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_LETTER = re.compile(
    r"[^\w\n]*([AB])(?:[^\w\n]*|[*\"')\]]*[.:)](?![^\n]*\b[AB]\b)[^\n]*)(?:\n.*)?", re.DOTALL
)
"""A letter alone on the first line, or before a full stop, colon or bracket: ``A. Right``."""
_PLACE = re.compile(r"\[(question|answers|text)\]")


class OpenAiJudge(Judge[OpenAiConfig]):
    """1 for A at the beginning of the reply, 0 for B; any other reply is no verdict."""

    def __init__(self, config: OpenAiConfig) -> None:
        super().__init__(config)
        self._endpoint = Endpoint(config)
        self._has_answered = False

    @override
    def prepare(self) -> None:
        """Check that the key is there, if one is named."""
        self._endpoint.key()

    def judge(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """One verdict per attempt, from several requests at the same time.

        Raises:
            ConfigError: The environment variable with the key is not set.
            JudgeError: The endpoint is unreachable, refuses everything, or never gave a reply that
                can be read.
        """
        prompts = [filled(self.config.prompt, attempt) for attempt in attempts]
        replies = self._ask(prompts)
        refused = [reply for reply in replies if isinstance(reply, RefusedError)]
        self._has_answered |= len(refused) < len(replies)
        if refused and not self._has_answered:
            raise JudgeError(
                f"the judge at {self._endpoint.address} cannot be used: {refused[0]}.",
                hint="Check url and model: no request has worked so far.",
            )
        return [self._verdict(*each) for each in zip(prompts, replies, strict=True)]

    def _verdict(self, prompt: str, reply: str | RefusedError) -> Verdict:
        if isinstance(reply, RefusedError):
            return Verdict(None, sent=prompt, problem=str(reply))
        reply = self._endpoint.without_key(reply)
        letter = _LETTER.fullmatch(_THOUGHTS.sub("", reply).strip().strip("_"))
        if letter is None:
            problem = f"the reply is {reply!r:.80}, expected A or B"
            return Verdict(None, prompt, reply, problem)
        return Verdict(float(letter[1] == "A"), prompt, reply)

    def _ask(self, prompts: Sequence[str]) -> list[str | RefusedError]:
        """The reply to each prompt. The first error of the endpoint ends all requests.

        The threads are daemons, so that Ctrl-C does not wait for a reply.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, str | Exception]] = queue.SimpleQueue()
        for number in range(len(prompts)):
            waiting.put(number)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((number, self._endpoint.reply_to(prompts[number], stop)))
                except Exception as error:  # raised in the thread that waits
                    done.put((number, error))

        for _ in range(min(self.config.parallel, len(prompts))):
            threading.Thread(target=work, daemon=True, name="editkit-judge").start()
        replies: dict[int, str | RefusedError] = {}
        try:
            with counting("judging", len(prompts), unit="text") as advance:
                while len(replies) < len(prompts):
                    number, reply = done.get()
                    if isinstance(reply, Exception) and not isinstance(reply, RefusedError):
                        raise reply
                    replies[number] = reply
                    advance()
        finally:
            stop.set()
        return [replies[number] for number in range(len(prompts))]


def filled(prompt: str, attempt: Attempt) -> str:
    """The prompt about one attempt. Answers are one per line, with their other spellings."""
    answers = attempt.question.answers
    lines = [
        first + (f" (or: {', '.join(others)})" if others else "") for first, *others in answers
    ]
    if len(lines) > 1:
        lines = [f"- {line}" for line in lines]
    values = {
        "question": attempt.question.prompt,
        "answers": "\n".join(lines),
        "text": attempt.text,
    }
    return _PLACE.sub(lambda place: values[place[1]], prompt)
