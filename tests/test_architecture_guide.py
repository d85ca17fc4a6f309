"""The guide to architectures works as printed: its plugin is installed, its model is checked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
TEXT = GUIDE.read_text(encoding="utf-8")


def outputs() -> dict[str, str]:
    return dict(re.findall(r"<!-- output: (\w+) -->\n```\n(.*?)```", TEXT, re.DOTALL))


def editkit(folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        "EDITKIT_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "editkit", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout or done.stderr


@pytest.mark.slow
def test_the_plugin_of_the_guide(tmp_path: Path) -> None:
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))
    assert set(files) == {"model/config.json", "xglm_family.py", "pyproject.toml"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(files["model/config.json"], encoding="utf-8")
    assert editkit(tmp_path, "check-architecture", "model") == outputs()["modules"]

    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads(files["pyproject.toml"])["project"]
    (tmp_path / "xglm_family.py").write_text(files["xglm_family.py"], encoding="utf-8")
    installed = tmp_path / "editkit_xglm-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [f"{name} = {module}" for name, module in project["entry-points"]["editkit"].items()]
    (installed / "entry_points.txt").write_text("\n".join(["[editkit]", *points]) + "\n")
    listed = editkit(tmp_path, "plugins")
    assert re.search(r"architecture +xglm +editkit-xglm 0\.1\.0 ", listed)
    assert editkit(tmp_path, "check-architecture", "model") == outputs()["checked"]
