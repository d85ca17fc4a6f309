"""``editkit doctor`` needs only config files, and has the right exit code."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, GPTJConfig, LlamaConfig, OPTConfig

from editkit import RequestError
from editkit.cli.main import main
from editkit.registry.models import model_folder
from editkit_plugins.unedited.editor import NoEditor

LARGE: dict[str, tuple[Any, int]] = {
    "gpt2-xl": (GPT2Config(n_layer=48, n_embd=1600, n_head=25), 1_557_611_200),
    "gpt-j-6B": (GPTJConfig(), 6_050_882_784),
    "llama-8b": (
        LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128256,
        ),
        8_030_261_248,
    ),
}


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the document."""
    code = main(["doctor", *arguments, "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, json.loads(captured.out)


def checks(document: dict[str, Any], topic: str) -> list[dict[str, str]]:
    """The checks of a topic."""
    return [check for check in document["checks"] if check["topic"] == topic]


@pytest.mark.parametrize("name", LARGE)
def test_large_models_are_estimated_from_their_configs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, n_parameters = LARGE[name]
    folder = tmp_path / name
    config.save_pretrained(folder)
    _, document = doctor(
        capsys, "--model", str(folder), "--dtype", "bfloat16", "--editor", "rome", "--editor", "ft"
    )
    assert f"{n_parameters:,} weights" in checks(document, "architecture")[0]["text"]
    assert set(document["memory"]) == {"rome", "ft"}
    for memory in document["memory"].values():
        assert memory["weights"] == 2 * n_parameters
        assert memory["activations"] > 0
        assert memory["peak"] == memory["base"] + memory["beyond_base"]
    assert checks(document, "tokenizer")[0]["verdict"] == "problem"
    assert "no *.safetensors" in checks(document, "weights")[0]["text"]


def test_whether_a_statistic_is_cached_is_unknown_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "texts.txt"
    corpus.write_text("a text\n", encoding="utf-8")
    GPT2Config().save_pretrained(tmp_path / "gpt2-small")
    code, document = doctor(
        capsys, "--model", str(tmp_path / "gpt2-small"), "--editor", "rome",
        "--set", f"editors.rome.corpus={corpus}", "--set", "editors.rome.corpus_tokens=1000",
    )  # fmt: skip
    [statistic] = checks(document, "statistic of rome")
    assert "unknown whether it is cached" in statistic["text"]
    assert "1,000 tokens" in statistic["text"]
    assert code == 1


def test_a_statistic_must_be_computed_and_then_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from editkit import load_model, make_editor

    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    sets = ["--set", "editors.rome.corpus_tokens=500"]
    _, before = doctor(capsys, "--editor", "rome", *sets)
    model = load_model("atlas")
    make_editor("rome", model, corpus_tokens=500).prepare(model)
    _, after = doctor(capsys, "--editor", "rome", *sets)
    assert "must be computed" in checks(before, "statistic of rome")[0]["text"]
    assert "cached" in checks(after, "statistic of rome")[0]["text"]
    assert before["memory"]["rome"]["statistics"] == after["memory"]["rome"]["statistics"] > 0


def test_a_refused_variant_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OPTConfig(do_layer_norm_before=False).save_pretrained(tmp_path / "opt-350m")
    code, document = doctor(capsys, "--model", str(tmp_path / "opt-350m"))
    [check] = checks(document, "architecture")
    assert (code, check["verdict"]) == (1, "problem")
    assert "do_layer_norm_before" in check["text"]


def test_a_layer_that_does_not_exist_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = doctor(capsys, "--editor", "ft", "--set", "editors.ft.layer=99")
    assert code == 1
    assert "layer 99 does not exist" in checks(document, "ft")[0]["text"]


def test_a_model_that_does_not_fit_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("editkit.doctor.diagnose.available_memory", lambda device: 2**20)
    code, document = doctor(capsys, "--editor", "none")
    assert code == 1
    assert checks(document, "memory of none")[0]["verdict"] == "problem"


def test_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--editor", "none", "--editor", "ft"]) == 0
    out = capsys.readouterr().out
    assert "which does not matter" in out
    assert "nothing would stop the run" in out


def test_the_forecast_is_for_the_facts_that_one_call_gets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def activations(*arguments: str) -> dict[str, int]:
        """With a batch of one, so that editing needs more than scoring."""
        chosen = ("--editor", "ft", "--editor", "ultraedit", "--editor", "kn", "--batch", "1")
        memory = doctor(capsys, *chosen, *arguments)[1]["memory"]
        return {name: each["activations"] for name, each in memory.items()}

    alone, joint, steps = (
        activations(*flags)
        for flags in ((), ("--joint", "1000"), ("--sequential", "1000", "--step", "10"))
    )
    assert joint["kn"] == steps["kn"] == alone["kn"]  # writes one fact after the other
    assert alone["ultraedit"] < steps["ultraedit"] < joint["ultraedit"]
    assert joint["ft"] == activations("--joint", "128")["ft"]  # one copy, in batches of 128


def test_an_editor_without_a_corpus_can_edit_without_the_statistic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GPT2Config().save_pretrained(tmp_path / "gpt2-small")
    model = ["--model", str(tmp_path / "gpt2-small"), "--editor", "rome"]
    _, document = doctor(capsys, *model)
    [statistic] = checks(document, "statistic of rome")
    assert "first-look" in statistic["text"]  # the fallback
    _, document = doctor(capsys, *model, "--set", "editors.rome.corpus=null")
    [statistic] = checks(document, "statistic of rome")
    assert statistic["verdict"] == "problem"
    assert "set editors.rome.corpus, or editors.rome.second_moment=false" in statistic["text"]
    _, document = doctor(capsys, *model, "--set", "editors.rome.second_moment=false")
    assert not checks(document, "statistic of rome")


def test_the_command_to_paste_gives_the_same_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folder("atlas"), tmp_path / "unknown")
    model = ["--model", str(tmp_path / "unknown")]
    _, document = doctor(capsys, *model, "--editor", "rome", "--editor", "ft+l")
    command = shlex.split(document["command"].replace("\\\n", " "))
    assert command[:2] == ["editkit", "run-benchmark"]
    assert "editors.rome.layer=0" in command
    plans = []
    for arguments in (
        command[1:],
        ["run-benchmark", *model, "--editor", "rome", "--editor", "ft+l"],
    ):
        assert main([*arguments, "--limit", "1", "--dry-run", "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out)["cells"])
    assert [cell["config"] for cell in plans[0]] == [cell["config"] for cell in plans[1]]
    assert all("--set" in cell["sources"].values() for cell in plans[0])


def test_the_command_to_paste_leaves_out_editors_that_cannot_edit_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model_folder("atlas"), tmp_path / "unknown")
    code, document = doctor(capsys, "--model", str(tmp_path / "unknown"))
    assert code == 0
    [left_out] = checks(document, "mend")
    assert left_out["text"].startswith("left out: mend has not been trained")
    command = shlex.split(document["command"].replace("\\\n", " "))
    assert "rome" in command
    assert not {"ke", "ke-cf", "mend", "mend-cf"} & set(command)
    assert main([*command[1:], "--limit", "1", "--dry-run"]) == 0


def test_a_prediction_measures_editors_and_needs_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--editor", "none", "--editor", "rome", "--batch", "2", "--joint", "4"]
    flags += ["--set", "editors.rome.steps=1", "--set", "editors.rome.second_moment=false"]
    assert main(["doctor", *flags, "--records", "40", "--workers", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    prediction = document["prediction"]
    none, rome = prediction["cells"]
    assert (none["units"], none["rows"], none["skipped"]) == (10, 40, "")
    assert rome["work_s"] > 0
    assert none["work_s"] > 0
    assert rome["sequence_bytes"] > 0
    assert prediction["low_s"] < prediction["wall_s"] < prediction["high_s"]
    assert prediction["worker_bytes"] > 100 * 2**20
    command = shlex.split(document["command"].replace("\\\n", " "))
    assert "--limit 40 \\\n" in document["command"]
    assert command[-4:] == ["--ray", "local", "--workers", "3"]
    # However short the limit, each editor is measured, and only the records that exist are run.
    assert main(["doctor", *flags, "--records", "20_000", "--seconds", "0.001", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(each["measured"] == 4 for each in document["prediction"]["cells"])
    assert document["prediction"]["wall_s"] > document["prediction"]["startup_s"]
    assert "--limit 1000 \\\n" in document["command"]  # without it, the benchmark's own limit
    assert "--ray" not in document["command"]
    [note] = document["command_notes"]
    assert "it runs all 1,000 records of the dataset" in note


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--workers", "3"], "there is no --records"),
        (["--records", "10", "--seconds", "0"], "got '0', expected a number above 0"),
        (["--records", "99999999999999"], "expected a whole number from 1 to 100,000,000"),
        (["--records", "10", "--workers", "9999999"], "expected a whole number from 1 to 100,000"),
    ],
)
def test_a_prediction_refuses_numbers_out_of_range(
    flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *flags]) == 2
    assert reason in capsys.readouterr().err


def test_an_editor_that_fails_on_its_whole_sample_gets_no_prediction(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, *_: object) -> None:
        raise RequestError("no fact fits.", hint="None.")

    monkeypatch.setattr(NoEditor, "edit", fail)
    assert main(["doctor", "--editor", "none", "--records", "40", "--batch", "2"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "no prediction: none was not measured: every record of its sample failed" in text
    assert "time about" not in text
