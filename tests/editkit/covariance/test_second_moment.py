"""Statistics of a new model: resumable, correct in any type, observed as they grow."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import ConfigError, LanguageModel, load_model
from editkit.cli.main import main
from editkit.covariance.accumulate import SumFile, accumulate, batched
from editkit.covariance.bench import LoadedModel, keys_of, rows_of
from editkit.covariance.convergence import Convergence, draw, health_of
from editkit.covariance.corpora import Corpus
from editkit.covariance.second_moment import (
    SecondMoment,
    Whitening,
    cached_second_moment,
    compute_second_moment,
    second_moment,
    second_moments,
)
from editkit.models.running import forward
from editkit.workers.pool import InProcess
from tests.tiny import SENTENCES, tiny

PATH = "transformer.h.1.mlp.c_proj"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    texts = [f"{SENTENCES[i % 5]} {i} {SENTENCES[i * 7 % 5]}" for i in range(900)]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    return Corpus(str(tmp_path / "texts.txt"))


def sums_of(
    model: LanguageModel, paths: list[str], texts: Iterable[str], **more: Any
) -> dict[str, tuple[torch.Tensor, int]]:
    """C and the number of tokens, by path."""
    with InProcess().opened(LoadedModel(model)) as crew:
        sums = accumulate(crew, paths, texts, **more)
    return {path: (own.gram.over(1), own.count) for path, own in sums.items() if own.gram}


# ---------------------------------------------------------------- resuming

_CHILD = """
import sys, time
import torch
torch.set_num_threads(1)
from editkit import load_model
from editkit.covariance.corpora import Corpus
from editkit.covariance.second_moment import second_moments

def slowly(count):
    print(count, flush=True)
    time.sleep(0.2)

second_moments(load_model("atlas"), sys.argv[1].split(), Corpus(sys.argv[2]), tokens=40_000,
               progress=slowly, seconds_between=0.0)
"""


@pytest.mark.slow
def test_sums_resume_bit_exact_after_kill_9(cache: Path, tmp_path: Path) -> None:
    paths = [f"transformer.h.{layer}.mlp.c_proj" for layer in (0, 2)]
    source = "editkit_benchmarks.atlas:corpus_texts"
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, " ".join(paths), source],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    before = [int(child.stdout.readline()) for _ in range(3)]
    time.sleep(0.1)  # the third batch is being kept, or was
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    partial = list((cache / "second_moment").glob("*.partial"))
    assert len(partial) == 2
    model = load_model("atlas")
    seen: list[int] = []
    moments = second_moments(model, paths, Corpus(source), tokens=40_000, progress=seen.append)
    assert seen[0] > before[1]  # two batches at least were not done again
    assert not any(file.exists() for file in partial)
    for path in paths:
        whole = compute_second_moment(model, path, Corpus(source).texts(), tokens=40_000)
        assert moments[path].count == whole.count == 40_000
        assert torch.equal(moments[path].matrix, whole.matrix)


def test_one_pass_serves_any_number_of_modules(
    cache: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each result has the bits, and the place in the cache, of one computed by itself."""
    model = tiny()
    paths = [f"transformer.h.{layer}.mlp.c_proj" for layer in (2, 0, 1)]
    batches: list[list[str]] = []

    def counted(model: LanguageModel, modules: list[str], rows: list[tuple[int, ...]]) -> Any:
        batches.append(modules)
        return keys_of(model, modules, rows)

    monkeypatch.setattr("editkit.covariance.bench.keys_of", counted)
    alone = {path: compute_second_moment(model, path, corpus.texts()) for path in paths}
    one_pass, batches = len(batches) // 3, []
    second_moment(model, paths[1], corpus)
    assert batches == [paths[1:2]] * one_pass
    batches.clear()
    together = second_moments(model, paths, corpus)
    assert batches == [[paths[0], paths[2]]] * one_pass
    batches.clear()
    for path in paths:
        cached = second_moment(model, path, corpus)
        for moment in (together[path], cached):
            assert moment.count == alone[path].count
            assert torch.equal(moment.matrix, alone[path].matrix)
    assert not batches


