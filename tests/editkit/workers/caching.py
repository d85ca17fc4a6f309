"""Benches that need entries of the cache, and record each computation in a file."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from editkit.storage.cache import cache_folder, cached_tensors, cached_texts
from editkit.workers.pool import Bench


@dataclasses.dataclass(frozen=True)
class CachingRecipe:
    """Needs a matrix and texts when a bench is built."""

    log: Path
    """Gets a line for each computation."""
    dying: Path | None = None
    """While this file exists, who computes the matrix removes it and dies."""

    def build(self) -> Bench[int, tuple[str, float, list[str]]]:
        def matrix() -> Mapping[str, torch.Tensor]:
            with self.log.open("a") as log:
                log.write("matrix\n")
            if self.dying is not None and self.dying.exists():
                self.dying.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1)
            return {"matrix": torch.arange(12.0).reshape(3, 4)}

        def texts() -> list[str]:
            with self.log.open("a") as log:
                log.write("texts\n")
            return ["one", "two"]

        tensors = cached_tensors("test-matrix", {"of": "a test"}, matrix)
        return CachingBench(
            float(tensors["matrix"].sum()), cached_texts("test-texts", {"of": "a test"}, texts)
        )


class CachingBench:
    def __init__(self, total: float, texts: list[str]) -> None:
        self.total = total
        self.texts = texts

    def about(self) -> Mapping[str, Any]:
        return {"cache": str(cache_folder())}

    def do(self, job: int) -> Iterator[tuple[str, float, list[str]]]:
        time.sleep(0.1)
        yield str(cache_folder()), self.total, self.texts
