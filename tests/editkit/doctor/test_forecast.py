"""The forecast of ``editkit doctor`` against the peak memory of a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from editkit.benchmark.store import rows_of, runs_in

TOLERANCE = 0.3
_ON_ATLAS = ("none", "ft", "ft+l", "attnedit", "kn", "rome", "mend-cf", "ke-cf")
_RUN = """
import json, sys
model, editor, n, values = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
from editkit import EditedModels, load_model, make_editor
from editkit.editing.edited_models import CandidateQuery
from editkit.storage.machine import peak_memory_of_this_process
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset
records = AtlasDataset(AtlasConfig()).load().records[:n]
loaded = load_model(model)
made = make_editor(editor, loaded, **values)
made.prepare(loaded)
deltas = made.edit(loaded, [record.request for record in records])
EditedModels(loaded, deltas).candidate_nll([
    CandidateQuery(i, probe.prompt, (probe.target_new, probe.target_true))
    for i, record in enumerate(records)
    for kind in ("rewrite", "paraphrase", "neighborhood")
    for probe in record.probes[kind]
])
print(peak_memory_of_this_process())
"""

_PEAK = """
from editkit.storage.machine import peak_memory_of_this_process
print(peak_memory_of_this_process())
kept = bytearray(100 * 2**20)
print(peak_memory_of_this_process())
"""


def measured_and_forecast(
    model: str, editor: str, n: int, values: dict[str, Any], cache: Path
) -> tuple[int, dict[str, int]]:
    """The measured peak in bytes, and the forecast before the run."""
    environment = {**os.environ, "EDITKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    sets = [f"editors.{editor}.{field}={json.dumps(value)}" for field, value in values.items()]
    flags = [part for each in sets for part in ("--set", each)]
    output = python(
        "-m", "editkit", "doctor", "--model", model, "--editor", editor, "--batch", str(n),
        "--tokens", "17", "--json", *flags,
    )  # fmt: skip
    peak = int(python("-c", _RUN, model, editor, str(n), json.dumps(values)))
    memory = json.loads(output)["memory"][editor]
    print(
        f"{editor}: forecast {memory['peak'] >> 20} MiB, measured {peak >> 20} MiB; beyond the "
        f"process {memory['beyond_base'] >> 20}, {(peak - memory['base']) >> 20}"
    )
    return peak, memory


@pytest.mark.slow
@pytest.mark.parametrize("editor", _ON_ATLAS)
def test_peak_on_atlas(editor: str, tmp_path: Path) -> None:
    values = {"corpus_tokens": 5000} if editor == "rome" else {}
    peak, forecast = measured_and_forecast("atlas", editor, 20, values, tmp_path)
    assert forecast["peak"] == pytest.approx(peak, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("editor", ["ultraedit", "lora", "ft"])
def test_peak_of_a_joint_edit_of_many_facts(editor: str, tmp_path: Path) -> None:
    environment = {**os.environ, "EDITKIT_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    values = [] if editor == "ultraedit" else ["--set", f"editors.{editor}.steps=2"]
    chosen = ["--editor", editor, "--joint", "1000", *values]

    def editkit(*arguments: str) -> str:
        command = [sys.executable, "-m", "editkit", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    forecast = json.loads(editkit("doctor", *chosen, "--tokens", "17", "--json"))["memory"][editor]
    out = tmp_path / "out"
    metrics = ("--metrics", "efficacy,paraphrase,neighborhood", "--model-metrics", "change-norm")
    editkit("run-benchmark", *chosen, "--limit", "1000", *metrics, "--no-mlflow", "--out", str(out))
    [run] = runs_in(out)
    peak = max(row.peak_rss_mb for row in rows_of(run, run.cells[0])) * 2**20
    print(f"{editor}: forecast {forecast['peak'] >> 20} MiB, measured {int(peak) >> 20} MiB")
    assert forecast["peak"] == pytest.approx(peak, rel=TOLERANCE)


@pytest.fixture(scope="module")
def gpt2_small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """GPT-2 small's shape with random weights and the embedded tokenizer, as a folder."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from editkit import load_model

    folder = tmp_path_factory.mktemp("models") / "gpt2-small-random"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    load_model("atlas").tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("editor", ["none", "rome", "ft", "ft+l", "attnedit", "kn"])
def test_peak_on_the_shape_of_gpt2_small(editor: str, gpt2_small: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {}
    if editor == "rome":
        corpus = "editkit_benchmarks.atlas:corpus_texts"
        values = {"corpus": corpus, "corpus_tokens": 2000, "ridge": 1e-3, "steps": 3, "layer": 4}
    elif editor not in ("none", "kn"):
        values = {"steps": 3, "layer": 4}
    n = 4 if editor in ("rome", "kn") else 20
    peak, forecast = measured_and_forecast(gpt2_small, editor, n, values, tmp_path)
    assert forecast["peak"] == pytest.approx(peak, rel=TOLERANCE)
    assert forecast["beyond_base"] == pytest.approx(peak - forecast["base"], rel=TOLERANCE)


def test_the_peak_excludes_the_parent_process(tmp_path: Path) -> None:
    ballast = bytearray(300 * 2**20)  # ru_maxrss of a child would count it
    done = subprocess.run(
        [sys.executable, "-c", _PEAK], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    before, after = map(int, done.stdout.split())
    assert len(ballast) > after - before > 90 * 2**20
    assert before < len(ballast)
