"""Full fine-tuning over many facts: Adam on the linear modules of all blocks.

With θ all weights and biases of the linear modules of all blocks, p a prompt and o* its new object:

    minimise  mean over facts of -log P_θ[o* | p]    fact_losses, by Adam (minimise_in_batches)

Nothing holds the weights back: no bound, no term that keeps other predictions. Embeddings, head and
norms stay as they are, so that rows of one batch can see different edits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor

from editkit import Dense, EditRequest, JointEditor, LanguageModel, Requirements, WeightDelta
from editkit.editing.optimise import minimise_in_batches
from editkit.editing.outcomes import convergence
from editkit.editing.target_loss import fact_losses
from editkit.models import ModelShape
from editkit.models.running import with_weights
from editkit.models.weight_layout import input_major, is_matrix_module
from editkit_plugins.finetune.config import FullFineTuneConfig

_FLOAT = 4  # bytes


class FullFineTuneEditor(JointEditor[FullFineTuneConfig]):
    """Trains the linear modules of all blocks."""

    name = "ft-all"

    def check(self, model: LanguageModel) -> None:
        """Refuse blocks with experts.

        Raises:
            ModelError: A block has a mixture of experts instead of one MLP.
        """
        for layer in range(model.n_layers):
            model.path(layer, "mlp_out")

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory of one training, and of a delta for each request."""
        joint = self.joint_requirements(shape, requests=1, tokens=tokens)
        deltas = (requests - 1) * self._n_trained(shape) * _FLOAT
        return dataclasses.replace(joint, memory=joint.memory + deltas)

    def joint_requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory of one copy, its gradient, Adam's moments and the delta, and of a batch."""
        facts = min(requests, self.config.batch)
        backward = shape.backward_bytes(facts, tokens, shape.n_layers)
        return Requirements(
            memory=5 * self._n_trained(shape) * _FLOAT + backward,
            notes=("every delta is as large as the blocks of the model",),
        )

    def _n_trained(self, shape: ModelShape) -> int:
        start = shape.architecture.block(0).rpartition(".")[0]
        sizes = [size for name, size in shape.parameters.items() if name.startswith(f"{start}.")]
        return sum(math.prod(size) for size in sizes)

    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One dense delta, trained on all requests together."""
        self.check(model)
        config = self.config
        facts = [each.completion for each in model.requested(requests)]
        names = trained_names(model)
        originals = [model.hf.get_parameter(name).detach().float() for name in names]
        weights = [original.clone().requires_grad_() for original in originals]

        def losses(batch: Sequence[int]) -> Tensor:
            with with_weights(model, dict(zip(names, weights, strict=True))):
                return fact_losses(model, [facts[i] for i in batch])

        with model.frozen():
            means, final = minimise_in_batches(
                weights,
                losses,
                len(facts),
                batch=config.batch,
                lr=config.lr,
                passes=config.steps,
                stop_loss=config.stop_loss,
                weight_decay=config.weight_decay,
                seed=config.seed,
            )
        changes = {}
        for name, weight, original in zip(names, weights, originals, strict=True):
            module = model.module(name.rpartition(".")[0])
            changes[name] = Dense(input_major(module, weight.detach() - original).contiguous())
        advice = f"raise steps ({config.steps}) or lr ({config.lr:g})"
        notes = [
            convergence(loss, loss, stop_loss=config.stop_loss, advice=advice) for loss in final
        ]
        return self.delta(model, requests, changes, notes={"steps": len(means), "facts": notes})


def trained_names(model: LanguageModel) -> list[str]:
    """Names of the weights and biases of all linear modules in blocks."""
    return [
        f"{path}.{field}"
        for layer in range(model.n_layers)
        for name, module in model.block(layer).named_modules()
        if is_matrix_module(module)
        for path in [f"{model.architecture.block(layer)}.{name}"]
        for field in ("weight", "bias")
        if getattr(module, field, None) is not None
    ]
