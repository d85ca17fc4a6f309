"""``editkit compile-dataset``: from a file of facts to a file of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from compiling_samples import own_facts, pararel_facts

from editkit import load_model, make_dataset
from editkit.cli.main import main
from editkit_plugins.counterfact.compiling.compiler import is_known

FEW = ["--fewest-neighbors", "2", "--neighbors", "4"]


def compile_dataset(*arguments: object) -> int:
    return main(["compile-dataset", *map(str, arguments)])


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(pararel_facts()), encoding="utf-8")
    return path


def test_records_are_written_and_counted(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "records.json"
    texts = tmp_path / "texts.txt"
    texts.write_text("It rained.\nThe tailor slept.\n", encoding="utf-8")
    arguments = ["--facts", facts, "--out", out, "--prefixes", texts, *FEW]
    assert compile_dataset(*arguments) == 0
    message = capsys.readouterr()
    assert "neighborhood prompts" in message.out
    assert "21,919" in message.out
    assert str(out) in message.out
    assert not message.err
    loaded = make_dataset("counterfact", path=out).load()
    assert len(loaded.records) == 24
    assert loaded.rejected == ()
    for record in loaded.records:
        for probe in record.probes["paraphrase"]:
            assert probe.prompt.startswith(("It rained. ", "The tailor slept. "))
    first = out.read_bytes()
    assert compile_dataset(*arguments) == 0
    assert out.read_bytes() == first
    assert compile_dataset(*arguments, "--seed", 1) == 0
    assert out.read_bytes() != first


def test_json(facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "records.json"
    assert (
        compile_dataset("--facts", facts, "--out", out, "--relations", "P17", *FEW, "--json") == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["records_of_relation"] == {"P17": 12}
    assert document["composition"]["subjects"]["total"] == 12
    assert document["paper"]["subjects"]["total"] == 20391
    assert document["digest"] == make_dataset("counterfact", path=out).load().digest
    assert compile_dataset("--count", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == document


def test_a_model_writes_prefixes_and_selects_known_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The world's model knows some of these facts, in wordings that it was taught."""
    world: dict[str, Any] = own_facts()
    del world["P17"]
    spoken = {"Norway": "Norwegian", "France": "French", "Germany": "German", "Italy": "Italian"}
    cities = {
        "Norway": ["Oslo", "Bergen", "Nowhere Town"],
        "France": ["Paris", "Lyon", "Marseille"],
        "Germany": ["Berlin", "Hamburg", "Munich"],
        "Italy": ["Rome", "Milan", "Naples"],
    }
    world["P37"] = {
        "wordings": ["The official language in {} is", "Street signs in {} are written in"],
        "facts": [
            {"subject": city, "object": spoken[country]}
            for country, of in cities.items()
            for city in of
        ],
    }
    path, out = tmp_path / "facts.json", tmp_path / "records.json"
    path.write_text(json.dumps(world), encoding="utf-8")
    arguments = ["--facts", path, "--out", out, "--model", "atlas", *FEW]
    assert compile_dataset(*arguments) == 0
    everything = json.loads(out.read_text(encoding="utf-8"))
    assert len(everything) == 12
    for record in everything:
        assert len(record["paraphrase_prompts"]) == 2
    assert compile_dataset(*arguments, "--known") == 0
    known = json.loads(out.read_text(encoding="utf-8"))
    model = load_model("atlas")
    verdicts = is_known(model, everything)
    assert 0 < sum(verdicts) < 12
    expected = [record for record, verdict in zip(everything, verdicts, strict=True) if verdict]
    assert [r["requested_rewrite"] for r in known] == [r["requested_rewrite"] for r in expected]
    for record, verdict in zip(everything, verdicts, strict=True):
        rewrite = record["requested_rewrite"]
        ids = model.tokenizer(rewrite["prompt"].format(rewrite["subject"]), return_tensors="pt")
        written = model.hf.generate(
            ids["input_ids"],
            attention_mask=ids["attention_mask"],
            do_sample=False,
            max_new_tokens=8,
            pad_token_id=0,
        )
        text = model.tokenizer.decode(written[0, ids["input_ids"].shape[1] :])
        assert text.startswith(f" {rewrite['target_true']['str']}") == verdict


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--known"], "--known needs a model", 2),
        (["--relations", "P99"], "no relation 'P99'", 2),
        ([], "the 24 facts", 2),
        (["--prefixes", "absent.txt"], "absent.txt", 2),
        (["--generation", "absent.json"], "absent.json", 2),
        (["--records", "0"], "expected a whole number above 0", 2),
    ],
)
def test_invalid_arguments_have_clear_errors(
    facts: Path, arguments: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        result = compile_dataset("--facts", facts, "--neighbors", 30, *arguments)
    except SystemExit as stop:  # argparse
        result = int(stop.code or 0)
    assert result == code
    assert message in capsys.readouterr().err


def test_fewer_records_than_requested_are_reported(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records.json"
    assert compile_dataset("--facts", facts, "--out", out, "--records", 500, *FEW) == 0
    message = capsys.readouterr().err
    assert "only 24 of 500 records" in message
    assert "paraphrases have no prefixes" in message


def test_broken_records_are_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.json"
    path.write_text('[{"case_id": 1}]', encoding="utf-8")
    assert compile_dataset("--count", path) == 2
    assert "no usable record" in capsys.readouterr().err


def test_the_file_of_facts_is_never_overwritten(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = facts.read_bytes()
    (tmp_path / "link.json").symlink_to(facts)
    for out in (facts, tmp_path / "link.json"):
        assert compile_dataset("--facts", facts, "--out", out, *FEW) == 2
        assert "would overwrite the input" in capsys.readouterr().err
    assert facts.read_bytes() == before
