"""Machines with other versions are refused, and named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from editkit.errors import ClusterError, EditkitError, PluginError
from editkit.workers.inventory import LIBRARIES, check_inventories, inventory_here
from tests.editkit.workers import needs_ray

OWN = inventory_here(LIBRARIES, ["pluggy"], with_devices=False)


def machine(**versions: str | None) -> dict[str, Any]:
    return {**OWN, "versions": {**OWN["versions"], **versions}}


def refused(kind: type[EditkitError], others: dict[str, dict[str, Any]]) -> EditkitError:
    with pytest.raises(kind) as caught:
        check_inventories(OWN, others, ["pluggy"])
    return caught.value


def test_the_same_versions_pass() -> None:
    assert check_inventories(OWN, {"a": machine(), "b": machine()}, ["pluggy"]) is None


def test_other_versions_are_refused_with_machines_and_versions() -> None:
    others = {"a": machine(), "b": machine(torch="2.5.0"), "c": machine(torch="2.5.0", Python="3")}
    message = refused(ClusterError, others).message
    assert f"torch {OWN['versions']['torch']} here, 2.5.0 on b, c" in message
    assert f"Python {OWN['versions']['Python']} here, 3 on c" in message
    assert "numpy" not in message


def test_other_source_files_with_the_same_version_are_refused() -> None:
    error = refused(ClusterError, {"a": machine(), "b": {**OWN, "sources": "other"}})
    assert "the source files of editkit on b differ" in error.message


def test_a_missing_package_is_named_with_the_machine_and_what_to_install() -> None:
    error = refused(ClusterError, {"a": machine(), "b": machine(editkit=None)})
    assert "editkit is not installed on b" in error.message
    assert "pip install 'editkit[ray]==" in str(error.hint)
    error = refused(PluginError, {"a": machine(pluggy=None), "b": machine()})
    assert "the plugins of pluggy are not installed on a." in error.message
    assert error.hint == f"Install them there: pip install pluggy=={OWN['versions']['pluggy']}."


def test_other_processors_are_a_warning() -> None:
    others = {"a": {**OWN, "processors": ["x", "GPU 1"]}, "b": {**OWN, "processors": ["x"]}}
    assert "x and GPU 1 on a; x on b" in str(check_inventories(OWN, others, []))


@needs_ray
def test_an_inventory_needs_no_editkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray sends by value runs in a Python that has only the standard library."""
    monkeypatch.setenv("RAY_CLIENT_MODE", "0")  # which importing Ray would set
    from ray import cloudpickle

    from editkit.workers import inventory

    cloudpickle.register_pickle_by_value(inventory)
    try:
        packed = tmp_path / "inventory"
        packed.write_bytes(cloudpickle.dumps(inventory_here))
    finally:
        cloudpickle.unregister_pickle_by_value(inventory)
    script = (
        "import pickle, sys, types\n"
        "sys.modules['editkit'] = None\n"
        "import importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        f"here = pickle.loads(open({str(packed)!r}, 'rb').read())\n"
        "print(here(('editkit', 'torch'), ())['versions'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'editkit': None, 'torch': None" in done.stdout
