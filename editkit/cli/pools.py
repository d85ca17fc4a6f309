"""From the flags ``--ray``, ``--workers`` and ``--gpus-per-worker`` to a pool of workers."""

from __future__ import annotations

import argparse

from editkit.cli.arguments import ANY_CLUSTER, add_flags
from editkit.errors import UsageError
from editkit.workers.pool import InProcess, Pool

__all__ = ["add_pool_flags", "pool_of"]


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
    address = None if args.ray == ANY_CLUSTER else args.ray
    return RayPool(address, workers=args.workers, gpus_per_worker=gpus)
