"""How many workers a cluster holds, and how many processors each one gets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence

from editkit.errors import ClusterError
from editkit.reprs import counted

__all__ = ["Machine", "Placement", "lacking", "place", "within"]

_log = logging.getLogger(__name__)


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

    @property
    def each(self) -> str:
        """What each worker gets: ``4 processors and 1 GPU``."""
        text = counted(self.cpus, "processor")
        if self.gpus:
            text += f" and {self.gpus:g} {'GPU' if self.gpus <= 1 else 'GPUs'}"
        return text

    def at_most(self, workers: int | None) -> Placement:
        """With no more workers than this; each keeps its processors, which decide its bits."""
        if workers is None:
            return self
        return dataclasses.replace(
            self, workers=min(self.workers, workers), at_once=min(self.at_once, workers)
        )


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


def within(machines: Sequence[Machine], placement: Placement, wanted: int | None) -> Placement:
    """The workers that the machines of a cluster hold, if no machine can join.

    Args:
        machines: The machines.
        placement: The workers to start.
        wanted: How many the user asked for, for the warning that there are fewer.

    Raises:
        ClusterError: There is no room for any.
    """
    if placement.at_once == 0:
        raise lacking(machines, placement)
    if placement.at_once < placement.workers:
        _log.warning(
            "--workers %d: this machine has room for %s with %s each, so no more are started.",
            *(wanted, counted(placement.at_once, "worker"), placement.each),
        )
    return placement.at_most(placement.at_once)


def lacking(machines: Sequence[Machine], placement: Placement) -> ClusterError:
    """The error that no machine has room for a worker."""
    message = f"no machine of the cluster has {placement.each} for a worker"
    hint = "'ray status' shows what the cluster has."
    if placement.gpus:
        gpus = sum(machine.gpus for machine in machines)
        message += f": together they have {gpus:g} GPU{'s' * (gpus != 1)}"
        hint = "Leave out --gpus-per-worker and --device, or write --device cpu; " + hint
    return ClusterError(f"{message}.", hint=hint)


def _held(machines: Sequence[Machine], cpus: int, gpus: float) -> int:
    return sum(machine.holds(cpus, gpus) for machine in machines)
