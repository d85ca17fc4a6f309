from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from editkit import make_editor
from editkit.cli.main import main
from editkit.registry.models import model_folder

GUESS = "no file of values for '{}': layer 0 of 6, a guess: a tenth of the depth"


@pytest.fixture
def unknown(tmp_path: Path) -> str:
    """A model that no file of values knows."""
    folder = tmp_path / "my-gpt2"
    shutil.copytree(model_folder("atlas"), folder)
    return str(folder)


def test_run_benchmark_reports_the_layer_once(
    unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run-benchmark", "atlas", "--model", unknown, "--editor", "rome", "--limit", "2"]
    given += ["--seed", "0", "--seed", "1", "--out", str(tmp_path / "out"), "--dry-run", "--json"]
    assert main(given) == 0
    out, err = capsys.readouterr()
    assert err.count(GUESS.format(unknown)) == 1
    assert err.startswith("warning: rome: ")
    cells = json.loads(out)["cells"]
    assert [cell["config"]["layer"] for cell in cells] == [0, 0]
    assert {cell["sources"]["layer"] for cell in cells} == {"fallback rule"}
    assert main([*given, "--set", "editors.rome.layer=4"]) == 0
    out, err = capsys.readouterr()
    assert "layer 0 of 6" not in err
    assert json.loads(out)["cells"][0]["rule"] is None


def test_fallback_values_are_used_in_groups_that_the_user_left_alone(
    unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run-benchmark", "--model", unknown, "--editor", "ft+l", "--limit", "2", "--dry-run"]
    given += ["--json", "--out", str(tmp_path / "out")]

    def cell(*flags: str) -> tuple[dict[str, Any], dict[str, str]]:
        assert main([*given, *flags]) == 0
        [cell] = json.loads(capsys.readouterr().out)["cells"]
        return cell["config"], cell["sources"]

    config, sources = cell()
    assert (config["max_change"], config["max_relative_change"]) == (None, 2.0)
    assert sources["max_relative_change"] == sources["lr"] == "fallback"
    config, sources = cell("--set", "editors.ft+l.max_change=0.01")
    assert (config["max_change"], config["max_relative_change"]) == (0.01, None)
    config, _ = cell("--set", "editors.ft+l.max_relative_change=4")
    assert (config["max_change"], config["max_relative_change"]) == (None, 4.0)
    assert sources["lr"] == "fallback"
    config, sources = cell("--set", "editors.ft+l.preset=published")
    assert (config["max_change"], config["max_relative_change"]) == (5e-4, None)
    assert "fallback" not in sources.values()


def test_a_guess_is_a_warning_in_python_too(unknown: str, caplog: pytest.LogCaptureFixture) -> None:
    make_editor("rome", unknown)
    [layer, values] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert GUESS.format(unknown) in layer
    assert "first-look" in values


def test_a_registered_benchmark_leaves_out_editors_that_cannot_run(
    unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "other")
    shutil.copytree(unknown, model)
    config = Path(model, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_ctx": 96}))  # other identity
    given = ["run-benchmark", "--model", model, "--limit", "2", "--dry-run", "--json"]
    given += ["--out", str(tmp_path / "out")]
    assert main(given) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert list(document["left_out"]) == ["ke", "ke-cf", "mend", "mend-cf"]
    assert [cell["editor"] for cell in document["cells"]] == [
        "none", "ft", "ft+l", "attnedit", "kn", "rome",
    ]  # fmt: skip
    assert "warning: ke is left out: ke has not been trained for" in err
    assert main([*given, "--editor", "ke", "--editor", "mend"]) == 2
    err = capsys.readouterr().err
    assert "2 editors cannot run" in err
    assert "- ke: ke has not" in err
    assert "- mend: mend has not" in err


def test_a_guessed_layer_that_another_editor_beats_is_named(
    unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run-benchmark", "--model", unknown, "--limit", "4", "--no-mlflow", "--quiet"]
    given += ["--editor", "ft", "--editor", "rome", "--out", str(tmp_path / "out")]
    assert main([*given, "--set", "editors.rome.steps=1"]) == 0  # too few to learn anything
    err = capsys.readouterr().err
    assert "rome: S is 0.0 at layer 0, which is a guess, and ft has" in err
    assert "--set editors.rome.layer=auto" in err
    assert main([*given, "--set", "editors.rome.steps=1", "--set", "editors.rome.layer=0"]) == 0
    assert "which is a guess" not in capsys.readouterr().err


def test_one_corpus_for_all_editors(
    unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "texts.txt"
    corpus.write_text("A text.\n")
    given = ["run-benchmark", "--model", unknown, "--limit", "2", "--dry-run", "--json"]
    given += ["--out", str(tmp_path / "out"), "--corpus", str(corpus)]
    assert main([*given, "--editor", "rome", "--editor", "ft"]) == 0
    rome, _ = json.loads(capsys.readouterr().out)["cells"]
    assert rome["config"]["corpus"] == str(corpus)
    assert main([*given, "--editor", "ft"]) == 2
    assert "none of the editors ft takes a corpus" in capsys.readouterr().err


def test_describe_shows_the_layer(unknown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "rome", "--model", unknown]) == 0
    out = capsys.readouterr().out
    assert f"  fallback rule: {GUESS.format(unknown)}" in out
    assert "  layer = 0  (int >= 0 | None)  [fallback rule]" in out


def test_describe_shows_where_the_papers_values_come_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["describe", "rome", "--model", "openai-community/gpt2-xl"]) == 0
    out = capsys.readouterr().out
    assert "  layer = 17  (int >= 0 | None)  [editkit_configs/rome/models.yaml]" in out
    assert "  clamp = 4.0  (float > 0 | None)  [default]" in out
    assert "  note: as published" in out
    assert "fallback rule" not in out


def test_a_misspelt_editor_is_named_before_values_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["run-benchmark", "--editor", "romee", "--set", "editors.rome.layer=2", "--dry-run"]
    assert main(given) == 3
    assert "Did you mean 'rome'?" in capsys.readouterr().err
