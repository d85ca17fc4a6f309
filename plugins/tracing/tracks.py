"""Which corrupted runs a trace needs, and what each of them shares with another.

A track is a corrupted run in which something is restored at one token. It begins only at the block
after which it differs: from the corrupted run, or from another track. Windows that begin at the
same layer are one track until the first of them ends; equal windows are one track altogether.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from editkit.models.blocks import BlockPart
from editkit_plugins.tracing.config import CausalTracingConfig, Kind

SEVERED: Mapping[Kind, tuple[BlockPart, ...]] = {
    "state-mlp-severed": ("mlp_out",),
    "state-attn-severed": ("attention_out",),
    "state-both-severed": ("attention_out", "mlp_out"),
}
WINDOWS: Mapping[Kind, BlockPart] = {"mlp": "mlp_out", "attn": "attention_out"}


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """A corrupted run in which something is restored at one token.

    Attributes:
        kind: What it is about.
        layers: Layers of the map that its result fills; none for one that only others branch off.
        born: Block after whose output it differs from what it branches off; -1: before all blocks.
        restores: What is clean there at the token: the whole state, or what one module adds.
        parent: The track that it branches off; None: the corrupted run.
        pinned: Modules whose output at the token is given in the blocks above.
        until: Last block in which it is given.
        frozen: Whether the given outputs are corrupted ones (severed) instead of clean ones.
    """

    kind: Kind
    layers: tuple[int, ...]
    born: int
    restores: BlockPart | None = None
    restores_state: bool = False
    parent: Track | None = None
    pinned: tuple[BlockPart, ...] = ()
    until: int = -1
    frozen: bool = False

    @property
    def alone(self) -> bool:
        """Whether it branches off the corrupted run itself."""
        return self.parent is None


def window_of(layer: int, n_layers: int, config: CausalTracingConfig) -> range:
    """The layers of the window around a layer, cut at the model's ends."""
    size = config.window
    first = layer - (size // 2 if config.window_side == "below" else (size - 1) // 2)
    return range(max(0, first), min(n_layers, first + size))


def families(kind: Kind, n_layers: int, config: CausalTracingConfig) -> list[list[Track]]:
    """Tracks of a kind, a parent before its branches; only those of one family share anything."""
    if kind == "state":
        return [
            [Track(kind, (layer,), born=layer, restores_state=True)] for layer in range(n_layers)
        ]
    if kind in SEVERED:
        top = n_layers - 1
        frozen = Track(kind, (), born=-1, pinned=SEVERED[kind], until=top, frozen=True)
        branches = [
            dataclasses.replace(
                frozen, layers=(layer,), born=layer, restores_state=True, parent=frozen
            )
            for layer in range(n_layers)
        ]
        return [[frozen, *branches]]
    return _window_families(kind, n_layers, config)


def _window_families(kind: Kind, n_layers: int, config: CausalTracingConfig) -> list[list[Track]]:
    layers_of: dict[int, dict[int, list[int]]] = {}
    for layer in range(n_layers):
        window = window_of(layer, n_layers, config)
        layers_of.setdefault(window.start, {}).setdefault(window.stop - 1, []).append(layer)
    part = WINDOWS[kind]
    found = []
    for first, ends in layers_of.items():
        last = max(ends)
        longest = Track(kind, tuple(ends[last]), first, part, pinned=(part,), until=last)
        # A window of the first layer alone ends where it begins: there is nothing to branch off.
        shorter = [
            Track(kind, tuple(layers), first, part)
            if end == first
            else Track(kind, tuple(layers), end, parent=longest)
            for end, layers in ends.items()
            if end != last
        ]
        found.append([longest, *shorter])
    return found


def in_portions(grouped: Sequence[Sequence[Track]], most: int) -> list[list[Track]]:
    """Families put together so that no portion has more tracks than ``most``, if it can be."""
    portions: list[list[Track]] = []
    for family in grouped:
        if portions and len(portions[-1]) + len(family) <= most:
            portions[-1] += family
        else:
            portions.append(list(family))
    return portions
