"""From the flags ``--ray``, ``--workers`` and ``--gpus-per-worker`` to a pool of workers."""

from __future__ import annotations

import argparse

from editkit.benchmark.spec import ModelChoice
from editkit.cli.arguments import ANY_CLUSTER, LOCAL, add_flags
from editkit.errors import ClusterError, UsageError
from editkit.reprs import counted
from editkit.workers.placement import Placement
from editkit.workers.pool import InProcess, Pool

__all__ = [
    "add_pool_flags",
    "model_choice",
    "placement_in_words",
    "placement_of",
    "pool_for",
    "pool_of",
]


def add_pool_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--ray``, ``--workers`` and ``--gpus-per-worker``."""
    add_flags(parser, "--ray", "--workers", "--gpus-per-worker")


def pool_of(args: argparse.Namespace, device: str) -> Pool:
    """The pool that the flags ask for: this process without ``--ray``.

    Args:
        args: The arguments of a command with the flags of :func:`add_pool_flags`.
        device: Device of the model. On a GPU, each worker gets one, unless the flags choose.

    Raises:
        UsageError: The flags contradict each other, or the device.
        ClusterError: Ray is not installed.
    """
    if args.ray is None:
        for flag in ("workers", "gpus_per_worker"):
            if getattr(args, flag) is not None:
                raise UsageError(
                    f"--{flag.replace('_', '-')} is for workers of a Ray cluster, and there is no "
                    "--ray.",
                    hint="Add --ray local for workers on this machine, or --ray HOST:PORT.",
                )
        return InProcess()
    kind, _, index = device.partition(":")
    if index:
        raise UsageError(
            f"--device {device} with --ray: workers see only their own GPUs, counted from 0.",
            hint=f"Write --device {kind}.",
        )
    from editkit.workers.cluster import check_installed
    from editkit.workers.ray_pool import RayPool

    check_installed()  # before anything is loaded
    gpus = args.gpus_per_worker
    if gpus is None:
        gpus = 0.0 if kind in ("cpu", "mps") else 1.0
    if gpus == 0 and kind == "cuda":
        raise UsageError(
            f"--gpus-per-worker 0 with --device {device}: such a worker would see no GPU.",
            hint="Write --device cpu, or a share of a GPU: --gpus-per-worker 0.5.",
        )
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(
            f"--gpus-per-worker: got {gpus:g}, expected a part of one GPU or a whole number.",
            hint="For example 0.5 or 2.",
        )
    if args.ray == LOCAL:
        _check_gpus(gpus, "--gpus-per-worker" if args.gpus_per_worker else f"device {device}")
    address = None if args.ray == ANY_CLUSTER else args.ray
    return RayPool(address, workers=args.workers, gpus_per_worker=gpus)


def _check_gpus(wanted: float, cause: str) -> None:
    """Refuse workers with more GPUs than this machine has, before Ray starts.

    Args:
        wanted: GPUs of a worker.
        cause: What asks for them.

    Raises:
        ClusterError: There are fewer.
    """
    if not wanted:
        return
    import torch

    present = torch.cuda.device_count()
    if wanted > present:
        without = "Leave out --gpus-per-worker and --device cuda, or write --device cpu."
        raise ClusterError(
            f"{cause}: a worker would get {wanted:g} {'GPU' if wanted <= 1 else 'GPUs'}, and torch "
            f"sees {counted(present, 'GPU')} on this machine.",
            hint=f"Write --gpus-per-worker {present}." if present else without,
        )


def model_choice(args: argparse.Namespace) -> ModelChoice:
    """The model of a command with ``MODEL``, ``--dtype`` and ``--device``, for :func:`pool_for`.

    The values are checked when the model is loaded. ``cpu``, the default, counts as no choice of a
    device, so that workers with GPUs use them.
    """
    device = {} if args.device == "cpu" else {"device": args.device}
    return ModelChoice.model_construct(name=args.model, dtype=args.dtype, **device)


def pool_for(args: argparse.Namespace, model: ModelChoice) -> tuple[Pool, ModelChoice]:
    """The pool that the flags ask for, and the model as its workers load it.

    Workers with a GPU load the model there, and workers with several spread it over them, unless
    the user chose a device.

    Args:
        args: As for :func:`pool_of`.
        model: The model.

    Raises:
        UsageError, ClusterError: As for :func:`pool_of`.
    """
    pool = pool_of(args, "cuda" if model.device_map is not None else model.device)
    gpus = getattr(pool, "gpus_per_worker", 0)
    if gpus and not {"device", "device_map"} & model.model_fields_set:
        placed = {"device_map": "auto"} if gpus > 1 else {"device": "cuda"}
        return pool, model.model_copy(update=placed)
    return pool, model


def placement_of(pool: Pool, jobs: int) -> Placement | None:
    """How the machines of a cluster would be shared among workers; None for this process.

    Args:
        pool: The pool.
        jobs: How many jobs there are: no more workers start.

    Raises:
        ClusterError: There is no such cluster, or it has no room for any worker.
    """
    if pool.is_local:
        return None
    from editkit.workers.ray_pool import RayPool

    return pool.placement(jobs) if isinstance(pool, RayPool) else None


def placement_in_words(placement: Placement) -> str:
    """As in ``8 workers, each with 4 processors and 1 GPU``."""
    each = "" if placement.workers == 1 else ", each"
    text = f"{counted(placement.workers, 'worker')}{each} with {placement.each}"
    if placement.at_once < placement.workers:
        text += f"; the cluster has room for {placement.at_once} of them now"
    return text
