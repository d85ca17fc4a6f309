"""Real records of CounterFact and zsRE through the whole pipeline, on a tiny model.

Scores mean nothing there: the model was never taught such texts, and they are long in its tokens.
What counts is that no record fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from editkit.cli.main import main

EDITORS: dict[str, dict[str, Any]] = {
    "none": {},
    "ft": {"layer": 1},
    "ft+l": {"layer": 1},
    "rome": {
        "layer": 1,
        "corpus": "editkit_benchmarks.atlas:corpus_texts",
        "corpus_tokens": 20000,
        "ridge": 1e-3,
    },
    "attnedit": {"layer": 1, "steps": 4},
    "kn": {"steps": 4},
}
LITTLE_WORK: dict[str, dict[str, Any]] = {
    "ft": {"steps": 2},
    "ft+l": {"steps": 2},
    "rome": {"steps": 2, "corpus_tokens": 500},
    "attnedit": {"steps": 1},
    "kn": {"steps": 2},
}
CONTEXT = 128
FILES = {"counterfact": ("counterfact.json", 1000), "zsre": ("zsre_mend_eval.json", 600)}
METRICS = {"counterfact": ["efficacy", "paraphrase", "neighborhood"], "zsre": ["zsre"]}


def outcome(
    dataset: str,
    records: Path,
    shared: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, dict[str, Any]],
) -> tuple[dict[str, Any], str]:
    """The document of a run, and what it said."""
    editors = [
        {"name": name, "config": {**values, **changes.get(name, {})}}
        for name, values in EDITORS.items()
    ]
    benchmark = {
        "name": "real-records",
        "model": str(shared / "parity" / "model"),
        "dataset": {"name": dataset, "config": {"path": str(records)}},
        "metrics": METRICS[dataset],
        "batch": 20,
        "editors": editors,
    }
    file = folder / "benchmark.yaml"
    file.write_text(yaml.safe_dump(benchmark), encoding="utf-8")
    arguments = ["run-benchmark", str(file), "--out", str(folder / "out"), "--no-mlflow", "--json"]
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out), captured.err


def check(document: dict[str, Any], n: int) -> None:
    assert document["dataset"]["n_records"] == n
    assert document["dataset"]["rejected"] == 0
    assert [cell["editor"] for cell in document["cells"]] == list(EDITORS)
    for cell in document["cells"]:
        assert cell["records"] == {"done": n, "failed": 0}
        for name, estimate in cell["metrics"].items():
            assert name == "summary/score" or estimate["n"] == n, (cell["editor"], name)


@pytest.mark.parametrize("dataset", FILES)
def test_some_records_and_one_that_is_too_long(
    dataset: str,
    test_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    raw = json.loads((test_data / "data" / FILES[dataset][0]).read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(test_data / "parity" / "model" / "tokenizer.json"))
    lengths = [len(tokenizer.encode(longest_text(record)).ids) for record in raw]
    too_long = min((n, place) for place, n in enumerate(lengths) if n > CONTEXT)[1]
    file = tmp_path / "records.json"
    file.write_text(json.dumps([*raw[:3], raw[too_long]]), encoding="utf-8")
    document, captured = outcome(dataset, file, test_data, tmp_path, capsys, LITTLE_WORK)
    check(document, 4)
    assert f"longer than the context of {CONTEXT} tokens" in captured


def longest_text(record: dict[str, Any]) -> str:
    """The longest text that a metric scores, nearly."""
    if "loc" in record:
        return f"{record['loc']}? {record['loc_ans']}"
    return f"{max(record['paraphrase_prompts'], key=len)} and"


@pytest.mark.slow
@pytest.mark.parametrize("dataset", FILES)
def test_all_of_them(
    dataset: str,
    test_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    name, n = FILES[dataset]
    document, _ = outcome(dataset, test_data / "data" / name, test_data, tmp_path, capsys, {})
    check(document, n)
