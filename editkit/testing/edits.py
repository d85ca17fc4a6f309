"""What is asked of deltas: their size, their distance, and that they are finite."""

from __future__ import annotations

from collections.abc import Sequence

from editkit.editing.deltas import WeightDelta
from editkit.testing.contract import require

__all__ = ["bytes_of", "distance_of", "require_finite"]


def bytes_of(deltas: Sequence[WeightDelta]) -> int:
    """Memory of all changes; those that several deltas share are counted once."""
    changes = {id(change): change for delta in deltas for change in delta.changes.values()}
    return sum(t.nbytes for change in changes.values() for t in change.tensors().values())


def distance_of(first: WeightDelta, second: WeightDelta) -> float:
    """Norm of the difference, in units of the larger norm; infinite for other parameters."""
    if first.changes.keys() != second.changes.keys():
        return float("inf")
    squares = 0.0
    for name, change in first.changes.items():
        other = second.changes[name]
        if change.shape != other.shape:
            return float("inf")
        squares += float((change.dense().double() - other.dense().double()).norm()) ** 2
    largest = max(first.norm(), second.norm())
    return float(squares**0.5 / largest) if largest else 0.0


def require_finite(delta: WeightDelta, where: str = "") -> None:
    """Refuse a delta with a number that is not finite.

    Raises:
        ContractError: There is one.
    """
    for name, change in delta.changes.items():
        require(change.is_finite(), f"the change of {name} is not finite{where}.")
