"""Reference and essence texts that compile-dataset chooses from passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from compiling_samples import own_facts

from editkit import DatasetError, make_dataset
from editkit.cli.main import main
from editkit.records.relations import read_relations
from editkit_plugins.counterfact.compiling.passages import (
    Passage,
    about,
    read_passages,
    texts_for,
)
from editkit_plugins.counterfact.dataset import parse_records


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"Oslo": ["It rains.", "It snows."], "Rome": "It shines."}),
        (
            "b.json",
            [
                {"title": "Oslo", "text": "It rains."},
                {"name": "Oslo", "text": " It snows. "},
                {"title": "Rome", "text": "It shines."},
                {"title": "Rome", "text": "It shines."},
            ],
        ),
        (
            "c.jsonl",
            '{"title": "Oslo", "text": "It rains."}\n{"title": "Oslo", "text": "It snows."}\n\n'
            '{"title": "Rome", "text": "It shines."}\n',
        ),
        (
            "d.json",
            [
                {"relation_id": "P1", "samples": [{"name": "Oslo", "text": "It rains."}]},
                {"samples": [{"name": "Oslo", "text": "It snows."}]},
                {"samples": [{"name": "Rome", "text": "It shines."}]},
            ],
        ),
    ],
)
def test_files_with_titles(name: str, content: Any, tmp_path: Path) -> None:
    passages = read_passages(write(tmp_path / name, content))
    assert passages == [
        Passage("It rains.", "Oslo"),
        Passage("It snows.", "Oslo"),
        Passage("It shines.", "Rome"),
    ]


def test_files_without_titles_and_folders(tmp_path: Path) -> None:
    nested = {"P1": {"Q2": ["One.", "Two."]}, "P2": {"Q3": ["Two."]}}
    plain = [Passage("One."), Passage("Two.")]
    assert read_passages(write(tmp_path / "a.json", nested)) == plain
    assert read_passages(write(tmp_path / "b.json", ["One.", "Two."])) == plain
    assert read_passages(write(tmp_path / "c.txt", "One.\nTwo.\n")) == plain
    (tmp_path / "wiki").mkdir()
    write(tmp_path / "wiki" / "Fish_Market.txt", "It smells.\n\nOf fish.")
    assert read_passages(str(tmp_path / "wiki")) == [
        Passage("It smells.\n\nOf fish.", "Fish Market")
    ]


@pytest.mark.parametrize("content", [[], {}, [5], {"P1": {"Q2": 3}}, "{", [{"title": "x"}]])
def test_other_layouts_are_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        read_passages(write(tmp_path / "a.json", content))


def test_titles_decide_and_otherwise_whole_words() -> None:
    passages = [
        Passage("A text about nothing.", "fish  market"),
        Passage("The Fish Market is not Oslo.", "Oslo"),
        Passage("Fish Markets sell fish."),
        Passage("(Fish Market) and Cafe\u0301 X!"),
        Passage("The fish market of Oslofjord."),
        Passage("C++ and C are not C#; Oslo."),
    ]
    names = ["Fish Market", "Oslo", "Café X!", "C", "C++", "R"]
    assert about(passages, names) == {
        "Fish Market": [passages[0].text, passages[3].text],
        "Oslo": [passages[1].text, passages[5].text],
        "Café X!": [passages[3].text],
        "C": [passages[5].text],
        "C++": [passages[5].text],
    }


def test_texts_are_about_subjects_with_the_new_object_and_about_the_subject(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts, out = write(tmp_path / "facts.json", own_facts()), tmp_path / "out" / "mine.json"
    table = read_relations(Path(facts)).table
    subjects = sorted({fact.subject for fact in table.facts})
    passages = write(
        tmp_path / "wiki.json", {name: [f"{name}, one.", f"{name}, two."] for name in subjects}
    )
    command = ["compile-dataset", "--facts", facts, "--out", str(out), "--texts", passages]
    assert main([*command, "--fewest-neighbors", "1", "--most-texts", "3"]) == 0
    printed = capsys.readouterr().out
    essence, reference = (out.with_suffix(f".{kind}.json") for kind in ("essence", "reference"))
    assert f"use them with: --set dataset.reference_texts={reference}" in printed
    config = {"path": out, "reference_texts": reference, "essence_texts": essence}
    records = make_dataset("counterfact", **config).load().records
    assert len(records) > 3
    for record in records:
        request = record.request
        assert record.texts["essence"] == (f"{request.subject}, one.", f"{request.subject}, two.")
        holders = set(table.holders[request.relation_id or "", request.target_new])
        texts = record.texts["reference"]
        assert {text.partition(",")[0] for text in texts} <= holders
        assert len(texts) == min(3, 2 * len(holders))
        # As many subjects as possible.
        assert len({text.partition(",")[0] for text in texts}) == min(3, len(holders))


def test_passages_about_nobody_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passages = write(tmp_path / "wiki.json", {"Nobody": "Nothing."})
    facts = write(tmp_path / "facts.json", own_facts())
    command = ["compile-dataset", "--facts", facts, "--out", str(tmp_path / "x.json")]
    assert main([*command, "--fewest-neighbors", "1", "--texts", passages]) != 0
    assert "none of the 1 passages" in capsys.readouterr().err


def test_published_records_get_texts_from_their_own_facts(test_data: Path) -> None:
    from editkit_plugins.counterfact.compiling.passages import holders_of

    data = test_data / "data"
    raw = json.loads((data / "counterfact.json").read_text(encoding="utf-8"))
    records = parse_records(raw).records
    passages = read_passages(str(data / "trex_reference_texts.json"))
    texts = texts_for(records, holders_of(records), passages, most=20, seed=0)
    assert (len(passages), texts.with_reference, texts.with_essence) == (6284, 312, 190)
    for record in records:
        for text in texts.essence.get(record.request.subject, ()):
            assert record.request.subject in text
