"""The matrices that KE and MEND edit: both MLP projections of the last blocks."""

from __future__ import annotations

import dataclasses

from editkit import ConfigError, LanguageModel
from editkit.models.orientation import input_major


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A weight that is edited.

    Attributes:
        path: Dotted path of its module.
        shape: Its size (in, out), input-major.
        mode: Its number among the matrices of this shape.
    """

    path: str
    shape: tuple[int, int]
    mode: int

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return f"{self.path}.weight"


def matrices(model: LanguageModel, blocks: int) -> list[Matrix]:
    """The output and input projections of the MLPs of the last ``blocks`` blocks, by block.

    Raises:
        ConfigError: The model has fewer blocks.
    """
    if blocks > model.n_layers:
        raise ConfigError(
            f"the last {blocks} blocks are to be edited, but {model.name} has {model.n_layers}.",
            hint="Set blocks to fewer.",
        )
    parts = (model.architecture.mlp_out, *model.architecture.mlp_in)
    seen: dict[tuple[int, int], int] = {}
    found = []
    for layer in range(model.n_layers - blocks, model.n_layers):
        for part in parts:
            path = model.architecture.path(layer, part)
            module = model.module(path)
            n_in, n_out = input_major(module, module.get_parameter("weight")).shape
            mode = seen.get((n_in, n_out), 0)
            seen[n_in, n_out] = mode + 1
            found.append(Matrix(path, (n_in, n_out), mode))
    return found
