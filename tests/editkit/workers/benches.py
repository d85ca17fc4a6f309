"""Benches with jobs that compute, fail, wait and kill their worker."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from editkit.errors import ModelError
from editkit.workers.pool import Bench

_log = logging.getLogger("editkit.workers.benches")


@dataclasses.dataclass(frozen=True)
class Job:
    """``count`` answers, with something happening before the last of them."""

    number: int
    count: int = 3
    action: str = ""
    flag: Path | None = None
    """The action happens only while this file exists; it removes it."""


@dataclasses.dataclass(frozen=True)
class ProductRecipe:
    """Builds benches that multiply matrices."""

    size: int = 16
    fails: str = ""

    def build(self) -> Bench[Job, tuple[int, int, bytes]]:
        if self.fails == "model":
            raise ModelError("the folder 'nowhere' does not exist.", hint="Copy it there.")
        if self.fails == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return ProductBench(self.size)


class ProductBench:
    def __init__(self, size: int) -> None:
        self.size = size

    def about(self) -> Mapping[str, Any]:
        import torch

        return {"pid": os.getpid(), "threads": torch.get_num_threads()}

    def do(self, job: Job) -> Iterator[tuple[int, int, bytes]]:
        import torch

        for i in range(job.count):
            if i == job.count - 1 and job.action and _taken(job.flag):
                _act(job.action)
                if job.action == "unsendable":
                    yield job.number, i, threading.Lock()  # type: ignore[misc]
            generator = torch.Generator().manual_seed(job.number * 1000 + i)
            matrix = torch.randn(self.size, self.size, generator=generator)
            yield job.number, i, (matrix @ matrix.T).sum().numpy().tobytes()


def _taken(flag: Path | None) -> bool:
    if flag is None:
        return True
    try:
        flag.unlink()
    except FileNotFoundError:
        return False
    return True


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "pause":
        time.sleep(0.5)
    elif action == "wait":
        time.sleep(600)
    elif action == "unsendable":
        pass
    elif action == "warn":
        _log.warning("the water is cold")
    elif action == "ours":
        raise ModelError("the model melted.", hint="Cool it.")
    elif action == "interrupt":
        raise KeyboardInterrupt
    elif action == "memory":
        raise MemoryError
    else:
        raise ValueError(f"cannot {action}")
