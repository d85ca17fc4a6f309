"""What numbers depend on besides the cell's key: the machine, its threads, and the libraries.

None of it enters the key: results of two machines are results of one cell, and agree within
:data:`editkit.benchmark.merging.TOLERANCE`. It is recorded with every row, so that a difference can
be explained.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.benchmark.merging import environment_changes

if TYPE_CHECKING:
    from editkit.benchmark.store import Store

__all__ = ["environment_of", "record_environment"]

_log = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "numpy", "scipy")
_VARIABLES = (
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "DNNL_MAX_CPU_ISA"),
)


def environment_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """What results that this process computes now depend on, as plain data.

    Args:
        model: The model's description, with ``device`` and ``attention``.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": model.get("device"),
        "attention": model.get("attention"),
    }
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        found.update(_settings_of(torch))
    return {**found, **{name: os.environ[name] for name in _VARIABLES if name in os.environ}}


def record_environment(model: Mapping[str, Any], store: Store, fingerprints: Iterable[str]) -> None:
    """Keep what the coming rows are computed with, and log how earlier rows differ.

    Args:
        model: The model's description.
        store: Where the rows are put.
        fingerprints: The cells that they join.
    """
    environment = environment_of(model)
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
        "%d stored rows were computed in another environment (then, now: %s); theirs and the new "
        "ones may differ in the last digits. --fresh computes all of them here.",
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


def _processor() -> str:
    """The processor's model, as exactly as the system says it."""
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
