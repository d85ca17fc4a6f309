"""A named preset wins over the file of values and is reported, wherever it is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from editkit import make_editor
from editkit.cli.main import main

FILE = "editkit_configs/rome/atlas.yaml"
WINS = f"weight_decay is 0.0015, not 0.1 from {FILE}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict, str]:
    """The only cell, and the text on standard error."""
    assert main(["run-benchmark", *arguments, "--limit", "1", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    [cell] = json.loads(captured.out)["cells"]
    return cell, captured.err


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    named = ("--set", "editors.rome.preset=paper")
    cell, message = dry_run(capsys, "atlas", "--editor", "rome", *named)
    assert (cell["config"]["weight_decay"], cell["config"]["layer"]) == (0.0015, 0)
    assert cell["sources"]["weight_decay"] == "preset paper"
    assert cell["sources"]["layer"] == FILE
    assert WINS in cell["overridden"]
    assert message.count(WINS) == 1
    cell, message = dry_run(capsys, "atlas", "--editor", "rome")
    assert (cell["config"]["weight_decay"], cell["overridden"]) == (0.1, [])
    assert "preset" not in message
    assert (cell["preset"], cell["values_from"]) == ("published", "published + atlas.yaml")
    more = (*named, "--set", "editors.rome.weight_decay=0.7")
    cell, _ = dry_run(capsys, "atlas", "--editor", "rome", *more)
    assert cell["config"]["weight_decay"] == 0.7


def test_in_a_benchmark_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nmodel: atlas\ndataset: atlas\nmetrics: [efficacy]\n"
        "editors:\n  - name: rome\n    preset: paper-v1\n    config: {stop_loss: 0.2}\n",
        encoding="utf-8",
    )
    cell, message = dry_run(capsys, "mine.yaml")
    assert (cell["config"]["weight_decay"], cell["config"]["stop_loss"]) == (0.0015, 0.2)
    assert cell["config"]["value_contexts"] is False
    assert WINS in message


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "rome", "--preset", "paper", "--model", "atlas", "--json"]) == 0
    [document] = json.loads(capsys.readouterr().out)
    fields = {field["name"]: field for field in document["fields"]}
    assert WINS in document["overridden"]
    assert fields["weight_decay"]["source"] == "preset paper"
    assert fields["layer"]["source"] == FILE
    assert main(["describe", "rome", "--preset", "paper", "--model", "atlas"]) == 0
    assert WINS in capsys.readouterr().out


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    named = ("--set", "editors.rome.preset=paper")
    main(["doctor", "--model", "atlas", "--editor", "rome", *named, "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    [check] = [check for check in checks if check["topic"] == "preset of rome"]
    assert check["verdict"] == "ok"
    assert WINS in check["text"]


def test_from_python(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="editkit"):
        named = make_editor("rome", "atlas", preset="paper", stop_loss=0.2)
    assert (named.config.weight_decay, named.config.stop_loss) == (0.0015, 0.2)
    assert WINS in caplog.text
    published = make_editor("rome", "atlas", preset="published")
    assert (published.config.weight_decay, published.config.layer) == (0.5, 0)
    assert make_editor("rome", "atlas").config.weight_decay == 0.1
