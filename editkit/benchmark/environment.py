"""The environment of a computation: the machine, its threads, and the libraries.

It is not part of a cell's fingerprint: two machines compute the same cell, and their numbers agree
within :data:`editkit.benchmark.merge.TOLERANCE`. Each row records its environment, so that
differences can be explained.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from editkit.workers.inventory import processor_name

if TYPE_CHECKING:
    from editkit.benchmark.store import Store

__all__ = ["environment_changes", "environment_of", "record_environment"]

_log = logging.getLogger(__name__)

_PACKAGES = ("editkit", "torch", "transformers", "numpy", "scipy")
_VARIABLES = (
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "DNNL_MAX_CPU_ISA"),
)


def environment_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The current environment, as plain data.

    Args:
        model: The model's description, with ``device`` and ``attention``.
    """
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "device": model.get("device"),
        "attention": model.get("attention"),
    }
    for package in _PACKAGES:
        try:
            environment[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            environment[package] = None
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        environment.update(_settings_of(torch))
    return {**environment, **{name: os.environ[name] for name in _VARIABLES if name in os.environ}}


def environment_changes(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> list[str]:
    """How two environments differ: ``torch_threads: 1, 4``."""
    if first is None or second is None:
        return ["the environment of some rows is not recorded"]
    return [
        f"{key}: {first.get(key)}, {second.get(key)}"
        for key in sorted({*first, *second})
        if first.get(key) != second.get(key)
    ]


def record_environment(
    environment: Mapping[str, Any], store: Store, fingerprints: Iterable[str]
) -> None:
    """Record the environment of the rows to come, and warn if earlier rows have another one.

    Args:
        environment: As :func:`environment_of` describes it.
        store: The store that the rows are put into.
        fingerprints: Their cells.
    """
    own = store.computed_with(environment)
    rows = [row for fingerprint in fingerprints for row in store.rows(fingerprint)]
    others = {row.environment for row in rows} - {own}
    if not others:
        return
    known = store.environments()
    changes = dict.fromkeys(
        change
        for other in sorted(others)
        for change in environment_changes(known.get(other), environment)
    )
    _log.warning(
        "%d stored rows were computed in another environment (then, now: %s). They may differ from "
        "new rows in the last digits. --fresh recomputes all of them here.",
        sum(row.environment != own for row in rows),
        "; ".join(changes),
    )


def _settings_of(torch: Any) -> dict[str, Any]:
    backends = torch.backends
    settings: dict[str, Any] = {
        "torch_threads": torch.get_num_threads(),
        "capability": backends.cpu.get_cpu_capability(),
        "mkldnn": bool(backends.mkldnn.is_available() and backends.mkldnn.enabled),
        "mkl": bool(backends.mkl.is_available()),
        "openmp": bool(backends.openmp.is_available()),
        "float32_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if torch.cuda.is_available():
        settings["gpus"] = sorted(
            {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
        )
        settings["cuda"] = torch.version.cuda or torch.version.hip
        settings["cudnn"] = backends.cudnn.version() if backends.cudnn.is_available() else None
        settings["cudnn_benchmark"] = bool(backends.cudnn.benchmark)
    return settings
