"""Every shipped plugin keeps the contract that third parties are held to.

Editors are tried with their values for tiny models, ``configs/*/tiny.yaml``.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from editkit.plugins import default_registry
from editkit.testing import (
    Contract,
    DatasetContract,
    EditorContract,
    LocatorContract,
    MetricContract,
)
from tests.plugins.counterfact.counterfact_samples import raw_record


class TestNone(EditorContract):
    plugin = "none"


class TestRome(EditorContract):
    plugin = "rome"


class TestFt(EditorContract):
    plugin = "ft"


class TestFtL(EditorContract):
    plugin = "ft+l"


class TestAttnedit(EditorContract):
    plugin = "attnedit"


class TestAttneditWithBias(EditorContract):
    plugin = "attnedit"
    config = {"layer": 1, "steps": 4}
    # A key's bias adds the same to all scores of a query: its gradient is rounding noise, which
    # Adam scales up to whole steps. These are 32 of 3,168 entries: 2 sqrt(32 / 3168) of the norm.
    tolerance = 0.2


class TestKn(EditorContract):
    plugin = "kn"


class TestKnowledgeNeurons(LocatorContract):
    plugin = "knowledge-neurons"
    config = {"steps": 4}


class TestEfficacy(MetricContract):
    plugin = "efficacy"


class TestParaphrase(MetricContract):
    plugin = "paraphrase"


class TestNeighborhood(MetricContract):
    plugin = "neighborhood"


class TestSameSubject(MetricContract):
    plugin = "same-subject"


class TestAtlas(DatasetContract):
    plugin = "atlas"
    other_config = {"split": "train"}


class TestCounterfact(DatasetContract):
    plugin = "counterfact"

    def setup_method(self) -> None:
        super().setup_method()
        self.config = {"path": self._file("whole.json", [raw_record(1), raw_record(2)])}
        self.other_config = {"path": self._file("other.json", [raw_record(1)])}
        self.broken_config = {"path": self._file("broken.json", [raw_record(1), {"case_id": 2}])}
        self.absent_config = {"path": str(self.scratch / "absent.json")}

    def _file(self, name: str, records: list[dict[str, Any]]) -> str:
        path = self.scratch / name
        path.write_text(json.dumps(records), encoding="utf-8")
        return str(path)


SUITES = [
    suite for suite in list(globals().values())
    if isinstance(suite, type) and issubclass(suite, Contract) and suite.plugin
]  # fmt: skip


def test_every_shipped_plugin_is_held_to_its_contract() -> None:
    offered = {
        (offer.kind, offer.name)
        for offer in default_registry().offers()
        if offer.source.distribution == "editkit" and hasattr(offer.spec, "factory")
    }
    assert {(suite.kind, suite.plugin) for suite in SUITES} == offered


@pytest.mark.parametrize(
    "suite", [s for s in SUITES if issubclass(s, EditorContract) and s.plugin != "none"]
)
def test_there_is_something_to_hold(suite: type[EditorContract]) -> None:
    """An editor that changes nothing keeps most rules without effort."""
    tried = suite()
    tried.setup_method()
    try:
        norms = [delta.norm() for delta in tried.work(tried.make_model())]
    finally:
        tried.teardown_method()
    assert all(norm > 0 for norm in norms)
