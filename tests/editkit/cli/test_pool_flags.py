"""``--ray``, ``--workers`` and ``--gpus-per-worker``."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from editkit.cli.main import main
from editkit.cli.parser import Parser
from editkit.cli.pools import add_pool_flags, pool_of
from editkit.errors import ClusterError, UsageError
from editkit.workers.pool import InProcess


def parsed(*arguments: str) -> Any:
    parser = Parser(prog="work")
    parser.add_argument("benchmark", nargs="?", default="default")
    add_pool_flags(parser)
    return parser.parse_args(list(arguments))


@pytest.mark.parametrize(
    ("arguments", "benchmark", "address"),
    [
        ("--ray atlas", "atlas", None),
        ("atlas --ray", "atlas", None),
        ("--ray --workers 2 atlas", "atlas", None),
        ("--ray", "default", None),
        ("--ray local atlas", "atlas", "local"),
        ("--ray auto", "default", "auto"),
        ("--ray node-1.site:6379 atlas", "atlas", "node-1.site:6379"),
        ("--ray [::1]:6379", "default", "[::1]:6379"),
        ("--ray=10.0.0.1:6379", "default", "10.0.0.1:6379"),
        ("-- --ray", "--ray", "no pool"),
    ],
)
def test_an_address_is_told_from_the_name_of_a_benchmark(
    arguments: str, benchmark: str, address: str | None
) -> None:
    args = parsed(*arguments.split())
    assert args.benchmark == benchmark
    pool: Any = pool_of(args, "cpu")
    assert getattr(pool, "address", "no pool") == address


def test_without_ray_the_pool_is_this_process_and_ray_is_not_imported() -> None:
    before = "ray" in sys.modules
    assert isinstance(pool_of(parsed(), "cuda:1"), InProcess)
    assert ("ray" in sys.modules) == before


@pytest.mark.parametrize(
    ("arguments", "device", "message"),
    [
        ("--workers 2", "cpu", "--workers is for workers of a Ray cluster"),
        ("--gpus-per-worker 1", "cpu", "--gpus-per-worker is for workers"),
        ("--ray=node7", "cpu", "got 'node7', expected local, auto or HOST:PORT"),
        ("--ray --workers 0", "cpu", "expected a whole number above 0"),
        ("--ray", "cuda:1", "--device cuda:1 with --ray"),
        ("--ray --gpus-per-worker 1.5", "cuda", "expected a part of one GPU or a whole number"),
        ("--ray --gpus-per-worker 0", "cuda", "such a worker would see no GPU"),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments: str, device: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        pool_of(parsed(*arguments.split()), device)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "device", "gpus"),
    [("", "cpu", 0.0), ("", "cuda", 1.0), ("--gpus-per-worker 0.25", "cuda", 0.25)],
)
def test_a_model_on_a_gpu_needs_one_per_worker(arguments: str, device: str, gpus: float) -> None:
    pool: Any = pool_of(parsed("--ray", *arguments.split()), device)
    assert pool.gpus_per_worker == gpus


def test_a_missing_ray_is_reported_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError) as caught:
        pool_of(parsed("--ray"), "cpu")
    hint = "Install it: pip install 'editkit[ray]', or pip install -e '.[ray]' in a clone."
    assert caught.value.hint == hint


def test_gpus_that_this_machine_lacks_are_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for arguments, device, cause in (
        ("--ray local", "cuda", "device cuda"),
        ("--ray local --gpus-per-worker 1", "cpu", "--gpus-per-worker"),
    ):
        with pytest.raises(ClusterError) as caught:
            pool_of(parsed(*arguments.split()), device)
        assert caught.value.message == (
            f"{cause}: a worker would get 1 GPU, and torch sees 0 GPUs on this machine."
        )
        assert "--device cpu" in str(caught.value.hint)


@pytest.mark.parametrize("command", ["run-benchmark", "run-experiment"])
def test_a_word_after_ray_that_names_nothing_may_have_been_an_address(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--ray", "node7"]) in (2, 3)
    error = capsys.readouterr().err
    assert "If 'node7' was meant for --ray: it takes local, auto or HOST:PORT." in error
    main([command, "node7"])
    assert "meant for --ray" not in capsys.readouterr().err


def test_a_second_word_after_ray_may_have_been_an_address() -> None:
    with pytest.raises(UsageError) as caught:
        parsed("atlas", "--ray", "node7")
    assert "'node7' was meant for --ray" in str(caught.value.hint)
