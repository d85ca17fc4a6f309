"""Sentences as tokens: encoding with offsets, completions, and batches padded on the right.

Padding repeats a row's last token, so nothing depends on a pad token, and the model's embeddings
never have to be resized. Under a causal mask the padding on the right cannot be seen by what is
left of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit.requests import SubjectPosition, token_position

__all__ = ["Completion", "Encoding", "chunks_by_tokens", "padded"]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One sentence as tokens.

    Attributes:
        ids: Token ids, special tokens that the tokenizer adds included.
        offsets: Half-open character span of each token.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def position(self, span: tuple[int, int], position: SubjectPosition) -> int:
        """Index of the token that ``position`` names for the subject's characters ``span``."""
        return token_position(self.offsets, span, position)

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


def chunks_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut row numbers into batches of similar length with at most ``budget`` padded tokens.

    The cut depends on the lengths alone, so the same rows always meet in the same batches.

    Args:
        lengths: Length of each row.
        budget: Most tokens of a batch, padding included; a longer single row stands alone.

    Returns:
        Batches of row numbers, shortest rows first.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
