"""``separator`` and ``chat`` in the configuration of datasets and in single records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from editkit import ConfigError, ModelError, Records, make_dataset
from editkit.benchmark.spec import Flags, apply_flags, load_benchmark
from editkit.cli.main import main
from editkit.records.config import PromptConfig, as_configured
from editkit.records.facts import read_facts
from editkit.registry.plugins import default_registry


def rewritten(case: int, **more: Any) -> dict[str, Any]:
    return {
        "case_id": case,
        "requested_rewrite": {
            "prompt": "{}的首都是",
            "subject": "法国",
            "target_new": {"str": "罗马"},
            "target_true": {"str": "巴黎"},
        },
        "paraphrase_prompts": ["法国首都："],
        "neighborhood_prompts": [],
        "attribute_prompts": [],
        "generation_prompts": [],
        **more,
    }


def question(**more: Any) -> dict[str, Any]:
    texts = {"subject": "Rome", "src": "Where is Rome?", "rephrase": "Rome is where?"}
    return {**texts, "answers": ["Italy"], "alt": "Spain", "loc": "who", "loc_ans": "me", **more}


def written(folder: Path, entries: list[Any]) -> str:
    path = folder / "records.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("name", "entry"), [("counterfact", rewritten(0)), ("zsre", question())])
def test_a_dataset_is_asked_as_configured(tmp_path: Path, name: str, entry: Any) -> None:
    path = written(tmp_path, [entry])
    plain = make_dataset(name, path=path).load()
    for config in ({"separator": ""}, {"separator": "\n"}, {"chat": True}):
        loaded = make_dataset(name, path=path, **config).load()
        [record] = loaded.records
        asked = [record.request, *(p for probes in record.probes.values() for p in probes)]
        for each in asked:
            assert each.separator == config.get("separator")
            assert each.chat == config.get("chat", False)
        assert loaded.digest != plain.digest
    unset = make_dataset(name, path=path, separator=None, chat=False).load()
    assert unset.digest == plain.digest


@pytest.mark.parametrize("name", ["atlas", "atlas-zsre"])
def test_the_embedded_records_can_be_asked_in_a_chat(name: str) -> None:
    records = make_dataset(name, chat=True).load().records
    for record in records[:20]:
        assert record.request.chat
        assert all(p.chat for probes in record.probes.values() for p in probes)


def test_a_record_can_set_its_own_separator_and_chat(tmp_path: Path) -> None:
    path = written(tmp_path, [rewritten(0, separator=" "), rewritten(1, chat=True), rewritten(2)])
    own, chat, plain = make_dataset("counterfact", path=path, separator="").load().records
    assert [own.request.separator, chat.request.separator] == [" ", ""]
    assert (chat.request.chat, plain.request.chat) == (True, False)
    assert own.probes["paraphrase"][0].separator == " "
    assert plain.request.statement == "法国的首都是罗马"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"separator": 3}, "separator: is 3, expected a text"),
        ({"chat": "yes"}, "chat: is 'yes', expected true or false"),
        ({"separator": "\ud800"}, "separator: is not valid Unicode"),
    ],
)
def test_a_wrong_separator_or_chat_is_reported(
    tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    loaded = make_dataset(
        "counterfact", path=written(tmp_path, [rewritten(0), rewritten(1, **more)])
    )
    [rejected] = loaded.load().rejected
    assert f"{rejected.field}: {rejected.reason}" == reason
    with pytest.raises(ConfigError, match="separator"):
        make_dataset("counterfact", path="x.json", separator="\ud800")


def test_a_line_break_at_the_end_of_a_prompt_reaches_the_record(tmp_path: Path) -> None:
    entry = rewritten(0)
    entry["requested_rewrite"]["prompt"] = "Q: {}?\nA:\n"
    [record] = make_dataset("counterfact", path=written(tmp_path, [entry])).load().records
    assert record.request.statement == "Q: 法国?\nA:\n罗马"


def test_entries_of_a_file_of_facts_can_set_separator_and_chat(tmp_path: Path) -> None:
    base = {"prompt": "Rome is in ", "subject": "Rome", "attribute": " Italy"}
    bare = {"prompt": "Rome is in", "subject": "Rome", "attribute": "Italy"}
    entries = [base, {**bare, "separator": ""}, {**base, "chat": True}, {**base, "chat": 1}]
    entries += [{**base, "chat": False}]
    path = written(tmp_path, entries)
    result = read_facts(path)
    assert [(f.prompt, f.answer) for f in result.facts] == [("Rome is in", "Italy")] * 4
    assert [f.separator for f in result.facts] == [None, "", None, None]
    assert [f.chat for f in result.facts] == [False, False, True, False]
    assert "chat: is 1" in result.broken[0]
    in_chat = read_facts(path, chat=True)
    assert [f.chat for f in in_chat.facts] == [True, True, True, False]
    changed = read_facts(path, separator="\n")
    assert [f.separator for f in changed.facts] == [""]
    assert changed.broken[0].startswith("entry 0: attribute: is ' Italy' with the separator")


@pytest.mark.parametrize("separator", ["", " ", "\n"])
@pytest.mark.parametrize(
    ("name", "entry", "field"),
    [
        ("counterfact", rewritten(0, paraphrase_prompts=["法国首都： "]), "paraphrase_prompts[0]"),
        ("counterfact", {**rewritten(0), "requested_rewrite": {
            **rewritten(0)["requested_rewrite"], "target_new": {"str": " 罗马"}}},
         "requested_rewrite.target_new.str"),
        ("counterfact", {**rewritten(0), "requested_rewrite": {
            **rewritten(0)["requested_rewrite"], "prompt": "{}的首都是\u3000"}},
         "requested_rewrite.prompt"),
        ("zsre", question(src="Where is Rome?\u00a0"), "src"),
        ("zsre", question(answers=[" Italy"]), "answers[0]"),
        ("zsre", question(pred="\nFrance"), "pred"),
    ],
)  # fmt: skip
def test_white_space_next_to_a_given_separator_is_refused(
    tmp_path: Path, name: str, entry: Any, field: str, separator: str
) -> None:
    """Otherwise "is " and "" would silently give "isRome"."""
    [mine] = make_dataset(name, path=written(tmp_path, [entry])).load().records
    assert mine.request.statement == mine.request.statement.strip()
    path = written(tmp_path, [{**entry, "separator": separator}, {**entry, "case_id": 1}])
    for config in ({}, {"separator": separator}):
        loaded = make_dataset(name, path=path, **config).load()
        assert len(loaded.rejected) == 1 + len(config)
        assert loaded.rejected[0].field == field
        assert f"with the separator {separator!r}" in loaded.rejected[0].reason


def test_a_record_can_disable_the_chat(tmp_path: Path) -> None:
    path = written(tmp_path, [rewritten(0, chat=False), rewritten(1)])
    config: dict[str, Any] = {"path": path, "chat": True, "separator": "\n"}
    dataset = make_dataset("counterfact", **config)
    plain, chat = as_configured(dataset.load(), dataset.config).records
    assert (plain.request.chat, chat.request.chat) == (False, True)
    assert {p.chat for probes in plain.probes.values() for p in probes} == {False}
    facts = read_facts("counterfact", {"path": path}, separator="\n", chat=True).facts
    assert [(fact.chat, fact.separator) for fact in facts] == [(False, "\n"), (True, "\n")]


def test_separator_and_chat_are_applied_if_the_dataset_does_not() -> None:
    record = make_dataset("atlas").load().records[0]
    loaded = as_configured(Records((record,), digest="d"), PromptConfig(chat=True))
    assert loaded.records[0].request.chat
    assert loaded.digest != "d"


def test_chat_on_the_command_line_sets_the_datasets_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    benchmark, _ = load_benchmark("atlas", default_registry())
    _, values = apply_flags(benchmark, Flags(sets={"dataset.chat": True}))
    assert values["dataset", "atlas"] == {"chat": True}
    assert main(["run-benchmark", "--chat", "--limit", "2", "--dry-run", "--json"]) == 0
    chat = json.loads(capsys.readouterr().out)
    assert main(["run-benchmark", "--limit", "2", "--dry-run", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert chat["dataset"]["config"]["chat"] is True
    assert chat["dataset"]["digest"] != plain["dataset"]["digest"]
    assert chat["cells"][0]["fingerprint"] != plain["cells"][0]["fingerprint"]


def test_a_run_in_a_chat_stops_at_once_without_a_chat_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--limit", "2", "--editor", "none", "--no-mlflow", "--quiet", "--out", str(tmp_path)]
    assert main(["run-benchmark", "--chat", *options]) == ModelError.exit_code
    assert "the tokenizer of atlas has no chat template" in capsys.readouterr().err
    for chosen in ("free-chat", "free", "wild", "consequences", "judged"):
        frame = [] if chosen == "free-chat" else ["--set", f"metrics.{chosen}.frame=chat"]
        command = ["run-benchmark", "--metrics", chosen, *frame, *options]
        assert main(command) == ModelError.exit_code, chosen
        assert "the tokenizer of atlas has no chat template" in capsys.readouterr().err
    trace = ["trace", "--model", "atlas", "--prompt", "Where is Rome?", "--subject", "Rome"]
    assert main([*trace, "--chat", "--no-mlflow", "--out", str(tmp_path)]) == ModelError.exit_code
    assert "has no chat template" in capsys.readouterr().err


def test_a_trace_uses_the_given_separator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["trace", "--model", "atlas", "--prompt", "Rome is", "--subject", "Rome", "--json"]
    command += ["--answer", "in", "--set", "samples=1", "--out", str(tmp_path), "--no-mlflow"]
    answers, files = [], set()
    for more in ([], ["--separator", ""], ["--separator", " "]):
        assert main([*command, *more]) in (0, 1)
        document = json.loads(capsys.readouterr().out)
        answers.append(document["answer"])
        files |= set(document["files"])
    assert answers == [" in", "in", " in"]
    assert len({name for name in files if name.endswith(".csv")}) == 3
