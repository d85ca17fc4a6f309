"""What editkit must know about a family of models: where the modules of a block are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from editkit.errors import ModelError

Part = Literal["attention", "attention_out", "mlp", "mlp_in", "mlp_out"]
"""Roles of a block's modules. The projections to queries, keys and values are in ``qkv``."""

BlockPart = Literal["attention_out", "mlp_out"]
"""The two sublayers of a block, by their last projection."""

PARTS: tuple[BlockPart, ...] = ("attention_out", "mlp_out")


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
        gate_and_up: Whether the one projection in ``mlp_in`` computes the gate, and after it the
            values that the gate multiplies.
        residual_scale: Factor on what attention and MLP add to the residual stream.
        logit_scale: Factor on the head's logits, before a soft cap
            (``config.final_logit_softcapping``).
        for_config: Adapts the entry to a config, ``(architecture, config) -> architecture``, where
            models of the family differ; raises ModelError for one that cannot be edited.
        attention_adds: The module whose output the block adds to the residual stream, such as a
            norm after the attention; None: ``attention_out``.
        mlp_adds: The same for the MLP; None: ``mlp_out``.
        distance_biases: Whether attention adds biases for the distance of two tokens (ALiBi), which
            it counts in places of a row, not in position ids.
        experts: The experts in blocks that route each token to some of several MLPs. Such a block
            has no ``mlp_in`` and no ``mlp_out``.
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
    gate_and_up: bool = False
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    for_config: Callable[[Architecture, Any], Architecture] | None = None
    attention_adds: str | None = None
    mlp_adds: str | None = None
    distance_biases: bool = False
    experts: str | None = None

    def block(self, layer: int) -> str:
        """Path of block ``layer``."""
        return f"{self.blocks}.{layer}"

    def path(self, layer: int, part: str) -> str:
        """Path of a module relative to block ``layer``."""
        return f"{self.blocks}.{layer}.{part}"

    def check_mlp(self, layer: int, n_layers: int, has: Callable[[str], bool]) -> None:
        """Refuse to edit the MLP of a block with experts.

        Args:
            layer: The block.
            n_layers: Number of blocks.
            has: Whether the model has the module at a path.

        Raises:
            ModelError: The block routes each token to some of several MLPs.
        """
        experts = [
            each
            for each in range(n_layers)
            if self.experts is not None and has(self.path(each, self.experts))
        ]
        if layer not in experts:
            return
        dense = [str(each) for each in range(n_layers) if each not in experts]
        others = (
            f"Edit the MLP of a layer without experts ({', '.join(dense)}), or e" if dense else "E"
        )
        raise ModelError(
            f"layer {layer} has a mixture of experts: a router sends each token through several of "
            "many MLPs, so there is no single projection that writes a fact.",
            hint=f"{others}dit the attention (editor attnedit).",
        )

    def adds(self, layer: int, part: BlockPart) -> str:
        """Path of the module whose output block ``layer`` adds to the residual stream."""
        if part == "attention_out":
            return self.path(layer, self.attention_adds or self.attention_out)
        return self.path(layer, self.mlp_adds or self.mlp_out)
