"""Texts as tokens: encodings with character offsets, special tokens, and padded batches.

Every text gets the special tokens that its tokenizer puts in front, once, and none of those that it
appends: an end token after a prompt would end the text. Rows are padded on the right with their own
last token: this needs no pad token, and under a causal mask no real token sees the padding.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from editkit.errors import ModelError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Completion",
    "Encoding",
    "Offsets",
    "Sentence",
    "SpecialTokens",
    "SubjectPosition",
    "check_covered",
    "check_unicode",
    "check_vocabulary",
    "chunks_by_tokens",
    "encoded",
    "padded",
    "token_position",
    "token_span",
]

_SHOWN = 60  # characters of a text in a message
_TOKENS_PER_CALL = 96

SubjectPosition = Literal["subject_first", "subject_last", "subject_first_after_last", "last"]
"""Token positions that editors and locators can choose."""

Offsets = Sequence[tuple[int, int]]
"""Half-open character spans of the tokens of one sentence, in order."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One sentence as tokens.

    Attributes:
        ids: Token ids, with the special tokens that the tokenizer adds in front.
        offsets: Half-open character span of each token, counted from the prompt's first character;
            negative for text that a chat template puts before the prompt.
        text: The whole encoded text, as the model reads it.
        origin: Character of the text that offsets count from.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    text: str = dataclasses.field(default="", compare=False)
    origin: int = dataclasses.field(default=0, compare=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each token; empty for special tokens that the tokenizer added."""
        origin = self.origin
        return tuple(self.text[a + origin : b + origin] for a, b in self.offsets)

    def position(self, span: tuple[int, int], position: SubjectPosition) -> int:
        """As :func:`token_position`, for the subject's character span."""
        return token_position(self.offsets, span, position)

    def first(self, n: int | None) -> Encoding:
        """The first ``n`` tokens; None: all."""
        return dataclasses.replace(self, ids=self.ids[:n], offsets=self.offsets[:n])

    def shifted(self, start: int) -> Encoding:
        """The same encoding with offsets counted from character ``start``."""
        if not start:
            return self
        offsets = tuple((a - start, b - start) for a, b in self.offsets)
        return dataclasses.replace(self, offsets=offsets, origin=self.origin + start)

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Completion:
    """The token ids of a prompt and its completion, encoded as one text.

    Attributes:
        prompt: Token ids up to the completion.
        target: Token ids of the completion; at least one.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A prompt and its target as tokens with character offsets.

    Attributes:
        encoding: The whole text; its offsets count from the prompt's first character.
        cut: Index of the target's first token.
        separator: Text between prompt and target.
    """

    encoding: Encoding
    cut: int
    separator: str

    @property
    def prompt(self) -> Encoding:
        """The tokens before the target."""
        return self.encoding.first(self.cut)

    @property
    def target(self) -> tuple[int, ...]:
        """Token ids of the target; at least one."""
        return self.encoding.ids[self.cut :]

    @property
    def completion(self) -> Completion:
        """The token ids alone."""
        return Completion(self.encoding.ids[: self.cut], self.target)


def padded(rows: Sequence[Sequence[int]], device: torch.device | str) -> Tensor:
    """A batch of rows of different lengths, each padded on the right with its own last token.

    Args:
        rows: Token ids; none may be empty.
        device: Where the tensor goes.

    Returns:
        Token ids, (rows, longest row).
    """
    width = max(len(row) for row in rows)
    table = [[*row, *([row[-1]] * (width - len(row)))] for row in rows]
    return torch.tensor(table, dtype=torch.long, device=device)


def chunks_by_tokens(lengths: Sequence[int], budget: int, *, rows: int = 1) -> list[list[int]]:
    """Batches of items of similar length, with little padding.

    The batches minimise a cost: their padded tokens, plus a constant per batch. They depend only on
    the lengths, so the same items always share a batch.

    Args:
        lengths: Length of each item.
        budget: Most tokens of a batch with its padding; a longer item gets its own batch.
        rows: Rows of that length in each item.

    Returns:
        Batches of item numbers, shortest items first.
    """
    order = sorted(range(len(lengths)), key=lambda item: lengths[item])
    ends = [i + 1 for i in range(len(order)) if i + 1 == len(order) or _longer(lengths, order, i)]
    starts = [0, *ends[:-1]]
    # best[j]: the least cost of the items up to ends[j - 1], and the start of the last batch.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in ends:
        width = lengths[order[end - 1]]
        costs = [
            (best[i][0] + _cost((end - start) * rows * width, budget), start)
            for i, start in enumerate(starts[: len(best)])
        ]
        best.append(min(costs))
    batches: list[list[int]] = []
    end = len(order)
    while end:
        start = best[ends.index(end) + 1][1]
        width = max(lengths[order[end - 1]], 1)
        size = max(1, budget // (rows * width))
        batches += [order[i : min(i + size, end)] for i in range(start, end, size)][::-1]
        end = start
    return batches[::-1]


def _longer(lengths: Sequence[int], order: Sequence[int], i: int) -> bool:
    return lengths[order[i + 1]] > lengths[order[i]]


def _cost(tokens: int, budget: int) -> float:
    """Cost of a batch in tokens; a forward pass itself costs about as much as 100 tokens."""
    return tokens + _TOKENS_PER_CALL * -(-tokens // budget)


def token_span(offsets: Offsets, span: tuple[int, int]) -> tuple[int, int]:
    """Half-open token span of the characters ``span``.

    A token belongs to the span if it covers one of the span's characters, so a token with the space
    before a word belongs to the word.

    Args:
        offsets: Character spans of the tokens of the whole sentence, without padding.
        span: Half-open character span.

    Raises:
        RequestError: No token covers any of these characters.
    """
    start, end = span
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside:
        raise RequestError(
            f"no token covers characters {start} to {end}.",
            hint="Check that the subject is within the model's context length, and that the "
            "tokenizer does not drop its characters.",
        )
    return inside[0], inside[-1] + 1


def token_position(offsets: Offsets, span: tuple[int, int], position: SubjectPosition) -> int:
    """Index of the token at a position, counted from the sentence's first real token.

    ``subject_first_after_last`` is the subject's last token if nothing follows the subject.

    Args:
        offsets: Character spans of the tokens of the whole sentence, without padding.
        span: Half-open character span of the subject.
        position: The position's name.

    Raises:
        RequestError: No token covers the subject.
    """
    if position == "last":
        return len(offsets) - 1
    first, end = token_span(offsets, span)
    if position == "subject_first":
        return first
    if position == "subject_last":
        return end - 1
    return min(end, len(offsets) - 1)


# ---------------------------------------------------------------- special tokens and coverage


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, *, name: str) -> None:
    """Refuse a tokenizer with token ids that have no embedding.

    Args:
        tokenizer: The tokenizer with its added tokens.
        rows: Number of rows of the embedding.
        name: The model, for the message.

    Raises:
        ModelError: It has such ids.
    """
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    if size > rows:
        raise ModelError(
            f"the tokenizer of {name!r} has token ids up to {size - 1}, but the embedding has only "
            f"{rows} rows (ids 0 to {rows - 1}).",
            hint="Use the tokenizer that the model was trained with; or enlarge the embedding with "
            "model.resize_token_embeddings(len(tokenizer)), and save both.",
        )


class SpecialTokens:
    """The special tokens of a tokenizer, which texts must not contain."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder.values()
        texts = {*tokenizer.all_special_tokens, *(each.content for each in added if each.special)}
        unknown = str(tokenizer.unk_token or "")
        # Padding may be a token such as "!": only tokens count that ordinary text does not contain.
        texts = {text for text in texts if len(text) > 2 and not text.isalnum()}
        longest_first = sorted(texts | ({unknown} - {""}), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._begin = str(tokenizer.bos_token or tokenizer.cls_token or "")
        self.ids = frozenset(tokenizer.all_special_ids)
        same = unknown in (tokenizer.bos_token, tokenizer.eos_token)
        self.unknown: int | None = None if same or not unknown else tokenizer.unk_token_id

    def check(self, text: str, what: str) -> None:
        """Refuse a text that contains a special token.

        Raises:
            RequestError: It contains one.
        """
        token = self._pattern.search(text)
        if token:
            raise RequestError(
                f"{what} {text!r:.{_SHOWN}} contains the special token {token[0]!r}, which the "
                "tokenizer would not read as text.",
                hint="Leave it out; set chat for a prompt in the model's chat format.",
            )

    def check_prompt(self, text: str) -> None:
        """Refuse a prompt with a special token inside ordinary text.

        A prompt that begins with a special token is written in the model's own format: its special
        tokens are intended, but the token that begins a text may occur only once.

        Raises:
            RequestError: The prompt has such a token.
        """
        token = self._pattern.search(text)
        if token is None:
            return
        if token.start() > 0:
            self.check(text, "prompt")
        if self._begin and self._begin in text[len(self._begin) :]:
            raise RequestError(
                f"prompt {text!r:.{_SHOWN}} contains {self._begin!r}, the token that begins a "
                "text, more than once.",
                hint="Leave it out: the tokenizer adds it.",
            )


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoding]:
    """Encode whole texts, each with special tokens in front once and none appended.

    Args:
        tokenizer: A fast tokenizer.
        texts: The texts.

    Returns:
        An encoding per text, without tokens if the tokenizer drops the whole text.

    Raises:
        RequestError: A text is not valid Unicode.
    """
    for text in texts:
        check_unicode(text)
    batch = tokenizer(
        list(texts),
        return_offsets_mapping=True,
        return_token_type_ids=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
        verbose=False,  # texts that are too long raise an error later
    )
    columns = (batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"])
    return [_trimmed(*row) for row in zip(texts, *columns, strict=True)]


def check_unicode(text: str) -> None:
    """Refuse a text that is not valid Unicode.

    Raises:
        RequestError: It has half of a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"text {text!a:.{_SHOWN}} is not valid Unicode: character {error.start} is half of a "
            "surrogate pair.",
            hint="Decode the text again; in JSON, such a character takes two \\u escapes.",
        ) from None


def check_covered(
    texts: Sequence[str], encodings: Sequence[Encoding], *, name: str, known: set[str]
) -> Sequence[Encoding]:
    """The encodings, after a check that tokens cover all of each text.

    Args:
        texts: The texts.
        encodings: An encoding per text.
        name: The model, for messages.
        known: Texts that passed the check before; it is extended.

    Raises:
        RequestError: The tokenizer drops a part of a text.
    """
    for text, encoding in zip(texts, encodings, strict=True):
        if text in known:
            continue
        if lost := dropped(text, encoding):
            raise RequestError(
                f"the tokenizer of {name} drops {lost!r:.60} of the text {text!r:.60}.",
                hint="Write it in characters that the model knows.",
            )
        known.add(text)
    return encodings


def dropped(text: str, encoding: Encoding) -> str:
    """The characters of a text that no token covers: the tokenizer cannot represent them.

    Spaces, control characters and combining marks do not count, because normalisers remove them on
    purpose. A tokenizer that drops other characters also gives wrong offsets.

    Args:
        text: The text.
        encoding: Its encoding, with offsets that are not shifted.
    """
    end, gaps = 0, []
    for first, last in (*encoding.offsets, (len(text), len(text))):
        if first > end:
            gaps.append(text[end:first])
        end = max(end, last)
    return "".join(c for gap in gaps for c in gap if unicodedata.category(c)[0] not in "ZCM")


def _trimmed(
    text: str, ids: Sequence[int], offsets: Sequence[Sequence[int]], added: Sequence[int]
) -> Encoding:
    """A tokenizer's output without appended special tokens and without doubled ones in front."""
    own = [i for i, mark in enumerate(added) if not mark]
    if not own:
        return Encoding((), ())
    begin, end = own[0], own[-1] + 1
    # Chat templates write the special tokens in front themselves: keep one of the two copies.
    first = next(i for i in range(begin + 1) if ids[i:begin] == ids[begin : 2 * begin - i])
    if first == begin:
        spans = tuple((a, b) for a, b in offsets[:end])
        return Encoding(tuple(ids[:end]), spans, text)
    kept = [*range(first), *range(begin, end)]
    spans = tuple((offsets[i][0], offsets[i][1]) for i in kept)
    return Encoding(tuple(ids[i] for i in kept), spans, text)
