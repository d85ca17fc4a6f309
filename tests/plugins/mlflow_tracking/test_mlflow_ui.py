from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracking_samples import finished_run

from editkit import TrackingError, UsageError
from editkit_plugins import mlflow_tracking
from editkit_plugins.mlflow_tracking import ui
from tests.slow_cases import by_default

SERVE = """
import signal, sys
from argparse import ArgumentParser
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from editkit_plugins.mlflow_tracking import ui
parser = ArgumentParser()
ui.configure(parser)
sys.exit(ui.run(parser.parse_args()))
"""


def run_ui(*arguments: str) -> int:
    parser = ArgumentParser()
    ui.configure(parser)
    return ui.run(parser.parse_args(arguments))


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port on which something listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_database_the_error_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no MLflow database") as caught:
        run_ui("--out", str(tmp_path))
    assert "run-benchmark" in str(caught.value.hint)


def test_without_runs_the_error_names_the_command_to_run(out: Path) -> None:
    with pytest.raises(TrackingError, match="has no runs"):
        run_ui("--out", str(out))


def test_a_used_port_is_a_clear_error(out: Path, used_port: int) -> None:
    mlflow_tracking.editkit_run_finished(finished_run(out, "rome"))
    with pytest.raises(UsageError, match=f"port {used_port}") as caught:
        run_ui("--out", str(out), "--port", str(used_port))
    assert "--port" in str(caught.value.hint)


@pytest.mark.parametrize("end", by_default([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
def test_it_serves_until_a_signal(out: Path, end: signal.Signals) -> None:
    mlflow_tracking.editkit_run_finished(finished_run(out, "rome"))
    port = free_port()
    command = [sys.executable, "-c", SERVE, "--out", str(out), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            link = serving.stdout.readline() if serving.stdout else ""
            url = f"http://127.0.0.1:{port}"
            assert link == (
                f"editkit/small: {url}/#/experiments/1/runs"
                "?workflowType=machine_learning&compareRunsMode=TABLE&viewStateShareKey=editkit\n"
            )
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{url}/health", timeout=10) as answer:
                assert answer.status == 200
        finally:
            serving.send_signal(end)
            try:
                code = serving.wait(timeout=30)
            finally:
                serving.kill()
    assert code == (0 if end == signal.SIGINT else 128 + signal.SIGTERM)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_for_a_remote_server_only_the_links_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    monkeypatch.setattr(ui, "_experiments", lambda uri: {"editkit/atlas": "/#/experiments/7/runs"})
    assert run_ui("--out", os.fspath(tmp_path)) == 0
    assert "https://mlflow.example/#/experiments/7/runs" in capsys.readouterr().out
