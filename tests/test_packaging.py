"""What setup.cfg promises is what lies on disk and what a wheel holds."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.resources
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
FROM_A_CLONE = {
    "editkit_benchmarks.scale",
    "editkit_benchmarks.speed",
    "editkit_benchmarks.sweeps",
}
"""Tools for developers: packages that run from a clone and are in no wheel."""

MAPPED = {
    "editkit": "editkit",
    **dict(
        (side.strip() for side in line.split("="))
        for line in SETUP["options"]["package_dir"].strip().splitlines()
    ),
}


def lines(section: str, key: str) -> list[str]:
    return SETUP[section][key].strip().splitlines()


def folder(package: str) -> Path:
    top, _, inside = package.partition(".")
    return ROOT / MAPPED[top] / inside.replace(".", "/")


def packages_on_disk() -> set[str]:
    packages = set()
    for top, name in MAPPED.items():
        for marker in (ROOT / name).rglob("__init__.py"):
            inside = marker.parent.relative_to(ROOT / name).parts
            packages.add(".".join([top, *inside]))
    return packages


def data_files() -> dict[str, set[str]]:
    """Data files by package, as the patterns of package_data find them."""
    return {
        package: {
            path.relative_to(folder(package)).as_posix()
            for pattern in SETUP["options.package_data"][package].split(",")
            for path in folder(package).glob(pattern.strip())
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
        for package in SETUP["options.package_data"]
    }


def test_the_package_list_is_what_lies_on_disk() -> None:
    listed = lines("options", "packages")
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk() - FROM_A_CLONE
    assert packages_on_disk() >= FROM_A_CLONE


def test_every_python_file_belongs_to_a_package() -> None:
    listed = set(lines("options", "packages"))
    stray = [
        str(path.relative_to(ROOT))
        for name in MAPPED.values()
        for path in (ROOT / name).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert not stray
    assert all(folder(package).is_dir() for package in listed)


def test_no_data_file_is_forgotten() -> None:
    shipped = data_files()
    forgotten = []
    # a terminal cannot show them
    only_in_a_clone = ("docs/images/", "docs/notebooks/", "docs/theme/")
    for top, name in MAPPED.items():
        for path in (ROOT / name).rglob("*"):
            if not path.is_file() or path.suffix in (".py", ".pyc") or path.name == "README.md":
                continue
            if str(path.relative_to(ROOT)).startswith(only_in_a_clone):
                continue
            if path.relative_to(ROOT / name).as_posix() not in shipped.get(top, set()):
                forgotten.append(str(path.relative_to(ROOT)))
    assert not forgotten


def test_data_files_are_found_as_resources() -> None:
    for package, names in data_files().items():
        for name in names:
            assert importlib.resources.files(package).joinpath(name).is_file(), (package, name)


def test_entry_points_resolve() -> None:
    declared = {
        tuple(side.strip() for side in line.split("=", 1))
        for group in SETUP["options.entry_points"]
        for line in lines("options.entry_points", group)
    }
    packages = {
        (point.name, point.value)
        for point in importlib.metadata.distribution("editkit").entry_points
    }
    assert packages == declared
    for point in importlib.metadata.distribution("editkit").entry_points:
        point.load()


@pytest.fixture
def wheel(
    tmp_path: Path, built_once: Callable[[str, Callable[[Path], None]], Path]
) -> zipfile.Path:
    """A wheel built from a copy of the tree, so that no build folder is left in it."""
    for needed in ("setuptools", "pip"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed, no wheel can be built here")

    def build(target: Path) -> None:
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tmp_path)
        for name in MAPPED.values():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        command = [sys.executable, "-m", "pip", "wheel", str(tmp_path), "--wheel-dir", str(target)]
        done = subprocess.run(
            [*command, "--no-deps", "--no-build-isolation", "--no-index", "--quiet"],
            cwd=target,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    (built,) = built_once("wheel", build).glob("*.whl")
    return zipfile.Path(built)


def test_a_wheel_holds_every_module_and_data_file(wheel: zipfile.Path) -> None:
    held = set(wheel.root.namelist())
    expected = {f"{package}/{name}" for package, names in data_files().items() for name in names}
    expected |= {
        f"{package.replace('.', '/')}/{path.name}"
        for package in lines("options", "packages")
        for path in folder(package).glob("*.py")
    }
    assert not expected - held
    code = {name for name in held if not name.endswith("/") and ".dist-info/" not in name}
    assert code == expected


def test_a_wheel_carries_the_licence(wheel: zipfile.Path) -> None:
    assert any(name.endswith("LICENSE") for name in wheel.root.namelist())
