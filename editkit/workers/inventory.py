"""What the machines of a cluster have installed, compared before any work.

:func:`inventory_here` is sent to the workers as it is, so that it also runs where editkit is
missing: it uses nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.errors import ClusterError, PluginError

__all__ = [
    "check_inventories",
    "inventory_here",
    "memory_kills",
    "packages_of_plugins",
    "processor_name",
]

LIBRARIES = ("editkit", "torch", "transformers", "tokenizers", "numpy")


def processor_name() -> str:
    """The model name of this machine's processor."""
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


def memory_kills() -> int:
    """How many processes of this machine, or of this container, the system killed for memory."""
    own = ""
    with contextlib.suppress(OSError):
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition(":")[2]
    groups = Path("/sys/fs/cgroup")
    for file in (groups / own.lstrip("/") / "memory.events", Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text(encoding="utf-8").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def packages_of_plugins(distribution: str | None = None) -> list[str]:
    """The top packages of all installed plugins, or of those of one distribution."""
    packages = {
        entry.value.partition(":")[0].partition(".")[0].strip()
        for entry in importlib.metadata.entry_points(group="editkit")
        if distribution is None or (entry.dist is not None and entry.dist.name == distribution)
    }
    return sorted(packages - {""})


def inventory_here(
    libraries: Sequence[str],
    distributions: Sequence[str],
    *,
    with_devices: bool = True,
) -> dict[str, Any]:
    """What this process has, as plain data.

    Args:
        libraries: Distributions that must agree; the first is editkit.
        distributions: Distributions of plugins.
        with_devices: Ask torch for the GPUs.

    Returns:
        ``host``, ``pid``, ``versions`` (by distribution, None where it is missing; with
        ``Python``), ``sources`` (a digest of editkit's source files, because all commits of a clone
        have one version), ``processors`` (the processor, then the models of the visible GPUs) and
        ``memory_kills`` (:func:`memory_kills`).
    """
    versions: dict[str, str | None] = {"Python": platform.python_version()}
    for name in [*libraries, *distributions]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    digest = hashlib.sha256()
    for package in [libraries[0], *packages_of_plugins(libraries[0])]:
        spec = importlib.util.find_spec(package)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        for place in places[:1]:
            for file in sorted(Path(place).rglob("*.py")):
                digest.update(file.relative_to(place).as_posix().encode())
                digest.update(file.read_bytes())
    processors = [processor_name()]
    if with_devices and versions.get("torch") is not None:
        torch: Any = importlib.import_module("torch")
        if torch.cuda.is_available():
            count = range(torch.cuda.device_count())
            processors += sorted({torch.cuda.get_device_name(number) for number in count})
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": sys.executable,
        "versions": versions,
        "sources": digest.hexdigest(),
        "processors": processors,
        "memory_kills": memory_kills(),
    }


def check_inventories(
    own: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], distributions: Iterable[str]
) -> str | None:
    """Compare the driver's inventory with those of the workers.

    Args:
        own: Of the driver.
        others: Of the workers, by name of the machine.
        distributions: Those of plugins.

    Returns:
        A warning, if the machines have different processors.

    Raises:
        ClusterError: editkit is missing on a machine, or versions differ.
        PluginError: A plugin is missing on a machine.
    """
    _check_missing(own, others, set(distributions))
    differences = [
        f"{name} {own['versions'][name] or 'is missing'} here, "
        + "; ".join(
            f"{version or 'none'} on {_listed(machines)}"
            for version, machines in _grouped(
                {machine: each["versions"].get(name) for machine, each in others.items()}
            )
            if version != own["versions"][name]
        )
        for name in own["versions"]
        if any(each["versions"].get(name) != own["versions"][name] for each in others.values())
    ]
    if differences:
        raise ClusterError(
            f"the machines have different versions: {'. '.join(differences)}.",
            hint="Install the same versions on every machine, with the Python that runs Ray there.",
        )
    changed = [machine for machine, each in others.items() if each["sources"] != own["sources"]]
    if changed:
        raise ClusterError(
            f"the source files of editkit on {_listed(changed)} differ from those here, although "
            f"both have version {own['versions']['editkit']}.",
            hint="Bring the clones of all machines to the same commit.",
        )
    kinds = {machine: " and ".join(each["processors"]) for machine, each in others.items()}
    if len(set(kinds.values())) == 1:
        return None
    listed = "; ".join(f"{kind} on {_listed(machines)}" for kind, machines in _grouped(kinds))
    return (
        "the machines have different processors, so the last digits of a result may depend on the "
        f"machine that computed it: {listed}."
    )


def _check_missing(
    own: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], distributions: set[str]
) -> None:
    lacking = [machine for machine, each in others.items() if not each["versions"].get("editkit")]
    if lacking:
        pythons = sorted({str(others[machine]["python"]) for machine in lacking})
        raise ClusterError(
            f"editkit is not installed on {_listed(lacking)} (Python {', '.join(pythons)}).",
            hint=f"Install it there: pip install 'editkit[ray]=={own['versions']['editkit']}'.",
        )
    for name in sorted(distributions):
        lacking = [machine for machine, each in others.items() if not each["versions"].get(name)]
        version = own["versions"].get(name)
        if lacking and version is not None:
            raise PluginError(
                f"the plugins of {name} are not installed on {_listed(lacking)}.",
                hint=f"Install them there: pip install {name}=={version}.",
            )


def _grouped(values: Mapping[str, Any]) -> list[tuple[Any, list[str]]]:
    """Machines by their value, in order of appearance."""
    groups: dict[Any, list[str]] = {}
    for machine, value in values.items():
        groups.setdefault(value, []).append(machine)
    return list(groups.items())


def _listed(machines: Sequence[str]) -> str:
    shown = ", ".join(machines[:4])
    return shown if len(machines) <= 4 else f"{shown} and {len(machines) - 4} more"
