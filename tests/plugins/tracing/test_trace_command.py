"""``editkit trace`` and ``editkit.trace``, end to end."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import editkit
from editkit import (
    Config,
    DatasetError,
    Editor,
    EditRequest,
    Fact,
    LanguageModel,
    RequestError,
    WeightDelta,
)
from editkit.benchmark.store import Store, runs_in
from editkit.cli.main import main
from editkit.records.facts import read_facts
from editkit.results import STORE_FILE
from editkit.storage.file_names import safe_file_name
from editkit_plugins.tracing import bench
from editkit_plugins.tracing.averages import (
    ROLES,
    average_by_role,
    mean_of_effects,
    tokens_by_role,
)
from editkit_plugins.tracing.stored_traces import average_trace

ROOT = Path(__file__).resolve().parents[3]
ATLAS_RECORDS = ROOT / "benchmarks" / "atlas" / "records" / "test.json"
COROLLA = ["--prompt", "Toyota Corolla is made by", "--subject", "Toyota Corolla"]
QUICK = ["--set", "samples=2", "--no-mlflow", "--quiet"]


def trace(*arguments: str) -> int:
    return main(["trace", "--model", "atlas", *arguments, *QUICK])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_fact_gives_text_numbers_and_plots(capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(*COROLLA) == 0
    output = capsys.readouterr().out
    assert '"Toyota Corolla is made by" -> "Toyota"' in output
    assert "strongest sites, attn in windows of 2 layers:" in output
    files = {path.suffix: path for path in Path("editkit-results/traces").iterdir()}
    assert files[".png"].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files[".svg"].read_text(encoding="utf-8")
    rows = files[".csv"].read_text(encoding="utf-8").splitlines()
    assert rows[0] == "kind,token,text,layer,effect"
    assert len(rows) == 1 + 3 * 9 * 6  # kinds, tokens, layers


def test_equal_numbers_give_equal_files() -> None:
    arguments = [*COROLLA, "--set", "kinds=[state]"]
    folders = [Path("one"), Path("two")]
    for folder in folders:
        assert trace(*arguments, "--out", str(folder)) == 0
    one, two = ({p.name: p.read_bytes() for p in f.rglob("*.*")} for f in folders)
    assert len(one) == 4
    assert one == two


def test_another_answer_has_its_own_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(*COROLLA, "--set", "window=2", "--set", "kinds=[state]") == 0
    assert trace(*COROLLA, "--answer", "Ferrari", "--set", "kinds=[state]") == 1
    names = {path.stem for path in Path("editkit-results/traces").iterdir()}
    assert len(names) == 2
    assert any("Ferrari" in name for name in names)
    long = "x" * 200
    assert safe_file_name(f"{long}a") != safe_file_name(f"{long}b")


def test_neurons_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trace", "--model", "atlas", *COROLLA, "--locator", "knowledge-neurons"]
    assert main([*arguments, "--no-mlflow"]) == 0
    output = capsys.readouterr().out
    assert '"Toyota Corolla is made by" -> "Toyota"' in output
    assert re.search(r"layer 0 +neuron \d+", output)


def test_the_python_interface() -> None:
    model = editkit.load_model("atlas")
    traced = editkit.trace(model, COROLLA[1], COROLLA[3], samples=2, kinds=("state",))
    assert traced.predicted
    assert [token for token in traced.tokens if token.endswith("*")] == list(traced.tokens[:6])
    [best] = traced.strongest(1)
    assert (best.kind, best.text, best.layer) == ("state", "by", 5)
    frame = traced.to_frame()
    assert frame.loc[frame.effect.idxmax(), "text"] == "by"
    assert repr(traced) == (
        '<Trace of "Toyota Corolla is made by" -> "Toyota" on atlas by causal-tracing: state>'
    )
    figure = traced.plot()
    assert len(figure.axes) == 2  # the map and its scale
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "give one fact, PROMPT and --subject", 2),
        (["--prompt", "x"], "--subject is missing", 2),
        ([*COROLLA, "--facts", "atlas"], "give one fact, PROMPT and --subject", 2),
        (["--prompt", "Rome is in", "--subject", "Paris"], "'Paris' is not in the prompt", 2),
        (["--prompt", "Rome, Rome is in", "--subject", "Rome"], "more than once", 2),
        (["--prompt", "Rome " + "is in " * 200, "--subject", "Rome"], "does not fit into the", 2),
        ([*COROLLA, "--answer", "Ferrari"], "does not predict", 1),
        ([*COROLLA, "--set", "window"], "expected a.b=value", 2),
        ([*COROLLA, "--set", "window=0"], "window", 2),
        ([*COROLLA, "--locator", "nobody"], "no locator named 'nobody'", 3),
        (["--facts", "known_1000"], "does not come with editkit", 2),
        (["--facts", "absent.json"], "absent.json", 2),
        (
            ["--facts", "absent"],
            "'absent' is neither a file nor a dataset: there is no dataset named 'absent'; known",
            2,
        ),
        ([*COROLLA, "--set", "window=abc"], "--set window: got 'abc', expected an integer", 2),
        ([*COROLLA, "--set", "window=-3"], "--set window: got -3", 2),
        ([*COROLLA, "--set", "seed="], "--set seed: got None, expected an integer", 2),
        ([*COROLLA, "--set", "window=[2]"], "--set window: got [2], expected an integer", 2),
        ([*COROLLA, "--set", "window=2.5"], "--set window: got 2.5, expected an integer", 2),
        ([*COROLLA, "--set", "noise_level=.inf"], "--set noise_level: got inf", 2),
        ([*COROLLA, "--set", "noise_level=.nan"], "--set noise_level: got nan", 2),
        ([*COROLLA, "--set", "windw=2"], "--set windw: unknown field", 2),
        ([*COROLLA, "--set", "prompt=x"], "--set prompt: unknown field", 2),
        ([*COROLLA, "--set", "preset=paper"], "--set preset: unknown field", 2),
        ([*COROLLA, "--set", "kinds=[stat]"], "--set kinds.0: got 'stat'", 2),
        ([*COROLLA, "--set", "kinds=[state"], "--set kinds line 1", 2),
        ([*COROLLA, "--set", "window.size=2"], "--set window: got {'size': 2}", 2),
        ([*COROLLA, "--set", "=2"], "expected a.b=value", 2),
        ([*COROLLA, "--preset", "nobody"], "--preset: locator 'causal-tracing' has no preset", 2),
        ([*COROLLA, "--locator", "saliency", "--set", "window=2"], "--set window: unknown", 2),
        ([*COROLLA, "--set", "dataset.path=x"], "--set dataset.path needs --facts", 2),
        (["--facts", "x.json", "--set", "dataset.path=x"], "is the file 'x.json'", 2),
        (["--facts", "atlas", "--set", "dataset.path=x"], "--set dataset.path: unknown field", 2),
        (["--facts", "atlas", "--set", "dataset.split=x"], "--set dataset.split: got 'x'", 2),
        (["--facts", "counterfact"], "--set dataset.path=records.json", 2),
        (["--facts", "zsre", "--set", "dataset.path=absent.json"], "'absent.json' does not", 2),
        (["--facts", "atlas", "--limit", "0"], "got '0', expected a whole number above 0", 2),
        (["--facts", "atlas", "--limit", "x"], "got 'x', expected a whole number above 0", 2),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(*arguments) == code
    assert message in capsys.readouterr().err


def facts_file(path: Path) -> str:
    entries: list[Any] = [
        {"prompt": COROLLA[1], "subject": COROLLA[3], "attribute": "Toyota"},
        {"prompt": COROLLA[1], "subject": COROLLA[3], "attribute": "Ferrari"},
        {"prompt": "Toyota Corolla, Toyota Corolla is made by", "subject": COROLLA[3]},
        {"prompt": "no subject"},
        {"prompt": "The mother tongue of Albert Einstein is", "subject": "Albert Einstein"},
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


def test_many_facts_resume_after_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_file(tmp_path / "facts.json")
    calls: list[int] = []
    trace_row = bench._trace

    def interrupted(model: Any, locator: Any, case: int, fact: Fact) -> Any:
        if case == 1 and not calls:
            calls.append(case)
            raise KeyboardInterrupt
        return trace_row(model, locator, case, fact)

    monkeypatch.setattr(bench, "_trace", interrupted)
    assert trace("--facts", facts) == 130
    with Store(tmp_path / "editkit-results" / STORE_FILE, read_only=True) as store:
        [fingerprint] = store.cells()
        assert [each.case_id for each in store.rows(fingerprint)] == [0]
    capsys.readouterr()
    assert trace("--facts", facts, "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert f"1 broken facts of {facts} are left out (entry 3: subject: is missing)" in err
    assert document["broken"] == ["entry 3: subject: is missing"]
    assert f"1/5 facts: tracing {facts}" not in err  # --quiet
    assert document["unknown"] == 1
    assert list(document["failed"]) == ["2"]
    assert list(document["effects"]) == ["state", "mlp", "attn"]
    assert document["baselines"]["clean"]["n"] == 2
    assert document["effects"]["state"]["last token"][5]["mean"] > 0.2
    assert runs_in(tmp_path / "editkit-results") == []  # traces are not runs of a benchmark


RECORDS: list[Any] = [  # the same fact in every layout
    {"prompt": "Toyota Corolla is made by", "subject": "Toyota Corolla", "attribute": "Toyota"},
    {"prompt": "{} is made by ", "subject": " Toyota Corolla", "answer": " Toyota"},
    {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": "{} is made by",
            "subject": "Toyota Corolla",
            "target_true": {"str": "Toyota", "id": "Q1"},
            "target_new": {"str": "Ferrari", "id": "Q2"},
        },
    },
    {
        "prompt": "Toyota Corolla is made by",
        "subject": "Toyota Corolla",
        "target_new": "Ferrari",
        "ground_truth": "Toyota",
    },
    {
        "subject": "Toyota Corolla",
        "src": "Toyota Corolla is made by",
        "pred": "Fiat",
        "alt": "Ferrari",
        "answers": ["Toyota", "Toyota Motor"],
    },
]


@pytest.mark.parametrize("compressed", [False, True])
def test_every_layout_gives_the_same_fact(tmp_path: Path, *, compressed: bool) -> None:
    content = json.dumps(RECORDS).encode()
    path = tmp_path / ("facts.json.gz" if compressed else "facts.json")
    path.write_bytes(gzip.compress(content) if compressed else content)
    read = read_facts(str(path))
    assert read.broken == ()
    assert set(read.facts) == {Fact("Toyota Corolla is made by", "Toyota Corolla", "Toyota")}
    assert len(read.facts) == len(RECORDS)


def test_a_record_of_several_rewrites_is_several_facts(tmp_path: Path) -> None:
    several = [RECORDS[2]["requested_rewrite"], RECORDS[2]["requested_rewrite"]]
    (tmp_path / "facts.json").write_text(json.dumps([{"requested_rewrite": several}]))
    assert len(read_facts("facts.json").facts) == 2


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("text", "record: is 'text', expected an object"),
        (None, "record: is null, expected an object"),
        ({"subject": "Rome"}, "prompt: is missing"),
        ({"prompt": 3, "subject": "Rome"}, "prompt: is 3, expected a text"),
        ({"prompt": "Rome is", "subject": ""}, "subject: is '', expected a text that is not"),
        ({"prompt": "Rome is", "subject": ["x"]}, "subject: is a list of 1, expected a text"),
        ({"prompt": "Rome is", "subject": "Oslo"}, "subject: is 'Oslo', which is not in prompt"),
        ({"prompt": "\ud800 is", "subject": "x"}, "not valid Unicode"),
        ({"prompt": "Rome is", "subject": "Rome", "answer": []}, "answer: is an empty list"),
        ({"prompt": "Rome is", "subject": "Rome", "answer": True}, "answer: is true, expected"),
        (
            {"prompt": "Rome is", "subject": "Rome", "answer": "a", "attribute": "b"},
            "attribute 'b' and answer 'a', expected one answer",
        ),
        ({"requested_rewrite": []}, "requested_rewrite: is an empty list"),
        ({"requested_rewrite": {"subject": "x"}}, "requested_rewrite.target_true: is missing"),
        (
            {"requested_rewrite": [{"subject": "x", "target_true": {"str": 1}}]},
            "requested_rewrite[0].target_true.str: is 1, expected a text",
        ),
        (
            {
                "requested_rewrite": {
                    "prompt": "no place",
                    "subject": "x",
                    "target_true": {"str": "y"},
                }
            },
            "requested_rewrite.prompt: 'no place' holds 0 places for the subject",
        ),
        ({"src": "Who is x?", "subject": "x", "answers": []}, "answers: is empty"),
        ({"src": "Who is x?", "subject": "y", "answers": ["z"]}, "'y', which is not in src"),
    ],
)
def test_a_broken_entry_is_left_out_and_reported(
    entry: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "facts.json").write_text(json.dumps([RECORDS[0], entry]), encoding="utf-8")
    read = read_facts("facts.json")
    [broken] = read.broken
    assert broken.startswith("entry 1: ")
    assert reason in broken
    assert len(read.facts) == 1
    (tmp_path / "facts.json").write_text(json.dumps([entry] * 9), encoding="utf-8")
    with pytest.raises(DatasetError, match="has no valid fact") as refused:
        read_facts("facts.json")
    assert reason in refused.value.message
    assert "4 more" in refused.value.message


@pytest.mark.parametrize("content", ['{"P17": []}', '"text"', "3", "null", "[]", "{", "", "\x00"])
def test_a_file_without_facts_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"'facts\.json'"):
        read_facts("facts.json")


def test_facts_without_an_answer_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [RECORDS[0], {"prompt": "Rome is in", "subject": "Rome"}]
    (tmp_path / "facts.json").write_text(json.dumps(entries), encoding="utf-8")
    read_facts("facts.json").warn()
    assert "1 of the 2 facts of facts.json have no answer" in caplog.text


def test_the_configuration_of_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = (ATLAS_RECORDS).read_text(encoding="utf-8")
    content = json.loads(records)[:3]
    del content[1]["paraphrase_prompts"]
    (tmp_path / "records.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "counterfact").mkdir()  # the dataset takes precedence
    arguments = ["--facts", "counterfact", "--set", "dataset.path=records.json"]
    assert main(["trace", "--model", "atlas", *arguments, "--json", "--no-mlflow", *QUICK[:2]]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["known"] + document["unknown"] == 2
    [broken] = document["broken"]
    assert broken.endswith("paraphrase_prompts: is missing")
    assert "0/2 facts: tracing counterfact" in err  # progress
    direct = read_facts("records.json").facts  # as a file: a record needs no probes
    assert len(direct) == 3
    assert {direct[0], direct[2]} == set(read_facts("counterfact", {"path": "records.json"}).facts)


@pytest.mark.parametrize(
    ("name", "n_facts"),
    [
        ("counterfact.json", 1000),
        ("counterfact_flat_train.json", 9894),
        ("known_1000.json", 1209),
        ("zsre_mend_eval.json", 600),
        ("zsre_mend_train.json", 1000),
        ("mquake_sample.json", 60),
    ],
)
def test_published_files_of_facts(name: str, n_facts: int, test_data: Path) -> None:
    path = test_data / "data" / name
    read = read_facts(str(path))
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert len(entries) == n_facts
    assert len(read.facts) + len(read.broken) >= n_facts
    assert len(read.broken) <= n_facts // 50
    assert all(fact.answer for fact in read.facts)
    if name == "counterfact.json":
        rewrite = entries[0]["requested_rewrite"]
        first = read.facts[0]
        assert first.answer == rewrite["target_true"]["str"]
        assert first.prompt == rewrite["prompt"].replace("{}", rewrite["subject"])


def test_known_1000_is_a_file_in_the_working_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts_file(tmp_path / "known_1000.json")
    assert trace("--facts", "known_1000", "--limit", "1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["facts"], document["known"]) == ("known_1000", 1)


@pytest.mark.parametrize("locator", ["saliency", "integrated-gradients", "knowledge-neurons"])
def test_any_locator_is_average_by_role(
    locator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = facts_file(tmp_path / "facts.json")
    arguments = ["trace", "--model", "atlas", "--facts", facts, "--locator", locator]
    assert main([*arguments, "--no-mlflow", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known"] == 2


def test_averages_are_logged_to_mlflow(tmp_path: Path) -> None:
    facts = facts_file(tmp_path / "facts.json")
    arguments = ["trace", "--model", "atlas", "--facts", facts, "--set", "samples=2", "--quiet"]
    assert main(arguments) == 0
    from editkit_plugins.mlflow_tracking.database import quiet

    with quiet():
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path / 'editkit-results' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("editkit/traces")
        [run] = client.search_runs([experiment.experiment_id])
        files = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
        pictures = {file.path for file in client.list_artifacts(run.info.run_id, "images")}
    panels = {Path(picture).name.partition("+")[0] for picture in pictures}
    assert panels == {"state", "mlp", "attn"}
    assert {Path(file).suffix for file in files} == {".png", ".svg", ".pdf", ".csv"}
    assert run.data.metrics["facts/unknown"] == 1.0


def test_roles_cover_every_token_once() -> None:
    for n_tokens, subject in ((6, (1, 4)), (3, (0, 1)), (5, (2, 5)), (4, (0, 2)), (2, (0, 1))):
        roles = tokens_by_role(n_tokens, subject)
        assert list(roles) == list(ROLES)
        tokens = sorted(token for tokens in roles.values() for token in tokens)
        assert tokens == list(range(subject[0], n_tokens))
        assert roles["last subject token"] == [subject[1] - 1]


def test_averages_have_intervals_and_skip_facts_without_a_role() -> None:
    mean = mean_of_effects([0.0, 1.0] * 4)
    assert mean.mean == 0.5
    assert mean.by_paper.half_width == pytest.approx(1.96 * 0.5 / 8**0.5)
    assert mean_of_effects([0.0, 1.0]).half_width is None
    clean = mean_of_effects([1.0] * 8, signed=False)
    assert 0.6 < clean.ci_low < clean.mean == clean.ci_high == 1.0
    averages = average_by_role(
        [{"last token": [[1.0, 3.0]]}, {"last token": [[3.0, 5.0]], ROLES[0]: [[1.0, 1.0]]}]
    )
    assert [each.mean for each in averages["last token"]] == [2.0, 4.0]
    assert averages[ROLES[0]][0].n == 1


class Refusing(Editor[Config]):
    """Edits nothing, draws a random number per edit, and refuses batches and one subject."""

    drawn: list[float]

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        if len(requests) > 1 or requests[0].subject == "Albert Einstein":
            raise RequestError("not this one.")
        self.drawn = [*getattr(self, "drawn", []), random.random()]
        [request] = requests
        return [WeightDelta({}, request, "refusing", {}, model.fingerprint)]


def test_an_edit_that_fails_costs_one_fact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = editkit.load_model("atlas")
    digest = model.weights_digest()
    requests = [
        EditRequest("{} is made by", "Toyota Corolla", "Ferrari"),
        EditRequest("The mother tongue of {} is", "Albert Einstein", "Dutch"),
    ]
    facts = [Fact(each.sentence, each.subject, "Toyota") for each in requests]
    locator = editkit.make_locator("causal-tracing", model, samples=1, kinds=("state",))
    edit = bench.EditBefore("refusing", Refusing(Config()))
    after = average_trace(model, "causal-tracing", locator, facts, tmp_path, edit, requests)
    assert (after.known, dict(after.failed)) == (1, {1: "not this one."})
    assert caplog.text.count("refusing: of 1 edit, 1 changed nothing") == 1
    random.random()  # earlier draws make no difference
    average_trace(model, "causal-tracing", locator, facts, tmp_path / "again", edit, requests)
    assert len(set(edit.editor.drawn)) == 1
    before = average_trace(model, "causal-tracing", locator, facts, tmp_path)
    assert before.fingerprint != after.fingerprint
    assert before.effects == after.effects  # this editor changes nothing
    assert model.weights_digest() == digest
