"""How many workers a cluster holds, and how many processors each one gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

__all__ = ["Machine", "Placement", "place"]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a machine of the cluster offers: numbers of processors and GPUs."""

    cpus: float
    gpus: float = 0.0

    def holds(self, cpus: int, gpus: float) -> int:
        """How many workers with so much each."""
        by_gpus = int(self.gpus / gpus + 1e-6) if gpus else None
        by_cpus = int(self.cpus / cpus)
        return by_cpus if by_gpus is None else min(by_cpus, by_gpus)


@dataclasses.dataclass(frozen=True)
class Placement:
    """The workers to start.

    Attributes:
        workers: Number of workers.
        cpus: Processors of each one, which is the number of its threads.
        gpus: GPUs of each one.
        at_once: How many of them the machines hold now.
    """

    workers: int
    cpus: int
    gpus: float
    at_once: int


def place(machines: Iterable[Machine], workers: int | None, gpus: float) -> Placement:
    """Share the machines among workers.

    Args:
        machines: The machines of the cluster.
        workers: The wanted number; None for as many as GPUs, or else processors, allow.
        gpus: GPUs of each worker.
    """
    machines = list(machines)
    most = _held(machines, 1, gpus)
    wanted = workers or most
    cpus = 1
    largest = max((int(machine.cpus) for machine in machines), default=1)
    for number in range(2, largest + 1):
        if _held(machines, number, gpus) < max(1, min(wanted, most)):
            break
        cpus = number
    return Placement(wanted, cpus, gpus, min(wanted, _held(machines, cpus, gpus)))


def _held(machines: Sequence[Machine], cpus: int, gpus: float) -> int:
    return sum(machine.holds(cpus, gpus) for machine in machines)
