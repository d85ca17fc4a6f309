"""Second moments by workers: the bits of one process, whatever happens to the workers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editkit import ClusterError, LanguageModel, load_model
from editkit.cli.main import main
from editkit.covariance import accumulate as accumulating
from editkit.covariance.accumulate import SumFile, accumulate, parted
from editkit.covariance.bench import LoadedModel, SumBench, SumPart
from editkit.covariance.convergence import Convergence
from editkit.covariance.corpora import Corpus
from editkit.covariance.gram import Gram, Sum
from editkit.covariance.second_moment import second_moment, second_moments_of_crew
from editkit.workers.pool import InProcess, Pool
from tests.pools import Death, PicklingPool
from tests.tiny import SENTENCES, tiny

PATHS = ["transformer.h.1.mlp.c_proj", "transformer.h.0.mlp.c_proj"]
TEXTS = [f"{SENTENCES[i % 5]} {i} {SENTENCES[i * 7 % 5]}" for i in range(900)]


@functools.cache
def model() -> LanguageModel:
    return tiny()


class Recipe:
    """Benches that share one model, to save time."""

    def build(self) -> SumBench:
        return SumBench(model())


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 50 batches, so that there are parts of 1, 2 and 4 of them."""
    monkeypatch.setattr(accumulating, "TOKENS_PER_PASS", 256)
    monkeypatch.setattr(accumulating, "_TEXTS_PER_READ", 50)


def summed(pool: Pool, **more: Any) -> dict[str, Sum]:
    with pool.opened(Recipe()) as crew:
        return accumulate(crew, PATHS, TEXTS, is_local=pool.is_local, **more)


@functools.cache
def expected() -> Mapping[str, Sum]:
    return summed(InProcess())


def assert_equal(sums: Mapping[str, Sum]) -> None:
    for path in PATHS:
        own, other = sums[path], expected()[path]
        assert (own.count, own.added) == (other.count, other.added)
        assert own.gram is not None
        assert other.gram is not None
        for block, block_of_other in zip(own.gram.blocks, other.gram.blocks, strict=True):
            assert torch.equal(block, block_of_other)


# ---------------------------------------------------------------- parts and matrices


def test_parts_are_short_first_and_double_in_eight_steps() -> None:
    sizes = [len(part) for part in parted([(i,)] for i in range(16 + 16 + 32 + 64 + 3))]
    assert sizes == [1] * 16 + [2] * 8 + [4] * 8 + [8] * 8 + [3]
    assert max(len(part) for part in parted([(i,)] for i in range(2000))) == 64


def test_a_gram_matrix_in_blocks_is_the_whole_one() -> None:
    keys = torch.randn(700, 1300, generator=torch.Generator().manual_seed(0))
    gram = Gram.of(keys[:300])
    gram.add_keys(keys[300:500])
    gram.add(Gram.of(keys[500:]))
    assert [tuple(block.shape) for block in gram.blocks] == [(512, 1300), (512, 788), (276, 276)]
    whole = gram.over(700)
    exact = keys.T.double() @ keys.double() / 700
    assert float((whole - exact).abs().max()) < 1e-6
    assert torch.equal(whole, whole.T)
    assert whole.dtype == torch.float32


