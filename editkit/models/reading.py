"""How a model reads prompts, targets and chats: their tokens and the characters they cover."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from editkit.data_types import EditRequest
from editkit.errors import ModelError, RequestError
from editkit.mistakes import expect_list
from editkit.models.chat import ChatTemplate, Rendered
from editkit.models.encoding import (
    Completion,
    Encoding,
    Sentence,
    SpecialTokens,
    check_covered,
    encoded,
    token_span,
)
from editkit.prompts import clean_prompt, clean_target, default_separator, trimmed_prompt

__all__ = ["TextReader"]

_REMEMBERED = 10_000  # encodings, about 20 MB
_log = logging.getLogger(__name__)


class TextReader:
    """The part of a language model that encodes texts.

    Args:
        tokenizer: A fast tokenizer.
        name: The model, for messages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name
        self._encodings: dict[str, Encoding] = {}
        self._cropped: set[str] = set()
        self._known: set[str] = set()
        self._template: tuple[object, ChatTemplate] | None = None

    @property
    def context_length(self) -> int:
        """Most tokens of one input."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str], *, empty: bool = False) -> list[Encoding]:
        """Encode whole texts, with the special tokens that the tokenizer adds in front.

        These occur once, even if the text begins with them; appended special tokens are left out.
        Encodings are remembered, because a benchmark scores the same prompts under every editor.

        Args:
            texts: The texts; for prompts, use :meth:`read`.
            empty: Whether a text may have no tokens.

        Raises:
            RequestError: A text is not valid Unicode, or the tokenizer drops all of it.
        """
        expect_list(texts, "text", "texts", "encode(texts)")
        new = [text for text in dict.fromkeys(texts) if text not in self._encodings]
        if len(self._encodings) + len(new) > _REMEMBERED:
            self._encodings.clear()
            self._known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            self._encodings.update(zip(new, encoded(self.tokenizer, new), strict=True))
        encodings = [self._encodings[text] for text in texts]
        if not empty and not all(map(len, encodings)):
            text = texts[[len(encoding) for encoding in encodings].index(0)]
            raise RequestError(
                f"the tokenizer of {self.name} has no token for the text {text!r:.60}.",
                hint="Leave it out, or write it in characters that the model knows.",
            )
        return encodings

    def read(
        self,
        prompts: Sequence[str],
        *,
        chat: bool | Sequence[bool] = False,
        subjects: Sequence[tuple[int, int]] | None = None,
    ) -> list[Encoding]:
        """Encode prompts; offsets count from each prompt's first character.

        Args:
            prompts: Texts up to the answer.
            chat: Whether they are users' turns in a chat; one value for all, or one per prompt.
            subjects: Half-open character spans of the subjects.

        Raises:
            RequestError: A prompt cannot be encoded, contains a special token, or loses its subject
                in the chat template.
            ModelError: The prompt is a chat, and the tokenizer has no chat template.
        """
        expect_list(prompts, "text", "prompts", "read(prompts)")
        rendered = self._rendered(prompts, chat, subjects)
        encodings = self._covered([each.text for each in rendered])
        shifted = [e.shifted(r.start) for e, r in zip(encodings, rendered, strict=True)]
        self._check_subjects(shifted, prompts, subjects)
        return shifted

    def rendered(
        self, prompt: str, *, chat: bool = False, subject: tuple[int, int] | None = None
    ) -> Rendered:
        """The text that the model reads for a prompt, and the prompt's offset in it.

        Args:
            prompt: A text up to the answer.
            chat: Whether it is a user's turn in a chat.
            subject: Half-open character span of its subject.

        Raises:
            RequestError: The prompt contains a special token, or loses its subject in the chat
                template.
            ModelError: The prompt is a chat, and the tokenizer has no chat template.
        """
        if subject is not None:
            self.special.check(prompt[slice(*subject)], "subject")
        prompt = trimmed_prompt(prompt)
        if not chat:
            self.special.check_prompt(prompt)
            return Rendered(prompt, 0)
        self.special.check(prompt, "prompt")
        return self.chat_template.render(prompt, subject)

    def sentences(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        *,
        separators: str | Sequence[str | None] | None = None,
        chat: bool | Sequence[bool] = False,
        subjects: Sequence[tuple[int, int]] | None = None,
    ) -> list[Sentence]:
        """Encode prompts with their targets, each as one text that is cut before the target.

        Spaces at a prompt's end and white space around a target are dropped. A token that the
        prompt's end and the target's beginning share belongs to the target.

        Args:
            prompts: Texts up to the targets.
            targets: A target per prompt.
            separators: Text between prompt and target; None: the template's, or
                :func:`editkit.prompts.default_separator`.
            chat: Whether the prompts are users' turns in a chat.
            subjects: Half-open character spans of the subjects in the prompts.

        Raises:
            RequestError: A text cannot be encoded, is dropped by the tokenizer, or contains a
                special token; prompt or target has no token of its own; the tokenizer does not know
                a character of the target.
            ModelError: The prompt is a chat, and the tokenizer has no chat template.
        """
        given = self._each(separators, len(prompts))
        prompts = [clean_prompt(p, "prompt", s) for p, s in zip(prompts, given, strict=True)]
        targets = [clean_target(t, "target", s) for t, s in zip(targets, given, strict=True)]
        rendered = self._rendered(prompts, chat, subjects)
        sentences = self._cut_sentences(prompts, rendered, targets, separators, chat)
        self._check_subjects([each.encoding for each in sentences], prompts, subjects)
        return sentences

    def _cut_sentences(
        self,
        prompts: Sequence[str],
        rendered: Sequence[Rendered],
        targets: Sequence[str],
        separators: str | Sequence[str | None] | None,
        chat: bool | Sequence[bool],
    ) -> list[Sentence]:
        given = self._each(separators, len(prompts))
        in_chat = self._each(chat, len(prompts))
        between = [
            self._separator(*row) for row in zip(prompts, targets, given, in_chat, strict=True)
        ]
        texts = []
        for before, separator, target in zip(rendered, between, targets, strict=True):
            self.special.check(target, "target")
            texts.append(f"{before.text}{separator}{target}")
        return [
            Sentence(encoding.shifted(before.start), self._cut(encoding, before, target), separator)
            for encoding, before, target, separator in zip(
                self._covered(texts), rendered, targets, between, strict=True
            )
        ]

    def requested(self, requests: Sequence[EditRequest], context: str = "") -> list[Sentence]:
        """The prompts of requests with their new targets, as :meth:`sentences` gives them.

        Args:
            requests: The requests.
            context: A text before each prompt; in a chat it is part of the user's turn.

        Raises:
            RequestError: As for :meth:`sentences`.
            ModelError: A text is longer than the model's context, or a prompt is a chat and the
                tokenizer has no chat template.
        """
        prompts = [context + request.sentence for request in requests]
        shift = len(context)
        spans = [(shift + a, shift + b) for a, b in (each.subject_span for each in requests)]
        chat = [request.chat for request in requests]
        rendered = []
        for prompt, span, request in zip(prompts, spans, requests, strict=True):
            self.special.check(request.subject, "subject")
            if request.chat:
                rendered.append(self.rendered(prompt, chat=True, subject=span))
            else:  # the context is the editor's text, so only the request's prompt is checked
                rendered.append(Rendered(context + self.rendered(request.sentence).text, 0))
        sentences = self._cut_sentences(
            prompts,
            rendered,
            [request.target_new for request in requests],
            [request.separator for request in requests],
            chat,
        )
        self._check_subjects([each.encoding for each in sentences], prompts, spans)
        for sentence in sentences:
            self.check_length(sentence.encoding)
        return sentences

    def complete(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        *,
        crop: bool = False,
        separators: str | Sequence[str | None] | None = None,
        chat: bool | Sequence[bool] = False,
    ) -> list[Completion]:
        """As :meth:`sentences`, but only the token ids.

        Args:
            prompts: Texts up to the targets.
            targets: A target per prompt.
            crop: If a text is longer than the model's context, cut the beginning of the prompt off,
                with a warning, instead of raising an error; never in a chat.
            separators: As for :meth:`sentences`.
            chat: Whether the prompts are users' turns in a chat.

        Raises:
            RequestError: As for :meth:`sentences`.
            ModelError: A text is longer than the model's context, or a target alone is.
        """
        sentences = self.sentences(prompts, targets, separators=separators, chat=chat)
        in_chat = self._each(chat, len(prompts))
        completions = []
        most = self.context_length
        for i, sentence in enumerate(sentences):
            before, target = sentence.encoding.ids[: sentence.cut], sentence.target
            room = most - len(target)
            if not crop or room < 1 or in_chat[i]:
                self.check_length(sentence.encoding)
            if len(before) > room:
                before = self.cropped(before, room, of=prompts[i])
            completions.append(Completion(before, target))
        return completions

    def alone(
        self, target: str, *, after: str, separator: str | None = None, chat: bool = False
    ) -> tuple[int, ...]:
        """Token ids of a target with its separator, encoded without the prompt.

        Args:
            target: The target.
            after: The target's prompt, which decides on the default separator.
            separator: Text between prompt and target; None: as for :meth:`sentences`.
            chat: Whether the prompt is a user's turn in a chat.

        Returns:
            The ids, without special tokens.

        Raises:
            RequestError: The target contains a special token, or the tokenizer drops it.
        """
        self.special.check(target, "target")
        separator = self._separator(after, target, separator, chat)
        ids = self.tokenizer(f"{separator}{target}", add_special_tokens=False, verbose=False)
        target_ids = tuple(ids["input_ids"])
        if not target_ids:
            raise RequestError(
                f"the tokenizer of {self.name} has no token for the target {target!r:.60}.",
                hint="Write the target in characters that the model knows.",
            )
        return target_ids

    @functools.cached_property
    def special(self) -> SpecialTokens:
        """The tokenizer's special tokens."""
        return SpecialTokens(self.tokenizer)

    @property
    def chat_template(self) -> ChatTemplate:
        """The tokenizer's current chat template.

        Raises:
            ModelError: There is none, or it cannot be used.
        """
        given = self.tokenizer.chat_template
        if self._template is None or self._template[0] != given:
            self._template = given, ChatTemplate(self.tokenizer, name=self.name)
        return self._template[1]

    def _separator(self, prompt: str, target: str, given: str | None, chat: bool) -> str:
        if given is not None:
            return given
        return self.chat_template.separator if chat else default_separator(prompt, target)

    @staticmethod
    def _each(values: Any, n: int) -> list[Any]:
        """A list of ``n`` values; a single value is repeated."""
        return list(values) if isinstance(values, list | tuple) else [values] * n

    def _rendered(
        self,
        prompts: Sequence[str],
        chat: bool | Sequence[bool],
        subjects: Sequence[tuple[int, int]] | None,
    ) -> list[Rendered]:
        spans: Sequence[tuple[int, int] | None] = subjects or [None] * len(prompts)
        rows = zip(prompts, self._each(chat, len(prompts)), spans, strict=True)
        return [self.rendered(text, chat=as_chat, subject=span) for text, as_chat, span in rows]

    def _covered(self, texts: Sequence[str]) -> Sequence[Encoding]:
        return check_covered(texts, self.encode(texts), name=self.name, known=self._known)

    def _check_subjects(
        self,
        encodings: Sequence[Encoding],
        prompts: Sequence[str],
        subjects: Sequence[tuple[int, int]] | None,
    ) -> None:
        """Refuse subjects that the tokenizer drops or does not know.

        Raises:
            RequestError: It drops or does not know one.
        """
        for encoding, prompt, span in zip(encodings, prompts, subjects or (), strict=False):
            first, end = token_span(encoding.offsets, span)
            if all(token == self.special.unknown for token in encoding.ids[first:end]):
                raise RequestError(
                    f"the tokenizer of {self.name} does not know the subject "
                    f"{prompt[slice(*span)]!r:.60}: it reads {self.tokenizer.unk_token!r}.",
                    hint="Write the subject in characters that the model knows.",
                )

    def _cut(self, encoding: Encoding, before: Rendered, target: str) -> int:
        """Index of the target's first token in an encoding of the whole text.

        Raises:
            RequestError: There is none, or none before it, or the tokenizer does not know it.
        """
        ends = [last for _, last in encoding.offsets]
        cut = next((i for i, end in enumerate(ends) if end > len(before.text)), None)
        if cut is None:
            raise RequestError(
                f"the tokenizer of {self.name} has no token for the target {target!r:.60}.",
                hint="Write the target in characters that the model knows.",
            )
        if cut == 0:
            raise RequestError(
                f"the tokenizer of {self.name} has no token for the prompt {before.text!r:.60} "
                f"apart from the one that it shares with the target {target!r:.60}.",
                hint="Write a longer prompt.",
            )
        if self.special.unknown is not None and self.special.unknown in encoding.ids[cut:]:
            raise RequestError(
                f"the tokenizer of {self.name} does not know all of the target {target!r:.60}: it "
                f"reads {self.tokenizer.unk_token!r}.",
                hint="Write the target in characters that the model knows.",
            )
        return cut

    def cropped(self, ids: tuple[int, ...], room: int, *, of: str) -> tuple[int, ...]:
        """The last token ids of a text that is too long, with its special tokens in front.

        Args:
            ids: Token ids of the text, more than ``room``.
            room: Number of ids to keep, at least one.
            of: The text, for a warning that is logged once per text.
        """
        if of not in self._cropped:
            self._cropped.add(of)
            _log.warning(
                "a text is longer than the context of %d tokens of %s; its beginning is cut off "
                "for scoring: %.60r...",
                self.context_length,
                self.name,
                of,
            )
        special = set(self.tokenizer.all_special_ids)
        begin = next((i for i, token in enumerate(ids) if token not in special), 0)
        begin = min(begin, room - 1)
        return ids[:begin] + ids[len(ids) - room + begin :]

    def check_length(self, encoding: Encoding) -> None:
        """Refuse a text that is longer than the model's context.

        Raises:
            ModelError: It is longer.
        """
        if len(encoding) > self.context_length:
            raise ModelError(
                f"a text of {len(encoding)} tokens does not fit into the context of "
                f"{self.context_length} tokens of {self.name}.",
                hint="Shorten the prompt.",
            )
