"""``editkit new-plugin``: each kind is written, installed, checked, run and uninstalled."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit.cli.new_plugin import KINDS
from tests.editkit.benchmark.fakes import ROOT

Cli = Callable[..., tuple[int, str, str]]

LOCATE = """
from editkit import Fact, load_model
from try_out.config import TryOutConfig
from try_out.locator import TryOutLocator
fact = Fact("The capital of France is", "France", "Paris")
[traced] = TryOutLocator(TryOutConfig()).locate(load_model("atlas"), [fact])
assert len(traced.scores) == len(traced.tokens)
"""

SCORE_MODELS = """
from editkit import EditedModels, WeightDelta, load_model, make_model_metric
model = load_model("atlas")
unedited = WeightDelta({}, None, "none", {}, model.fingerprint)
[row] = make_model_metric("try-out").score(EditedModels(model, [unedited]))
assert row["try-out/known"] == 1, row
"""


JUDGE = """
from editkit import Attempt, OpenQuestion, make_judge
question = OpenQuestion("The capital of France is", (("Paris",),))
[verdict] = make_judge("try-out", later=0.5).judge([Attempt(question, "in Paris")])
assert verdict.score == 0.5, verdict
"""


class Environment:
    """An environment of its own that sees the running one's packages."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python = str(folder / "venv" / scripts / "python")
        self.folder = folder
        [site] = (folder / "venv").rglob("site-packages")
        running = sysconfig.get_path("purelib")
        lines = (f"import site; site.addsitedir({running!r})", str(ROOT))
        (site / "running.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run(self, *arguments: str) -> str:
        environ = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "EDITKIT_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [self.python, *arguments],
            capture_output=True, text=True, check=False, cwd=self.folder, env=environ, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def editkit(self, *arguments: str) -> str:
        return self.run("-m", "editkit", *arguments)

    def pip(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", self.python, "--no-input", *arguments],
            capture_output=True, text=True, check=False, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def offered(self) -> list[tuple[str, str]]:
        document = json.loads(self.editkit("plugins", "--json"))
        assert not document["broken"]
        return [(offer["kind"], offer["name"]) for offer in document["offers"]]


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "editor" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_a_new_plugin_can_be_installed_checked_run_and_removed(kind: str, tmp_path: Path) -> None:
    for needed in ("setuptools", "pip"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed, nothing can be installed here")
    environment = Environment(tmp_path)
    environment.editkit("new-plugin", "try-out", "--kind", kind, "--out", "made")
    environment.pip("install", "--no-build-isolation", "--no-deps", "--no-index", "./made")
    assert (kind, "try-out") in environment.offered()
    # check-plugin runs every rule of the contract: pytest runs the plugin's own tests and one rule
    own = ("-k", "summary or not test_contract", "made/tests")
    assert " passed" in environment.run("-m", "pytest", "-p", "no:cacheprovider", *own)
    assert "0 broken" in environment.editkit("check-plugin", "try-out")
    run = ("run-benchmark", "--limit", "2", "--no-mlflow", "--quiet", "--json")
    scripts = {"locator": LOCATE, "model_metric": SCORE_MODELS, "judge": JUDGE}
    if kind in scripts:
        environment.run("-c", scripts[kind])
    else:
        choice = {
            "editor": ("--editor", "try-out", "--metrics", "efficacy"),
            "metric": ("--editor", "none", "--metrics", "try-out"),
            "dataset": ("--editor", "none", "--metrics", "efficacy", "--dataset", "try-out"),
        }[kind]
        [cell] = json.loads(environment.editkit(*run, *choice))["cells"]
        assert cell["editor"] == ("try-out" if kind == "editor" else "none")
        assert "try-out" in json.dumps(cell) or kind == "dataset"
        if kind == "editor":
            assert cell["metrics"]["efficacy/score"]["mean"] == 1
            assert cell["edits"]["summary"] == ""
    environment.pip("uninstall", "--yes", "try-out")
    assert (kind, "try-out") not in environment.offered()


def test_a_new_plugin_is_imported_from_its_parent_folder(tmp_path: Path) -> None:
    """``./memit`` must not hide the package ``memit`` that is installed from it."""
    for needed in ("setuptools", "pip"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed, nothing can be installed here")
    environment = Environment(tmp_path)
    environment.editkit("new-plugin", "tryout")
    environment.pip("install", "--no-build-isolation", "--no-deps", "--no-index", "-e", "./tryout")
    assert ("editor", "tryout") in environment.offered()  # python -m, in the folder of ./tryout
    assert environment.run("-c", "import tryout; print(tryout.__file__)").endswith(
        "tryout/src/tryout/__init__.py\n"
    )


@pytest.mark.parametrize(
    ("name", "kind", "cls"),
    [
        *((f"my-{kind}", kind, f"My{kind.capitalize()}") for kind in KINDS if "_" not in kind),
        ("my-model-metric", "model_metric", "MyModelMetric"),
        ("model-metric", "model_metric", "ModelMetricMetric"),
        ("my-judges", "judge", "MyJudgesJudge"),
        ("my-editor", "judge", "MyEditorJudge"),
    ],
)
def test_a_name_that_ends_with_the_kind_is_not_doubled(
    name: str, kind: str, cls: str, tmp_path: Path, editkit: Cli
) -> None:
    code, _, _ = editkit("new-plugin", name, "--kind", kind, "--out", tmp_path / "made")
    assert code == 0
    texts = [path.read_text("utf-8") for path in (tmp_path / "made").rglob("*.py")]
    assert any(f"class {cls}(" in text for text in texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mine", "my-model-metric", "abcdefghij-klmnopqrst-uvwxyz12"])
def test_the_written_files_pass_ruff(kind: str, name: str, tmp_path: Path, editkit: Cli) -> None:
    ruff = shutil.which("ruff", path=sysconfig.get_path("scripts")) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    code, out, _ = editkit("new-plugin", name, "--kind", kind, "--out", tmp_path / "made")
    assert code == 0
    assert "pip install -e" in out
    text = "".join(path.read_text("utf-8") for path in (tmp_path / "made").rglob("*.*"))
    assert "{{" not in text.replace('{{"', "")
    for check in (["check", "--select", "E,F,W,I,B,UP,RUF"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *check, "--no-cache", "."],
            cwd=tmp_path / "made", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("class", "a Python keyword"),
        ("match", "a Python keyword"),
        ("json", "Python's standard library"),
        ("torch", "the distribution torch"),
        ("editkit", "of that name"),
        ("tests", "that is what tests are called"),
        ("yaml", "a package 'yaml' is installed"),
        ("rome", "editkit 0.1.0 is installed and has"),
        ("atlas", "is installed and has"),
        ("a/b", "expected at most 30 lower-case letters"),
        ("..", "expected at most 30 lower-case letters"),
        ("Mine", "expected at most 30 lower-case letters"),
        ("1st", "starting with a letter"),
        ("a--b", "'-' or '_' between them"),
        ("mine\n", "expected at most 30"),
        ("a" * 31, "expected at most 30"),
        ("", "expected at most 30"),
    ],
)
def test_names_that_are_not_safe_are_refused(
    name: str, message: str, tmp_path: Path, editkit: Cli
) -> None:
    code, _, err = editkit("new-plugin", name, "--out", tmp_path / "made")
    assert code == 2
    assert message in err or name == "editkit"
    assert "expected" in err
    assert not list(tmp_path.iterdir())


def test_a_leading_dash_is_refused(tmp_path: Path, editkit: Cli) -> None:
    code, _, err = editkit("new-plugin", "--out", tmp_path / "made", "--", "-mine")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "starting with a letter" in err


def test_a_folder_that_is_not_empty_is_not_changed(tmp_path: Path, editkit: Cli) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious").write_text("mine")
    code, _, err = editkit("new-plugin", "try-out", "--out", tmp_path / "made")
    assert code == 2
    assert "already exists, expected a new or empty folder" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "precious"]


def test_nothing_half_written_is_left(
    tmp_path: Path, editkit: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Path.write_text, []

    def full_disk(path: Path, text: str, **options: str) -> int:
        written.append(path)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full_disk)
    code, _, err = editkit("new-plugin", "try-out", "--out", tmp_path / "made")
    assert code == 2
    assert ": No space left on device" in err
    assert not list(tmp_path.iterdir())