# ---------------------------------------------------------------- workers


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_sums_do_not_depend_on_the_workers(workers: int) -> None:
    pool, seen = PicklingPool(workers), list[int]()
    assert_equal(summed(pool, progress=seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == expected()[PATHS[0]].count
    sizes = {len(job.batches) for job in pool.jobs if isinstance(job, SumPart)}
    assert {1, 2, 4} <= sizes


def test_the_number_of_tokens_is_exact_on_workers() -> None:
    with PicklingPool(3).opened(Recipe()) as crew:
        sums = accumulate(crew, PATHS[:1], TEXTS, tokens=1234, is_local=False)
    with InProcess().opened(Recipe()) as crew:
        alone = accumulate(crew, PATHS[:1], TEXTS, tokens=1234)
    assert sums[PATHS[0]].count == 1234
    one, other = sums[PATHS[0]].gram, alone[PATHS[0]].gram
    assert one is not None
    assert other is not None
    assert torch.equal(one.over(1), other.over(1))


def test_jobs_of_dead_workers_are_done_again() -> None:
    deaths: list[Any] = []

    def dies(job: Any, answers: int) -> Death | None:
        if len(deaths) < 6 and len(pool.jobs) % 7 == 5 and job not in deaths[-1:]:
            deaths.append(job)
            return Death()
        return None

    pool = PicklingPool(3, dies)
    assert_equal(summed(pool))
    assert len({type(job) for job in deaths}) == 2  # readers and adders


def test_texts_that_kill_workers_end_the_run() -> None:
    pool = PicklingPool(2, lambda job, answers: Death("too long") if answers == 1 else None)
    with pytest.raises(ClusterError, match="3 workers died over the same texts: too long"):
        summed(pool)


def test_a_worker_with_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = iter("ab")
    monkeypatch.setattr(SumBench, "about", lambda self: {"fingerprint": next(fingerprints)})
    with pytest.raises(ClusterError, match="fingerprint is 'b', expected 'a'"):
        summed(PicklingPool(2))


# ---------------------------------------------------------------- interruptions


@pytest.mark.parametrize("first", [InProcess(), PicklingPool(3)], ids=["process", "workers"])
@pytest.mark.parametrize("then", [InProcess(), PicklingPool(2)], ids=["process", "workers"])
@pytest.mark.parametrize("tokens", [2000, 9100])
def test_interrupted_sums_resume_anywhere(
    tmp_path: Path, first: Pool, then: Pool, tokens: int
) -> None:
    files = {path: SumFile(tmp_path / f"{i}", of={"path": i}) for i, path in enumerate(PATHS)}

    def interrupt(count: int) -> None:
        if count > tokens:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        summed(first, files=files, progress=interrupt)
    seen: list[int] = []
    assert_equal(summed(then, files=files, progress=seen.append))
    if first.is_local:
        assert seen[0] > tokens  # within a part, too
    else:
        assert seen[0] > tokens / 2


def test_an_interruption_within_an_addition_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path: SumFile(tmp_path / f"{i}", 0.0) for i, path in enumerate(PATHS)}
    add_keys, calls = Gram.add_keys, list[int]()

    def interrupted(self: Gram, keys: Tensor) -> None:
        add_keys(self, keys)
        calls.append(len(keys))
        if len(calls) == 25:
            raise KeyboardInterrupt  # the matrix has the keys, and the count has not

    with monkeypatch.context() as context:
        context.setattr(Gram, "add_keys", interrupted)
        with pytest.raises(KeyboardInterrupt):
            summed(InProcess(), files=files)
    seen: list[int] = []
    assert_equal(summed(InProcess(), files=files, progress=seen.append))
    assert seen[0] > 4000


def test_an_unfinished_sum_of_an_earlier_version_starts_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import save_file

    from editkit.storage.digests import ascii_json, digest_of_tensors

    facts: dict[str, Any] = {"count": 10, "batches": 1, "of": None}
    tensors = {"total": torch.eye(128, dtype=torch.float64)}
    facts["digest"] = digest_of_tensors(tensors, ascii_json(facts))
    save_file(tensors, tmp_path / "sum", metadata={"sum": json.dumps(facts)})
    assert_equal(summed(InProcess(), files={PATHS[0]: SumFile(tmp_path / "sum")}))
    assert "is from an earlier version; the sum starts over" in caplog.text


def test_watchers_see_the_same_on_workers(tmp_path: Path) -> None:
    keys = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    here, there, resumed = (Convergence(keys, 1e-2, first=256) for _ in range(3))
    summed(InProcess(), watchers={PATHS[0]: here})
    summed(PicklingPool(3), watchers={PATHS[0]: there})
    assert len(here.directions) > 4
    assert here.directions.keys() == there.directions.keys()
    assert all(torch.equal(d, there.directions[n]) for n, d in here.directions.items())
    file = {PATHS[0]: SumFile(tmp_path / "sum")}

    def interrupt(count: int) -> None:
        if count > 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watcher = Convergence(keys, 1e-2, first=256)
        pool = PicklingPool(3)
        summed(pool, watchers={PATHS[0]: watcher}, files=file, progress=interrupt)
    summed(InProcess(), watchers={PATHS[0]: resumed}, files=file)
    assert here.directions.keys() == resumed.directions.keys()


# ---------------------------------------------------------------- the cache and the command


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return Corpus("texts.txt")


def test_workers_fill_the_same_cache(corpus: Corpus) -> None:
    with PicklingPool(2).opened(Recipe()) as crew:
        moments = second_moments_of_crew(crew, PATHS, corpus, tokens=3000, is_local=False)
    with PicklingPool(2, lambda job, answers: Death("not needed")).opened(Recipe()) as crew:
        cached = second_moments_of_crew(crew, PATHS, corpus, tokens=3000, is_local=False)
    for path in PATHS:
        alone = second_moment(model(), path, corpus, tokens=3000)
        assert torch.equal(alone.matrix, moments[path].matrix)
        assert torch.equal(alone.matrix, cached[path].matrix)


def test_the_command_takes_several_layers_in_one_pass(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["statistics", "atlas", "--corpus", "texts.txt", "--tokens", "6000", "--quiet"]
    arguments += ["--ridge", "1e-2"]
    assert main([*arguments, "--layer", "2"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--layer", "0,2,0", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["layers"]
    assert (first["layer"], second["layer"]) == (0, 2)
    assert (first["was_cached"], second["was_cached"]) == (False, True)
    assert Path("editkit-statistics/convergence-layer-0.png").is_file()
    assert main([*arguments, "--layer", "0,2"]) == 0
    assert capsys.readouterr().out.count("It was in the cache") == 2
    atlas = load_model("atlas")
    path = atlas.path(0, "mlp_out")
    with InProcess().opened(LoadedModel(atlas)) as crew:
        alone = accumulate(crew, [path], corpus.texts(), tokens=6000)[path]
    assert alone.gram is not None
    cached = second_moment(atlas, path, corpus, tokens=6000)
    assert torch.equal(cached.matrix, alone.gram.over(6000))
    assert main([*arguments, "--layer", "0,x"]) == 2
    assert "--layer: got 'x', expected a whole number" in capsys.readouterr().err
