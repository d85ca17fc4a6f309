"""The blocks below the edited ones, with their states kept between the steps of a training."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from editkit import LanguageModel
from editkit.editing.gradients import LowerBlocks, Tokens
from editkit.models.running import Tail, recording


class CachedLowerBlocks(LowerBlocks):
    """Keeps the states of texts, because training reads the same texts many times.

    Each text runs in a batch of its own. Its states therefore never depend on the batch in which
    it first came up, and an interrupted training resumes to the same weights.

    Args:
        model: The unedited model. It must not change.
        lowest: The lowest edited block.
        memory_mb: Memory for states. The least recently used are dropped first.
    """

    def __init__(self, model: LanguageModel, lowest: int, *, memory_mb: int = 1024) -> None:
        super().__init__(model, lowest)
        self._free_bytes = memory_mb * 2**20
        self._states: OrderedDict[Tokens, tuple[Tensor, Tensor]] = OrderedDict()
        self._tails: dict[int, Tail] = {}  # one row each, by length

    @override
    def tail(self, texts: Sequence[Tokens]) -> Tail:
        states = [self._run(text)[0] for text in texts]
        hidden = pad_sequence(states, batch_first=True)  # (B, T, H)
        length = hidden.shape[1]
        if length not in self._tails:
            # Masks and positions, the blocks' other arguments, depend only on the length.
            self._tails[length] = super().tail([(0,) * length])
        rows = torch.zeros(len(texts), dtype=torch.long, device=hidden.device)
        return dataclasses.replace(self._tails[length].select(rows), hidden=hidden)

    def final_states(self, text: Tokens) -> Tensor:
        """States of the unedited model after the last block, (T, H)."""
        return self._run(text)[1]

    def _run(self, text: Tokens) -> tuple[Tensor, Tensor]:
        """States before the lowest edited block and after the last block, (T, H) each."""
        if text in self._states:
            self._states.move_to_end(text)
            return self._states[text]
        last = self.model.architecture.block(self.model.n_layers - 1)
        with recording(self.model, [last]) as seen:
            below = super().tail([text]).hidden[0]
        states = (below.clone(), seen[last].output[0].clone())
        self._states[text] = states
        self._free_bytes -= sum(each.nbytes for each in states)
        while self._free_bytes < 0 and len(self._states) > 1:
            _, dropped = self._states.popitem(last=False)
            self._free_bytes += sum(each.nbytes for each in dropped)
        return states
