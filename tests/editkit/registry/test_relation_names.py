from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from editkit import PluginError
from editkit.registry.plugins import default_registry
from editkit.registry.relation_names import WIKIDATA_NAMES, relation_names, with_wikidata_name
from editkit.storage.resources import resource_text


class OneDataset:
    """A registry with a single dataset, whose names are in a file."""

    def __init__(self, reference: str | None) -> None:
        offer = default_registry().get("dataset", "atlas")
        spec: Any = offer.spec
        changed = dataclasses.replace(spec, relation_names=reference)
        self.offer = dataclasses.replace(offer, spec=changed)

    def has(self, kind: str, name: str) -> bool:
        return name == "mine"

    def get(self, kind: str, name: str) -> Any:
        return self.offer


@pytest.fixture
def names_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    package = tmp_path.name  # another one in each test, because Python keeps imported packages
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def read(content: Any) -> dict[str, str]:
        (tmp_path / package / "names.json").write_text(json.dumps(content))
        registry: Any = OneDataset(f"{package}:names.json")
        return relation_names("mine", registry)

    return read


def test_equal_names_keep_their_identifiers(names_in: Any) -> None:
    content = {"P17": "country", "P495": {"name": "country"}, "P103": "native language"}
    assert names_in(content) == {
        "P17": "country (P17)",
        "P495": "country (P495)",
        "P103": "native language",
    }


@pytest.mark.parametrize("content", [["P17"], {"P17": 3}, {"P17": " "}, {"P17": {}}])
def test_a_broken_file_of_names_names_the_dataset(content: Any, names_in: Any) -> None:
    with pytest.raises(PluginError, match=r":names\.json, the relation names of dataset 'mine'"):
        names_in(content)


def test_datasets_without_names_and_unknown_ones_have_none() -> None:
    registry: Any = OneDataset(None)
    assert relation_names("mine", registry) == relation_names("other", registry) == {}


def test_every_relation_of_the_built_in_datasets_has_a_name() -> None:
    assert relation_names("atlas", default_registry())["P103"] == "native language"
    names = json.loads(resource_text(WIKIDATA_NAMES))
    assert relation_names("counterfact", default_registry()) == names
    assert len(set(names.values())) == len(names)
    assert with_wikidata_name("P103") == "P103 (native language)"
    assert with_wikidata_name("mine") == "mine"
