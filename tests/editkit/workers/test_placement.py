"""How many workers a cluster holds."""

from __future__ import annotations

import pytest

from editkit.workers.placement import Machine, Placement, place

LAPTOP = [Machine(8)]
EIGHT_GPUS = [Machine(64, 8)]
MIXED = [Machine(16, 4), Machine(8), Machine(16, 2)]


@pytest.mark.parametrize(
    ("machines", "workers", "gpus", "placement"),
    [
        (LAPTOP, None, 0, Placement(8, 1, 0, 8)),
        (LAPTOP, 2, 0, Placement(2, 4, 0, 2)),
        (LAPTOP, 3, 0, Placement(3, 2, 0, 3)),
        (LAPTOP, 20, 0, Placement(20, 1, 0, 8)),
        (LAPTOP, None, 1, Placement(0, 1, 1, 0)),
        (EIGHT_GPUS, None, 1, Placement(8, 8, 1, 8)),
        (EIGHT_GPUS, None, 0.5, Placement(16, 4, 0.5, 16)),
        (EIGHT_GPUS, None, 4, Placement(2, 32, 4, 2)),
        (EIGHT_GPUS, 3, 0.1, Placement(3, 21, 0.1, 3)),
        ([Machine(4, 8)], None, 1, Placement(4, 1, 1, 4)),
        (MIXED, None, 1, Placement(6, 4, 1, 6)),
        (MIXED, 5, 0, Placement(5, 8, 0, 5)),
        ([], None, 0, Placement(0, 1, 0, 0)),
    ],
)
def test_workers_share_processors_and_gpus(
    machines: list[Machine], workers: int | None, gpus: float, placement: Placement
) -> None:
    assert place(machines, workers, gpus) == placement
