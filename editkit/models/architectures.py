"""What editkit must know about a family of models: where the modules of a block are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

Part = Literal["attention", "attention_out", "mlp", "mlp_in", "mlp_out"]
"""Roles of a block's modules. The projections to queries, keys and values are in ``qkv``."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Module paths of one family of models.

    Attributes:
        model_types: Values of ``config.model_type`` in this family.
        blocks: Path of the list of blocks; the next six paths are relative to one block.
        attention: The attention module.
        qkv: The projections to queries, keys and values (one fused, or three).
        attention_out: The attention's output projection.
        mlp: The MLP module; None where its projections are the block's own children.
        mlp_in: The projections into the MLP's inner space.
        mlp_out: The projection from the inner space, W in the methods' notation.
        embedding: Token embedding.
        final_norm: Norm between the last block and the head.
        head: The language-model head.
        position_embedding: Learned position embedding, if any.
        project_out: Projection after the final norm, if the head is narrower than the blocks.
        parallel: Whether attention and MLP read the same residual stream.
        for_config: Adapts the entry to a config, ``(architecture, config) -> architecture``, where
            models of the family differ; raises ModelError for one that cannot be edited.
    """

    model_types: tuple[str, ...]
    blocks: str
    attention: str
    qkv: tuple[str, ...]
    attention_out: str
    mlp: str | None
    mlp_in: tuple[str, ...]
    mlp_out: str
    embedding: str
    final_norm: str
    head: str
    position_embedding: str | None = None
    project_out: str | None = None
    parallel: bool = False
    for_config: Callable[[Architecture, Any], Architecture] | None = None

    def block(self, layer: int) -> str:
        """Path of block ``layer``."""
        return f"{self.blocks}.{layer}"

    def path(self, layer: int, part: str) -> str:
        """Path of a module relative to block ``layer``."""
        return f"{self.blocks}.{layer}.{part}"
