"""``editkit check-plugin``: its output and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from editkit.registry.plugins import default_registry
from tests.editkit.benchmark import fakes

Cli = Callable[..., tuple[int, str, str]]

PLUGIN = """
from editkit import DatasetSpec, EditorSpec, hookimpl

TESTS = "tests.editkit.testing"
CONFIG = f"{TESTS}.configs:DatasetConfig"

@hookimpl
def editkit_datasets():
    return [
        DatasetSpec("whole", f"{TESTS}.sound_dataset:SoundDataset", CONFIG, "keeps the rules"),
        DatasetSpec("twice", "guest_data:Twice", CONFIG, "breaks one"),
        DatasetSpec("exits", "guest_plugin:exit_here", CONFIG, "calls exit"),
    ]

@hookimpl
def editkit_editors():
    config = f"{TESTS}.configs:EditorConfig"
    return [
        EditorSpec("whole", f"{TESTS}.sound_plugins:SoundEditor", config, "an editor of that name"),
    ]

def exit_here(config):
    raise SystemExit(3)
"""

DATA = """
from tests.editkit.testing.sound_dataset import SoundDataset, record

class Twice(SoundDataset):
    def records(self):
        return [record(3, "the Opera"), record(3, "Ulriken")]
"""


@pytest.fixture(autouse=True)
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution whose plugin offers sound and broken things."""
    site = tmp_path / "site"
    fakes.write_distribution(site, "guest-dist", {"guests": "guest_plugin"}, "2.1")
    (site / "guest_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (site / "guest_data.py").write_text(DATA, encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    default_registry.cache_clear()
    yield site
    default_registry.cache_clear()
    for name in ("guest_plugin", "guest_data", "guest_bad"):
        sys.modules.pop(name, None)


def test_a_sound_plugin(editkit: Cli) -> None:
    code, out, err = editkit("check-plugin", "whole", "--kind", "dataset")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "dataset whole of guest-dist 2.1"
    assert "  ok    Every record has its own case id, a whole number" in lines
    assert "  skip  Different records have different digests (other_config is not set)" in lines
    assert lines[-2] == "  rules: 17 hold, 0 broken, 3 do not apply"
    assert "FAIL" not in out


def test_a_broken_rule_is_reported_with_its_reason_and_advice(editkit: Cli) -> None:
    code, out, _ = editkit("check-plugin", "twice")
    assert code == 1
    assert (
        "  FAIL  Every record has its own case id, a whole number\n"
        "          case id 3 occurs twice.\n"
        "          to do: Results are stored by case id: number the records, and reject broken"
    ) in out
    assert "  rules: 16 hold, 1 broken, 3 do not apply\n" in out


def test_one_document(editkit: Cli) -> None:
    code, out, _ = editkit("check-plugin", "twice", "--json")
    document = json.loads(out)
    assert (code, document["ok"], document["schema"]) == (1, False, 1)
    [checked] = document["checked"]
    assert (checked["kind"], checked["name"], checked["ok"]) == ("dataset", "twice", False)
    assert [rule for rule in checked["rules"] if rule["status"] == "fail"] == [
        {
            "rule": "case_ids_are_unique",
            "text": "Every record has its own case id, a whole number",
            "status": "fail",
            "reason": "case id 3 occurs twice.",
            "advice": "Results are stored by case id: number the records, and reject broken ones.",
        }
    ]


@pytest.mark.parametrize("name", ["guests", "guest-dist"])
def test_naming_a_plugin_or_distribution_checks_all_its_offers(editkit: Cli, name: str) -> None:
    code, out, _ = editkit("check-plugin", name, "--kind", "dataset")
    assert code == 1
    assert [line.split()[1] for line in out.splitlines() if line.startswith("dataset ")] == [
        "exits", "twice", "whole",
    ]  # fmt: skip
    assert out.endswith("3 checked: broken rules in dataset exits, dataset twice\n")


def test_every_kind_with_the_name_is_checked(editkit: Cli) -> None:
    code, out, _ = editkit("check-plugin", "whole")
    assert "editor whole of" in out
    assert "dataset whole of" in out
    assert code == 0, out


def test_a_plugin_that_cannot_be_tested_has_one_outcome(editkit: Cli) -> None:
    code, out, _ = editkit("check-plugin", "exits")
    assert code == 1
    assert "  FAIL  It can be tested with its configuration\n" in out
    assert "called sys.exit(3)" in out
    assert "  rules: 0 hold, 1 broken, 0 do not apply\n" in out


def test_values_are_set(editkit: Cli) -> None:
    code, out, _ = editkit("check-plugin", "whole", "--kind", "dataset", "--set", "source=absent")
    assert code == 1
    assert "there is nothing at 'absent'" in out
    code, out, _ = editkit("check-plugin", "whole", "--kind", "editor", "--set", "layer=99")
    assert code == 1
    assert "layer 99 does not exist" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("wole",), 3, "no editor, locator, metric, model_metric, judge, dataset or plugin named"),
        (("wole",), 3, "Did you mean 'whole'?"),
        (("whole", "--kind", "metric"), 3, "no metric named 'whole'."),
        (("gests",), 3, "Did you mean 'guests'?"),
        (("twice", "--set", "sauce=some"), 2, "Did you mean 'source'?"),
        (("twice", "--set", "source"), 2, "expected a.b=value"),
    ],
)
def test_unknown_names_and_fields(
    editkit: Cli, arguments: tuple[str, ...], code: int, message: str
) -> None:
    returned, out, err = editkit("check-plugin", *arguments)
    assert (returned, out) == (code, "")
    assert message in err


def test_a_broken_or_disabled_plugin_is_named(
    guests: Path, editkit: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_distribution(guests, "bad-dist", {"bad": "guest_bad"}, "3.0")
    (guests / "guest_bad.py").write_text("raise ValueError('bad day')", encoding="utf-8")
    default_registry.cache_clear()
    code, _, err = editkit("check-plugin", "bad-dist")
    assert code == 3
    assert "a broken plugin cannot be checked: bad (bad-dist 3.0): ValueError: bad day." in err
    monkeypatch.setenv("EDITKIT_DISABLE_PLUGINS", "guests")
    default_registry.cache_clear()
    code, _, err = editkit("check-plugin", "twice")
    assert code == 3
    assert "It may belong to a plugin that the environment disables: guests." in err
