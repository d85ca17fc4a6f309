"""What the restored runs of causal tracing restore: a state, a window of outputs, or severed paths.

Appendix B.1 and section 2.2 of Meng et al. (2022). For every kind and token, the plan has one run
per layer, and shares what is equal: a run branches off its parent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from editkit.models.blocks import BlockPart
from editkit_plugins.tracing.config import CausalTracingConfig, Kind

SEVERED: Mapping[Kind, tuple[BlockPart, ...]] = {
    "state-mlp-severed": ("mlp_out",),
    "state-attn-severed": ("attention_out",),
    "state-both-severed": ("attention_out", "mlp_out"),
}
WINDOWS: Mapping[Kind, BlockPart] = {"mlp": "mlp_out", "attn": "attention_out"}

_PUBLISHED_WINDOW, _PUBLISHED_LAYERS = 10, 48  # of GPT-2 XL


@dataclasses.dataclass(frozen=True, eq=False)
class PatchedRun:
    """A corrupted run with some states restored, or severed, at one token i.

    Up to block ``start`` it is the corrupted run, or its ``parent``. There, one state is restored;
    in the blocks above, up to ``end``, the outputs of some modules are overwritten.

    Attributes:
        kind: What the run measures.
        layers: The layers l for which it gives P*,h[o]; none for a run that only others branch off.
        start: The first block whose output differs; -1 for the embeddings.
        restores: What is clean in that block's output: the state h_i, or what a module adds to it.
        overwrites: Modules whose outputs are overwritten above ``start``.
        end: The last block with overwritten outputs.
        severed: Whether they are overwritten with corrupted outputs (severed), or clean ones.
        parent: The run that this one branches off; None for the corrupted run.
    """

    kind: Kind
    layers: tuple[int, ...]
    start: int
    restores: BlockPart | Literal["state"] | None = None
    overwrites: tuple[BlockPart, ...] = ()
    end: int = -1
    severed: bool = False
    parent: PatchedRun | None = None


def window_size(n_layers: int, config: CausalTracingConfig) -> int:
    """Layers of a window: as configured, or 10/48 of the depth, rounded up."""
    return config.window or math.ceil(n_layers * _PUBLISHED_WINDOW / _PUBLISHED_LAYERS)


def window_of(layer: int, n_layers: int, config: CausalTracingConfig) -> range:
    """The layers of the window around layer l, clipped at the model's ends (appendix B.1)."""
    size = window_size(n_layers, config)
    first = layer - (size // 2 if config.window_side == "below" else (size - 1) // 2)
    return range(max(0, first), min(n_layers, first + size))


def plan_runs(kind: Kind, n_layers: int, config: CausalTracingConfig) -> list[list[PatchedRun]]:
    """The runs that give P*,h[o] at one token for every layer l.

    Returns:
        Groups of runs; a parent is in its branches' group, ahead of them.
    """
    if kind == "state":
        return [[PatchedRun(kind, (layer,), layer, "state")] for layer in range(n_layers)]
    if kind in SEVERED:
        # Severing the token in a corrupted run changes it if the severed outputs are from another
        # draw of the noise; restored runs branch off the severed one.
        severed = PatchedRun(
            kind, (), start=-1, overwrites=SEVERED[kind], end=n_layers - 1, severed=True
        )
        restored = [
            dataclasses.replace(
                severed, layers=(layer,), start=layer, restores="state", parent=severed
            )
            for layer in range(n_layers)
        ]
        return [[severed, *restored]]
    # Windows with the same first layer are one run up to the end of the shortest. Clipped at the
    # model's ends, several layers may even have the same window.
    layers_by_window: dict[int, dict[int, list[int]]] = {}  # by first and last layer
    for layer in range(n_layers):
        window = window_of(layer, n_layers, config)
        layers_by_window.setdefault(window.start, {}).setdefault(window.stop - 1, []).append(layer)
    part = WINDOWS[kind]
    groups = []
    for first, ends in layers_by_window.items():
        end = max(ends)
        longest = PatchedRun(kind, tuple(ends[end]), first, part, overwrites=(part,), end=end)
        shorter = [
            # A window of one layer ends where it starts; it has no overwritten blocks to share.
            PatchedRun(kind, tuple(layers), first, part)
            if last == first
            else PatchedRun(kind, tuple(layers), last, parent=longest)
            for last, layers in ends.items()
            if last != end
        ]
        groups.append([longest, *shorter])
    return groups


def pack_groups(groups: Sequence[Sequence[PatchedRun]], max_runs: int) -> list[list[PatchedRun]]:
    """Batches of whole groups, in order, with at most ``max_runs`` runs; larger groups alone."""
    batches: list[list[PatchedRun]] = []
    for group in groups:
        if batches and len(batches[-1]) + len(group) <= max_runs:
            batches[-1] += group
        else:
            batches.append(list(group))
    return batches
