"""How edited models read prompts and texts: after the texts that their edits put before them.

The whole is encoded as one text, so the model reads what a user would write. Whatever is added is
never cut off: a text that is then too long for the model is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from editkit.editing.prompt_context import PromptContext
from editkit.editing.queries import CandidateQuery, GenerationQuery, TextQuery
from editkit.errors import DeltaError
from editkit.models.encoding import Completion, Encoding
from editkit.models.language_model import LanguageModel
from editkit.prompts import default_separator

__all__ = ["EditedPrompts", "ReadPrompt", "ScoredText"]


class ScoredText(NamedTuple):
    """A text as tokens; those from number ``first`` are scored."""

    edit: int
    ids: tuple[int, ...]
    first: int


class ReadPrompt(NamedTuple):
    """A prompt to continue, as tokens, and the same prompt without what its edit puts before it."""

    ids: tuple[int, ...]
    alone: tuple[int, ...]

    @property
    def before(self) -> int:
        """How many tokens the edit puts before the prompt."""
        return max(0, len(self.ids) - len(self.alone))


class EditedPrompts:
    """Reads prompts as edited models do.

    Args:
        model: The model.
        contexts: The context of each edited model; None if it has none.
    """

    def __init__(self, model: LanguageModel, contexts: Sequence[PromptContext | None]) -> None:
        self._model, self._contexts = model, contexts

    def read_as(self, edit: int, prompt: str) -> str:
        """A prompt, or another text, with what the edit puts before it.

        Raises:
            RequestError: The edit's texts contain a special token.
        """
        context = self._contexts[edit]
        if context is None:
            return prompt
        before = context.before(prompt)
        self._model.special.check(before, "the context of prompts")
        return f"{before}{prompt}"

    def check_length(self, edit: int, encoding: Encoding, prompt: str) -> None:
        """Refuse a text that is too long.

        Args:
            edit: Number of the edited model.
            encoding: All that the model reads.
            prompt: The text without what the edit puts before it.

        Raises:
            DeltaError: It is longer than the model's context, and the edit puts texts before it.
            ModelError: It is longer than the model's context.
        """
        context, most = self._contexts[edit], self._model.context_length
        if context is None:
            self._model.check_length(encoding)
        elif len(encoding) > most:
            n = len(context.chosen(prompt))
            raise DeltaError(
                f"a text of {len(encoding)} tokens, with the {n} text{'s' if n > 1 else ''} that "
                f"the edit puts before it, does not fit into the context of {most} tokens of "
                f"{self._model.name}: {prompt!r:.60}.",
                hint="Let the edit select fewer texts (`most` of PromptContext, `select` of the "
                "editor in-context), or shorten them.",
            )

    def completions(self, asked: Sequence[tuple[CandidateQuery, int]]) -> list[Completion]:
        """The tokens of prompts, each with the candidate of that number.

        Raises:
            DeltaError: As for :meth:`check_length`. Prompts without a context are cropped instead.
        """
        plain = [row for row in asked if self._contexts[row[0].edit] is None]
        cropped = iter(
            self._model.complete(
                [query.prompt for query, _ in plain],
                [query.candidates[place] for query, place in plain],
                separators=[query.separator for query, _ in plain],
                chat=[query.chat for query, _ in plain],
                crop=True,
            )
        )
        return [
            next(cropped) if self._contexts[query.edit] is None else self._completion(query, place)
            for query, place in asked
        ]

    def _completion(self, query: CandidateQuery, place: int) -> Completion:
        candidate, separator = query.candidates[place], query.separator
        if separator is None and not query.chat:  # what is before the prompt does not matter
            separator = default_separator(query.prompt, candidate)
        [sentence] = self._model.sentences(
            [self.read_as(query.edit, query.prompt)],
            [candidate],
            separators=separator,
            chat=query.chat,
        )
        self.check_length(query.edit, sentence.encoding, query.prompt)
        return sentence.completion

    def text(self, query: TextQuery, max_tokens: int | None) -> ScoredText:
        """A text to score from its second token on; a start token counts as the first.

        Args:
            query: The query.
            max_tokens: Truncate the text to this many tokens.

        Raises:
            DeltaError, ModelError: As for :meth:`check_length`.
        """
        [encoding] = self._model.encode([query.text])
        first = 1
        if self._contexts[query.edit] is not None:
            has_start_token = encoding.offsets[0][0] == encoding.offsets[0][1]
            whole = self.read_as(query.edit, query.text)
            [encoding] = self._model.encode([whole])
            begin = len(whole) - len(query.text)
            own = next(i for i, (_, end) in enumerate(encoding.offsets) if end > begin)
            first = own if has_start_token else own + 1
        encoding = encoding.first(None if max_tokens is None else max_tokens + first - 1)
        self.check_length(query.edit, encoding, query.text)
        return ScoredText(query.edit, encoding.ids, first)

    def generation(self, query: GenerationQuery) -> ReadPrompt:
        """A prompt to continue.

        Raises:
            DeltaError, ModelError: As for :meth:`check_length`.
        """
        [alone] = self._model.read([query.prompt], chat=query.chat)
        encoding = alone
        if self._contexts[query.edit] is not None:
            [encoding] = self._model.read([self.read_as(query.edit, query.prompt)], chat=query.chat)
        self.check_length(query.edit, encoding, query.prompt)
        return ReadPrompt(encoding.ids, alone.ids)