def test_sums_that_are_ahead_wait_for_the_others(corpus: Corpus, tmp_path: Path) -> None:
    model, other = tiny(), "transformer.h.0.mlp.c_proj"
    files = {path: SumFile(tmp_path / path, of={"module": path}) for path in (PATH, other)}

    def interrupt(count: int) -> None:
        if count > 8000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sums_of(model, [PATH], corpus.texts(), files={PATH: files[PATH]}, progress=interrupt)
    assert files[PATH].path.exists()
    sums = sums_of(model, [PATH, other], corpus.texts(), files=files)
    for path in (PATH, other):
        total, count = sums_of(model, [path], corpus.texts())[path]
        assert sums[path][1] == count
        assert torch.equal(sums[path][0], total)


@pytest.mark.parametrize("damage", ["cut", "flip", "none"])
def test_an_interrupted_sum_is_resumed_unless_it_is_damaged(
    damage: str, corpus: Corpus, tmp_path: Path
) -> None:
    model, file = tiny(), tmp_path / "sum.partial"
    whole = sums_of(model, [PATH], corpus.texts())[PATH]

    def interrupt(count: int) -> None:
        if count > whole[1] // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sums_of(model, [PATH], corpus.texts(), files={PATH: SumFile(file)}, progress=interrupt)
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-1] ^= 1
    file.write_bytes(content)
    seen: list[int] = []
    again = sums_of(
        model, [PATH], corpus.texts(), files={PATH: SumFile(file)}, progress=seen.append
    )[PATH]
    assert torch.equal(again[0], whole[0])
    assert again[1] == whole[1]
    assert (seen[0] > whole[1] // 2) == (damage == "none")


def test_an_unfinished_sum_of_another_model_is_not_resumed(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, file = tiny(), tmp_path / "sum.partial"
    whole = sums_of(model, [PATH], corpus.texts())[PATH]

    def interrupt(count: int) -> None:
        if count > whole[1] // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        other = SumFile(file, of={"model": "other"})
        sums_of(tiny(seed=1), [PATH], corpus.texts(), files={PATH: other}, progress=interrupt)
    again = sums_of(
        model, [PATH], corpus.texts(), files={PATH: SumFile(file, of={"model": "ours"})}
    )[PATH]
    assert torch.equal(again[0], whole[0])
    [record] = caplog.records
    assert "belongs to something else (model is 'other', expected 'ours')" in record.message


def test_the_watchers_state_is_saved_with_the_sum(corpus: Corpus, tmp_path: Path) -> None:
    model, file = tiny(), tmp_path / "sum.partial"
    keys = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    whole = Convergence(keys, 1e-2, first=1024)
    sums_of(model, [PATH], corpus.texts(), watchers={PATH: whole})
    assert len(whole.directions) > 2

    def interrupt(count: int) -> None:
        if len(parts.directions) == 2:
            raise KeyboardInterrupt

    parts = Convergence(keys, 1e-2, first=1024)
    with pytest.raises(KeyboardInterrupt):
        sums_of(
            model,
            [PATH],
            corpus.texts(),
            files={PATH: SumFile(file)},
            watchers={PATH: parts},
            progress=interrupt,
        )
    resumed = Convergence(keys, 1e-2, first=1024)
    sums_of(model, [PATH], corpus.texts(), files={PATH: SumFile(file)}, watchers={PATH: resumed})
    assert resumed.directions.keys() == whole.directions.keys()
    assert all(torch.equal(d, whole.directions[n]) for n, d in resumed.directions.items())


# ---------------------------------------------------------------- the numbers


def test_half_precision_does_not_lose_precision_in_the_sum(corpus: Corpus) -> None:
    """Sums in bfloat16 would stop growing; ours agree with float64 over the same keys."""
    model = tiny(dtype=torch.bfloat16)
    moment = compute_second_moment(model, PATH, corpus.texts())
    sums, count = torch.zeros(128, 128, dtype=torch.float64), 0
    for rows in batched(rows_of(model, list(corpus.texts()), 2048)):
        keys = keys_of(model, [PATH], rows)[PATH].double()
        sums, count = sums + keys.T @ keys, count + len(keys)
    assert moment.count == count
    assert float((moment.matrix - sums / count).norm() / (sums / count).norm()) < 1e-6


def test_keys_of_rows_of_any_length_run_with_little_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, passed = tiny(), []

    def counted(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
        passed.append(ids.numel())
        return forward(model, ids)

    monkeypatch.setattr("editkit.covariance.bench.forward", counted)
    rows = [tuple(range(i + 5, i + 5 + (40 if i % 5 == 2 else 3 + i % 3))) for i in range(30)]
    together = keys_of(model, [PATH], rows)[PATH]
    assert sum(passed) < 1.5 * sum(map(len, rows)) < 0.6 * 40 * len(rows)
    alone = torch.cat([keys_of(model, [PATH], [row])[PATH] for row in rows])
    assert torch.allclose(together, alone, atol=1e-6)


def test_whitening_solves_one_key_and_several() -> None:
    g = torch.Generator().manual_seed(0)
    samples = torch.randn(500, 16, generator=g)
    statistic = SecondMoment(samples.T @ samples / 500, 500)
    keys = torch.randn(4, 16, generator=g)
    ridged = statistic.matrix + 0.1 * statistic.matrix.diagonal().mean() * torch.eye(16)
    expected = torch.linalg.solve(ridged, keys.T).T
    before = statistic.matrix.clone()
    whitening = Whitening.of(statistic, 0.1)
    assert torch.allclose(whitening.solve(keys), expected, rtol=1e-4)
    assert torch.allclose(whitening.solve(keys[0]), expected[0], rtol=1e-4)
    assert torch.equal(statistic.matrix, before)


def test_directions_settle_as_the_sample_grows(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.1, 3, 24)
    watcher = Convergence(torch.randn(8, 24, generator=g), 0.0, first=8)
    total, count = torch.zeros(24, 24, dtype=torch.float64), 0
    for _ in range(1000):
        keys = torch.randn(8, 24, generator=g) * scale
        total, count = total + (keys.T @ keys).double(), count + 8
        if watcher.is_due(count):
            watcher.look((total / count).float(), count)
    statistic = SecondMoment((total / count).float(), count)
    report = watcher.report(statistic)
    assert report is not None
    assert 8 not in {sample.tokens for sample in report.samples}  # singular there
    means = [sample.mean for sample in report.samples]
    assert means == sorted(means)
    assert means[0] < 0.95
    assert report.enough
    assert "u has settled" in report.verdict()
    draw(report, "test", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    health = health_of(statistic, 0.0)
    assert health.invertible
    assert health.condition == pytest.approx(float(torch.linalg.cond(statistic.matrix)), rel=1e-3)


def test_silent_neurons_and_singular_moments_are_reported() -> None:
    matrix = torch.eye(6)
    matrix[2, 2] = 0.0
    health = health_of(SecondMoment(matrix, 10), 0.0)
    assert (health.silent, health.invertible, health.condition) == (1, False, float("inf"))
    assert health_of(SecondMoment(matrix, 10), 1e-3).invertible


# ---------------------------------------------------------------- corpora


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder instead of the hub: ``datasets`` loads it in the same way, offline."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    (tmp_path / "rows").mkdir()
    rows = [json.dumps({"text": f"text number {i}"}) for i in range(200)]
    (tmp_path / "rows" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return f"hub:{tmp_path / 'rows'}"


def test_rows_of_a_hub_dataset_are_a_random_sample_without_replacement(hub: str) -> None:
    stored = [f"text number {i}" for i in range(200)]
    every = list(Corpus(hub).texts())
    assert sorted(every) == sorted(stored)
    assert every != stored
    some = list(Corpus(f"{hub}::train[:50]").texts())
    assert some == every[:50]
    assert max(int(text.split()[-1]) for text in some) > 100  # not the first ones
    assert list(Corpus(hub, seed=0).texts()) == every
    assert set(Corpus(f"{hub}::train[:50]", seed=1).texts()) != set(some)
    with pytest.raises(ConfigError, match=r"split 'train\[5:7\]'"):
        list(Corpus(f"{hub}::train[5:7]").texts())


def test_rows_of_a_hub_dataset_in_stored_order_are_streamed(
    hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    load, how = datasets.load_dataset, []

    def watched(*args: object, **more: object) -> object:
        how.append(more["streaming"])
        return load(*args, **more)

    monkeypatch.setattr(datasets, "load_dataset", watched)
    stored = [f"text number {i}" for i in range(200)]
    assert list(Corpus(hub, "stored").texts()) == stored
    assert list(Corpus(f"{hub}::train[:7]", "stored").texts()) == stored[:7]
    assert len(list(Corpus(f"{hub}::train[:7]").texts())) == 7
    assert how == [True, True, False]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_a_file_in_random_order(tmp_path: Path, name: str) -> None:
    texts = [f"{'zoë ' * (i % 5)}line {i}" for i in range(120)]
    lines = [json.dumps({"text": text}) if "jsonl" in name else text for text in texts]
    content = ("\n\n".join(lines) + "\n").replace("\n\n", "\n" if "jsonl" in name else "\n\n")
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    stored, mixed = Corpus(str(path)), Corpus(str(path), "random")
    assert list(stored.texts()) == texts
    shuffled = list(mixed.texts())
    assert sorted(shuffled) == sorted(texts)
    assert shuffled != texts
    assert list(Corpus(str(path), "random").texts()) == shuffled
    other = Corpus(str(path), "random", 7)
    assert list(other.texts()) != shuffled
    assert len({stored.digest(), mixed.digest(), other.digest()}) == 3


def test_functions_and_datasets_have_a_random_order_too() -> None:
    for source in ("dataset:atlas", "editkit_benchmarks.atlas:corpus_texts"):
        stored = list(Corpus(source).texts())
        mixed = list(Corpus(source, "random").texts())
        assert sorted(mixed) == sorted(stored)
        assert mixed != stored


def test_a_text_is_cut_at_the_row_length(cache: Path) -> None:
    model = tiny()
    texts = [" ".join(SENTENCES) * 2, SENTENCES[0]]
    lengths = [len(encoding.ids) for encoding in model.encode(texts)]
    assert min(lengths) > 5
    assert compute_second_moment(model, PATH, texts, row_tokens=5).count == 10
    whole = sum(min(length, model.context_length) for length in lengths)
    assert compute_second_moment(model, PATH, texts).count == whole
    assert compute_second_moment(model, PATH, texts, tokens=8, row_tokens=5).count == 8


def test_order_and_row_length_are_part_of_the_key(
    cache: Path, tmp_path: Path, corpus: Corpus
) -> None:
    model = tiny()
    mixed = dataclasses.replace(corpus, order="random")
    first = second_moment(model, PATH, corpus, tokens=60)
    sampled = second_moment(model, PATH, mixed, tokens=60)
    short = second_moment(model, PATH, corpus, tokens=60, row_tokens=3)
    assert len(list((cache / "second_moment").glob("*.safetensors"))) == 3
    assert not torch.equal(first.matrix, sampled.matrix)
    assert not torch.equal(first.matrix, short.matrix)
    file = cached_second_moment(model.fingerprint, PATH, corpus, 60, "float32", 3)
    assert file is not None
    assert cached_second_moment(model.fingerprint, PATH, corpus, 60, "float32", 4) is None


def test_a_corpus_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    for order in ("stored", "random"):
        with pytest.raises(ConfigError, match="is not UTF-8"):
            list(Corpus(str(tmp_path / "latin.txt"), order).texts())


def test_the_facts_of_a_dataset_are_a_corpus() -> None:
    corpus = Corpus("dataset:atlas")
    texts = list(corpus.texts())
    assert len(texts) == len(set(texts)) > 1000
    assert all(text.endswith(".") for text in texts)
    assert corpus.digest() == Corpus("dataset:atlas").digest()


# ---------------------------------------------------------------- the command


def statistics(corpus: Corpus | str, *more: str) -> int:
    source = corpus if isinstance(corpus, str) else corpus.source
    return main(["statistics", "atlas", "--layer", "1", "--corpus", source, "--quiet", *more])


def test_the_command_computes_reports_and_caches(
    cache: Path, tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--tokens", "9000", "--ridge", "1e-3", "--out", str(tmp_path / "report"))
    assert statistics(corpus, *arguments) == 0
    out = capsys.readouterr().out
    assert "9,000 tokens" in out
    assert "mean cosine" in out
    report = json.loads((tmp_path / "report" / "convergence.json").read_text())
    assert report["tokens"] == 9000
    assert report["convergence"]["samples"]
    assert (tmp_path / "report" / "convergence.png").is_file()
    model = load_model("atlas")
    assert cached_second_moment(model.fingerprint, PATH, corpus, 9000, "float32")
    assert not cached_second_moment(model.fingerprint, PATH, corpus, 9001, "float32")
    assert statistics(corpus, "--tokens", "9000", "--json") == 0
    assert json.loads(capsys.readouterr().out)["was_cached"]
    sample = ("--order", "random", "--corpus-seed", "3", "--row-tokens", "9", "--ridge", "0.1")
    assert statistics(corpus, "--tokens", "900", "--json", *sample) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["was_cached"], report["order"], report["row_tokens"]) == (
        False,
        "random, seed 3",
        9,
    )
    mixed = dataclasses.replace(corpus, order="random", seed=3)
    assert cached_second_moment(model.fingerprint, PATH, mixed, 900, "float32", 9)
    assert statistics(corpus, "--tokens", "9000", "--json", "--fresh", "--records", "atlas") == 0
    assert not json.loads(capsys.readouterr().out)["was_cached"]


def test_a_singular_moment_has_its_own_exit_code_and_is_cached(
    cache: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert statistics(corpus, "--tokens", "300") == 1
    out = capsys.readouterr().out
    assert "can not be inverted" in out
    assert "1e-3 is common" in out
    assert statistics(corpus, "--tokens", "300", "--ridge", "1e-2") == 0


def test_a_short_corpus_is_reported(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    statistics(str(tmp_path / "short.txt"), "--tokens", "5000", "--ridge", "1")
    assert "warning: the corpus has only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "nowhere.txt"], "corpus 'nowhere.txt' is not a file"),
        (["--corpus", "empty.txt"], "the corpus has no text"),
        (["--corpus", "texts.txt", "--layer", "99"], "layer 99 does not exist"),
        (["--corpus", "texts.txt", "--ridge", "-1"], "--ridge: got '-1'"),
        (["--corpus", "texts.txt", "--dtype", "int3"], "dtype is 'int3'"),
        (["--corpus", "texts.txt", "--records", "nobody"], "no dataset named 'nobody'"),
    ],
)
def test_invalid_arguments_have_clear_errors(
    arguments: list[str],
    message: str,
    cache: Path,
    corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    layer = [] if "--layer" in arguments else ["--layer", "0"]
    assert main(["statistics", "atlas", *layer, *arguments]) in (2, 3)
    assert message in capsys.readouterr().err
    assert not list(cache.rglob("*.safetensors"))
