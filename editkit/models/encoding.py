"""Sentences as tokens: encoding with offsets, completions, and batches padded on the right.

Padding repeats a row's last token, so nothing depends on a pad token, and the model's embeddings
never have to be resized. Under a causal mask the padding on the right cannot be seen by what is
left of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from editkit.errors import RequestError

__all__ = [
    "Completion",
    "Encoding",
    "Offsets",
    "Sentence",
    "SubjectPosition",
    "chunks_by_tokens",
    "padded",
    "token_position",
    "token_span",
]

_TOKENS_PER_CALL = 96

SubjectPosition = Literal["subject_first", "subject_last", "subject_first_after_last", "last"]
"""Names of the token positions that editors and locators may ask for."""

Offsets = Sequence[tuple[int, int]]
"""Half-open character spans of the tokens of one sentence, in order."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One sentence as tokens.

    Attributes:
        ids: Token ids, special tokens that the tokenizer adds in front included.
        offsets: Half-open character span of each token, counted from the prompt's first character:
            what a chat template puts before it has negative offsets.
        text: The whole text that was encoded, as the model reads it.
        origin: Character of the text from which offsets count.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    text: str = dataclasses.field(default="", compare=False)
    origin: int = dataclasses.field(default=0, compare=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """What each token covers of the text; empty for special tokens that were added."""
        origin = self.origin
        return tuple(self.text[a + origin : b + origin] for a, b in self.offsets)

    def position(self, span: tuple[int, int], position: SubjectPosition) -> int:
        """Index of the token that ``position`` names for the subject's characters ``span``."""
        return token_position(self.offsets, span, position)

    def first(self, n: int | None) -> Encoding:
        """The first ``n`` tokens; all of them for None."""
        return dataclasses.replace(self, ids=self.ids[:n], offsets=self.offsets[:n])

    def shifted(self, start: int) -> Encoding:
        """The same with offsets counted from character ``start`` of the text."""
        if not start:
            return self
        offsets = tuple((a - start, b - start) for a, b in self.offsets)
        return dataclasses.replace(self, offsets=offsets, origin=self.origin + start)

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Completion:
    """A prompt and what follows it, as tokens of the whole encoded text.

    Attributes:
        prompt: Token ids up to the completion.
        target: Token ids of the completion; at least one.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A prompt and its target as tokens, with the characters that each covers.

    Attributes:
        encoding: The whole text; its offsets count from the prompt's first character.
        cut: Index of the target's first token.
        separator: What stands between prompt and target.
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
    """Stack rows of different length, each padded on the right with its own last token.

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
    """Cut items into batches of similar length, so that little is spent on padding.

    The cut is the cheapest one for the lengths given, where a batch costs its padded tokens and a
    constant; it depends on the lengths alone, so the same items always meet in the same batches.

    Args:
        lengths: Length of each item.
        budget: Most tokens of a batch, padding included; a longer single item stands alone.
        rows: Rows of that length in each item.

    Returns:
        Batches of item numbers, shortest items first.
    """
    order = sorted(range(len(lengths)), key=lambda item: lengths[item])
    ends = [i + 1 for i in range(len(order)) if i + 1 == len(order) or _longer(lengths, order, i)]
    starts = [0, *ends[:-1]]
    # best[j]: the least cost of the items up to ends[j - 1], and where its last batch starts.
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
    """Cost of a batch in tokens; every forward pass costs as much as some dozens of them."""
    return tokens + _TOKENS_PER_CALL * -(-tokens // budget)


def token_span(offsets: Offsets, span: tuple[int, int]) -> tuple[int, int]:
    """Half-open token span of the characters ``span``.

    A token belongs to the span when it covers at least one of its non-space characters, so a
    token that carries the space before a word counts by its word.

    Args:
        offsets: Character spans of the tokens of the whole sentence, padding excluded.
        span: Half-open character span.

    Raises:
        RequestError: No token covers any of these characters.
    """
    start, end = span
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside:
        raise RequestError(
            f"no token covers characters {start} to {end}.",
            hint="Check that the subject was not cut off by the model's context length, and that "
            "the tokenizer does not drop its characters.",
        )
    return inside[0], inside[-1] + 1


def token_position(offsets: Offsets, span: tuple[int, int], position: SubjectPosition) -> int:
    """Index of the token that ``position`` names, counted from the sentence's first real token.

    ``subject_first_after_last`` is the subject's last token where nothing follows it.

    Args:
        offsets: Character spans of the tokens of the whole sentence, padding excluded.
        span: Half-open character span of the subject.
        position: Which token is asked for.

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
