"""Texts that share beginnings as one row, in which no token is repeated.

The tokens of several texts form trees: the parent of a token is the token before it, and texts that
begin alike share the tokens of their beginning. A row holds such trees, parents before children. A
token attends to its ancestors and itself, and has its position in its own text, so its state is the
one that it has in a row of that text alone.

This needs position ids and masks of pairs of tokens. Distance biases and windows count places in a
row instead: models with biases get rows with one text and its beginnings (which need no mask), and
with windows, no row with several texts is longer than the window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit.models.encoding import padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward
from editkit.models.shape import window_of

__all__ = ["TokenTree", "forward_trees", "longest_tree", "trees_of"]

_LONGEST = 128  # tokens of a row of short texts; attention costs their square


@dataclasses.dataclass
class TokenTree:
    """One row: the tokens of some texts, each beginning once.

    Attributes:
        ids: Token ids; N of them.
        positions: The position of each token in its text.
        ends: For each token, the place after its last descendant.
        read: For each text, its number and the place of its last token.
    """

    ids: list[int] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    ends: list[int] = dataclasses.field(default_factory=list)
    read: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_one_text(self) -> bool:
        """Whether each token follows the one before it, as in an ordinary row."""
        return self.positions[-1] == len(self.ids) - 1


def longest_tree(model: LanguageModel, longest_text: int) -> int:
    """Most tokens of a row that holds several texts; 1 if no row may hold more than one.

    Args:
        model: The model.
        longest_text: Tokens of the longest text. Rows are longer than that, so that texts which
            begin alike share a row however long their common beginning is.
    """
    if model.architecture.distance_biases:
        return 1
    longest = max(_LONGEST, longest_text + _LONGEST // 2)
    return min(longest, window_of(model.hf.config) or longest)


def trees_of(texts: Sequence[tuple[int, ...]], longest: int) -> list[TokenTree]:
    """Distribute texts over rows of similar size.

    The rows depend only on the set of texts.

    Args:
        texts: Token ids of each text, at least one.
        longest: Most tokens of a row with several texts, unless each of these texts is the
            beginning of another.
    """
    order = sorted(range(len(texts)), key=lambda number: texts[number])
    sorted_texts = [texts[number] for number in order]
    shared = [0, *map(_n_shared, sorted_texts, sorted_texts[1:])]  # with the text before
    total = sum(len(ids) - n for ids, n in zip(sorted_texts, shared, strict=True))
    enough = total / -(-total // longest) if total else 0.0
    rows: list[TokenTree] = []
    path: list[int] = []  # places of the previous text's tokens in the last row
    for number, ids, n in zip(order, sorted_texts, shared, strict=True):
        row = rows[-1] if rows else TokenTree()
        continues = bool(rows) and row.is_one_text and n == len(path)
        fits = bool(rows) and len(row) < enough and len(row) + len(ids) - n <= longest
        if not (continues or fits):
            row, path, n = TokenTree(), [], 0
            rows.append(row)
        for place in path[n:]:
            row.ends[place] = len(row)
        del path[n:]
        for position in range(n, len(ids)):
            path.append(len(row))
            row.ids.append(ids[position])
            row.positions.append(position)
            row.ends.append(-1)  # not known yet
        row.read.append((number, path[-1]))
    for row in rows:
        row.ends = [len(row) if end < 0 else end for end in row.ends]
    return rows


def _n_shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Number of tokens with which both texts begin."""
    shortest = min(len(a), len(b))
    if a[:shortest] == b[:shortest]:
        return shortest
    return next(i for i in range(shortest) if a[i] != b[i])


def forward_trees(model: LanguageModel, rows: Sequence[TokenTree]) -> Tensor:
    """Final hidden states of rows, after the final norm.

    Args:
        model: The model.
        rows: Rows that are either all one text each, or no longer than :func:`longest_tree`.

    Returns:
        (B, N, H), with padding after the shorter rows.
    """
    device = model.device
    ids = padded([row.ids for row in rows], device)  # (B, N)
    if all(row.is_one_text for row in rows):
        return forward(model, ids)
    n = ids.shape[1]
    positions = [[*row.positions, *[0] * (n - len(row))] for row in rows]
    # A token of the padding has no descendants, so no other token sees it.
    ends = [[*row.ends, *range(len(row) + 1, n + 1)] for row in rows]
    place = torch.arange(n, device=device)
    end = torch.tensor(ends, device=device)[:, None]  # (B, 1, N), of the token that is attended to
    seen = (place <= place[:, None]) & (place[:, None] < end)  # (B, N, N)
    mask = torch.zeros(seen.shape, dtype=model.dtype, device=device)
    mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
    return forward(model, ids, mask=mask[:, None], positions=torch.tensor(positions, device=device))
