"""The harness's model of transformers, around a model that is edited at the moment."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editkit import DeltaError, counting
from editkit.editing.next_tokens import MOST_NATS
from editkit.progress import Counter

__all__ = ["EditedLM"]


class EditedLM(HFLM):
    """``HFLM`` with progress, and with the texts that an edit puts before prompts.

    Args:
        hf: The model, with its edit applied.
        tokenizer: A tokenizer of its own: the harness gives it a padding token.
        batch_size: Number of requests in a forward pass.
        read_as: A prompt as the edited model reads it; None: as it is.
        chat: Whether requests are turns of a chat.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        read_as: Callable[[str], str] | None,
        chat: bool,
    ) -> None:
        super().__init__(pretrained=hf, tokenizer=tokenizer, batch_size=batch_size)
        self._read_as, self._chat = read_as, chat

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the edited model reads it: the edit's texts begin the user's last turn."""
        if self._read_as is not None:
            last = max(i for i, turn in enumerate(chat_history) if turn["role"] == "user")
            turn = chat_history[last]
            read = {**turn, "content": self._read_as(turn["content"])}
            chat_history = [*chat_history[:last], read, *chat_history[last + 1 :]]
        text: str = super().apply_chat_template(chat_history, add_generation_prompt)
        return text

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, in nats, and whether greedy decoding writes it."""
        with self._counting("lm-eval: continuations", requests):
            answers: list[tuple[float, bool]] = super().loglikelihood(self._as_read(requests))
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each prompt."""
        with self._counting("lm-eval: texts", requests):
            texts: list[str] = super().generate_until(self._as_read(requests))
        return texts

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, in nats.

        Raises:
            DeltaError: The edit puts texts before prompts, and these texts have none.
        """
        if self._read_as is not None:
            raise DeltaError(
                f"the task {requests[0].task_name!r} scores whole texts without a prompt, so there "
                "is no place for the texts that the edit puts before prompts.",
                hint="Leave out tasks of the type loglikelihood_rolling for this editor; the "
                "metric perplexity scores texts after them.",
            )
        with self._counting("lm-eval: whole texts", requests):
            answers: list[float] = super().loglikelihood_rolling(requests)
        return answers

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if self._read_as is not None:
            for _, context, continuation in requests:
                self._check_length(len(context) + len(continuation), self.max_length + 1)
        answers = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        sizes = [len(continuation) for _, _, continuation in requests]
        return [
            (_bounded(nats, size), greedy)
            for (nats, greedy), size in zip(answers, sizes, strict=True)
        ]

    def tok_batch_encode(
        self, strings: list[str], *arguments: Any, **options: Any
    ) -> tuple[Any, Any]:
        """Prompts as tokens and mask, (N, T) both."""
        most = options.get("left_truncate_len")
        if self._read_as is not None and most:
            for text in strings:
                self._check_length(len(self.tok_encode(text)), most)
        tokens: tuple[Any, Any] = super().tok_batch_encode(strings, *arguments, **options)
        return tokens

    def _as_read(self, requests: list[Instance]) -> list[Instance]:
        """Requests after the edit's texts; those of a chat have them already."""
        if self._read_as is None or self._chat:
            return requests
        return [
            dataclasses.replace(each, arguments=(self._read_as(each.args[0]), *each.args[1:]))
            for each in requests
        ]

    def _check_length(self, size: int, most: int) -> None:
        """Refuse what the harness would truncate at its start, where the edit's texts are."""
        if size > most:
            raise DeltaError(
                f"a request of {size} tokens, with the texts that the edit puts before it, is "
                f"longer than {most} tokens, which is what the model can read.",
                hint="Let the edit select fewer texts (`select` of the editor in-context), or use "
                "fewer solved examples (num_fewshot).",
            )

    @contextlib.contextmanager
    def _counting(self, what: str, requests: list[Instance]) -> Iterator[None]:
        with counting(what, len(requests), unit="request") as advance:
            self.set_cache_hook(_Advancing(advance))
            yield


class _Advancing(CacheHook):
    """Is called by the harness after each request."""

    def __init__(self, advance: Counter) -> None:
        super().__init__(None)
        self._advance = advance

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self._advance()


def _bounded(nats: float, tokens: int) -> float:
    """A log-likelihood; minus infinity in a model whose weights overflowed.

    The harness takes exponentials of what is finite, which would overflow.
    """
    return nats if nats >= -MOST_NATS * tokens else -math.inf  # also for NaN
