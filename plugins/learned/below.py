"""What a model makes of texts below the blocks that are edited: no edit can change it."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from editkit import LanguageModel
from editkit.models.encoding import padded
from editkit.models.running import Tail, recording

Text = tuple[int, ...]
"""Tokens of one text."""


class Below:
    """Runs texts up to the lowest edited block.

    Args:
        model: The unedited model.
        lowest: The lowest block that is edited.
    """

    def __init__(self, model: LanguageModel, lowest: int) -> None:
        self.model = model
        self.lowest = lowest

    def tail(self, texts: Sequence[Text]) -> Tail:
        """The blocks from the lowest on, ready to be run on texts padded on the right."""
        ids = padded(texts, self.model.device)  # (B, T)
        starts = torch.zeros(len(texts), dtype=torch.long, device=ids.device)
        return Tail.record(self.model, None, ids, starts, start=self.lowest)


class Remembered(Below):
    """The same, for training, which meets the same texts again and again.

    A text is run alone, so that its states do not depend on what it was first met with: a training
    that was interrupted goes on to the same weights.

    Args:
        model: The unedited model, which must not change.
        lowest: The lowest block that is edited.
        memory_mb: Memory for states; those not wanted for longest make room.
    """

    def __init__(self, model: LanguageModel, lowest: int, *, memory_mb: int = 1024) -> None:
        super().__init__(model, lowest)
        self._room = memory_mb * 2**20
        self._texts: OrderedDict[Text, tuple[Tensor, Tensor]] = OrderedDict()
        self._tails: dict[int, Tail] = {}  # of one row, by its length

    @override
    def tail(self, texts: Sequence[Text]) -> Tail:
        states = [self._states(text)[0] for text in texts]
        hidden = pad_sequence(states, batch_first=True)  # (B, T, H)
        length = hidden.shape[1]
        if length not in self._tails:
            # What blocks are given besides their input depends on the number of tokens alone.
            self._tails[length] = super().tail([(0,) * length])
        rows = torch.zeros(len(texts), dtype=torch.long, device=hidden.device)
        return dataclasses.replace(self._tails[length].select(rows), hidden=hidden)

    def above(self, text: Text) -> Tensor:
        """States of a text's tokens after the last block, (T, H)."""
        return self._states(text)[1]

    def _states(self, text: Text) -> tuple[Tensor, Tensor]:
        """States before the lowest block and after the last one, (T, H) each."""
        if text in self._texts:
            self._texts.move_to_end(text)
            return self._texts[text]
        last = self.model.architecture.block(self.model.n_layers - 1)
        with recording(self.model, [last]) as seen:
            below = super().tail([text]).hidden[0]
        states = (below.clone(), seen[last].output[0].clone())
        self._texts[text] = states
        self._room -= _bytes(states)
        while self._room < 0 and len(self._texts) > 1:
            _, old = self._texts.popitem(last=False)
            self._room += _bytes(old)
        return states


def _bytes(states: tuple[Tensor, Tensor]) -> int:
    return sum(each.nbytes for each in states)
