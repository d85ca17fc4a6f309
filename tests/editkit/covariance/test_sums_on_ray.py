"""Statistics on a Ray cluster of this machine: the bits of one process, also after a kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import load_model
from editkit.cli.main import main
from editkit.covariance.accumulate import accumulate
from editkit.covariance.bench import Answer, Job, LoadedModel, SumBench, SumPart
from editkit.covariance.corpora import Corpus
from editkit.covariance.second_moment import cached_second_moment, second_moments
from editkit.workers.pool import InProcess
from editkit.workers.ray_pool import RayPool
from tests.tiny import SENTENCES, tiny

pytest.importorskip("ray", reason="ray is not installed: pip install 'editkit[ray]'")

PATH = "transformer.h.1.mlp.c_proj"
TEXTS = [f"{SENTENCES[i % 5]} {i} {SENTENCES[i * 7 % 5]}" for i in range(4000)]


@pytest.mark.slow
def test_the_command_on_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n".join(TEXTS[:900]), encoding="utf-8")
    arguments = ["statistics", "atlas", "--layer", "0,2", "--corpus", "texts.txt", "--quiet"]
    arguments += ["--tokens", "15000", "--ridge", "1e-2", "--ray", "local", "--workers", "2"]
    assert main([*arguments, "--json"]) == 0
    documents = json.loads(capsys.readouterr().out)["layers"]
    assert [each["tokens"] for each in documents] == [15_000, 15_000]
    assert all(each["convergence"]["samples"] for each in documents)
    model, corpus = load_model("atlas"), Corpus("texts.txt")
    paths = [model.path(layer, "mlp_out") for layer in (0, 2)]
    cached = second_moments(model, paths, corpus, tokens=15_000)
    with InProcess().opened(LoadedModel(model)) as crew:
        alone = accumulate(crew, paths, corpus.texts(), tokens=15_000)
    for path in paths:
        assert cached_second_moment(model.fingerprint, path, corpus, 15_000, "float32")
        assert (gram := alone[path].gram) is not None
        assert torch.equal(cached[path].matrix, gram.over(15_000))


class Deadly:
    """A recipe for benches of a tiny model, of which one kills its process within a part."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def build(self) -> DeadlyBench:
        return DeadlyBench(self.flag)


class DeadlyBench(SumBench):
    def __init__(self, flag: Path) -> None:
        super().__init__(tiny())
        self.flag = flag

    def do(self, job: Job) -> Iterator[Answer]:
        for answer in super().do(job):
            if isinstance(job, SumPart) and job.number == 17 and self.flag.exists():
                self.flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            yield answer


@pytest.mark.slow
def test_a_worker_is_killed_within_a_part(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with InProcess().opened(Deadly(flag)) as crew:
        expected = accumulate(crew, [PATH], TEXTS)[PATH]
    flag.touch()
    with RayPool("local", workers=2).opened(Deadly(flag)) as workers:
        sums: dict[str, Any] = accumulate(workers, [PATH], TEXTS, is_local=False)
    assert not flag.exists()
    assert expected.added > 17
    assert sums[PATH].count == expected.count
    assert expected.gram is not None
    assert torch.equal(sums[PATH].gram.over(1), expected.gram.over(1))
