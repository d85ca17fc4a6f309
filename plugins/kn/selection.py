"""From scores to neurons: the coarse list of one prompt, and what several prompts share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit_plugins.kn.config import AttributionConfig, KnConfig

Neuron = tuple[int, int]
"""Layer and number of a neuron, from 0."""

_P_STEP = 0.05


def coarse(scores: Tensor, config: AttributionConfig) -> list[Neuron]:
    """Neurons that score above the threshold, by layer and number.

    Args:
        scores: (L, D)
        config: Its ``threshold`` and ``threshold_kind``.
    """
    if config.threshold_kind == "adaptive":
        limit = config.threshold * float(scores.max())
    elif config.threshold_kind == "absolute":
        limit = config.threshold
    else:
        rank = max(1, round(config.threshold * scores.numel()))
        limit = float(scores.flatten().kthvalue(rank).values)
    return [(int(layer), int(neuron)) for layer, neuron in torch.nonzero(scores > limit)]


def refined(lists: Sequence[Sequence[Neuron]], config: KnConfig) -> list[Neuron]:
    """Neurons that more than a share ``p`` of the prompts have in common, first come first.

    With ``wanted_neurons``, ``p`` is moved in steps of 0.05 until their number lies within. The
    original code does that for the average over a relation's facts; here it is done for each fact,
    so that an edit does not depend on the requests beside it.
    """
    p, found = config.p, shared(lists, config.p)
    if config.wanted_neurons is None:
        return found
    least, most = config.wanted_neurons
    while len(found) < least and p > 0:
        p = max(0.0, p - _P_STEP)
        found = shared(lists, p)
    while len(found) > most and p < 1:
        p = min(1.0, p + _P_STEP)
        fewer = shared(lists, p)
        if len(fewer) < least:  # rather too many than too few
            break
        found = fewer
    return found


def shared(lists: Sequence[Sequence[Neuron]], p: float) -> list[Neuron]:
    """Neurons that occur in more than ``p`` times as many lists as there are."""
    counts = Counter(neuron for neurons in lists for neuron in neurons)
    return [neuron for neuron, n in counts.items() if n > p * len(lists)]
