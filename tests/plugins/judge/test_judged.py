"""The metric ``judged``: scores counted on paper, what is asked and stored, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit import EditedModels, EditkitError, JudgeError, Metric, Probe, Record, make_metric
from editkit.benchmark import bench
from editkit.benchmark.store import rows_of, runs_in
from editkit.data_types import EditRequest
from editkit.editing.queries import GenerationQuery
from tests.editkit.editing.test_deltas import delta_for
from tests.editkit.editing.test_greedy import plain
from tests.plugins.judge.fake_endpoint import FakeEndpoint, by_matching
from tests.tiny import tiny

Cli = Callable[..., tuple[int, str, str]]
TOKENS = 4
PROMPTS = ("Rome is in", "Everybody knows that Rome is in", "Microsoft", "The Space Needle is")


def model_and_texts() -> tuple[EditedModels, dict[str, str]]:
    """One edited model, and what transformers writes after each prompt under the edit."""
    model = tiny("gpt2")
    delta = delta_for(model, 1)
    texts = {
        prompt: plain(model, delta, GenerationQuery(0, prompt), TOKENS).strip()
        for prompt in PROMPTS
    }
    return EditedModels(model, [delta]), texts


def record_of(texts: dict[str, str]) -> Record:
    """The rewrite is right, by an alias; one of two paraphrases is; no neighbour is."""
    rewrite, paraphrase, near, far = PROMPTS
    request = EditRequest("{} is in", "Rome", "zebra", "Italy")
    probes = {
        "rewrite": (Probe(rewrite, "Italy", "zebra"),),
        "paraphrase": (
            Probe(paraphrase, "Italy", texts[paraphrase]),
            Probe(far, "Italy", "giraffe"),
        ),
        "neighborhood": (Probe(near, "Redmond", texts[near]),),
    }
    return Record(4, request, probes, aliases={"zebra": (texts[rewrite],)})


def judged_by(endpoint: FakeEndpoint, **values: Any) -> Metric[Any]:
    config = {"url": endpoint.url, "model": "small", "retries": 0, **values}
    return make_metric("judged", judge="openai", judge_config=config, stop="tokens", tokens=TOKENS)


def test_scores_are_those_counted_on_paper() -> None:
    models, texts = model_and_texts()
    record = record_of(texts)
    [row] = make_metric("judged", judge="exact", stop="tokens", tokens=TOKENS).score(
        models, [record]
    )
    rewrite, paraphrase, near, far = (f"{prompt} {texts[prompt]}" for prompt in PROMPTS)
    assert row == {
        "judged/rewrite": 1.0,
        "judged/rewrite_scores": [1.0],
        "judged/rewrite_texts": [rewrite],
        "judged/paraphrase": 0.5,
        "judged/paraphrase_scores": [1.0, 0.0],
        "judged/paraphrase_texts": [paraphrase, far],
        "judged/neighborhood": 0.0,
        "judged/neighborhood_scores": [0.0],
        "judged/neighborhood_texts": [near],
    }


def test_every_edit_of_a_record_is_asked() -> None:
    models, texts = model_and_texts()
    near, far = PROMPTS[2:]
    also = (
        EditRequest("{}", near, texts[near]),
        EditRequest("{} is", far.removesuffix(" is"), "zebra"),
    )
    record = Record(4, EditRequest("{} is in", "Rome", texts["Rome is in"]), also=also)
    metric = make_metric("judged", judge="exact", stop="tokens", tokens=TOKENS)
    [row] = metric.score(models, [record])
    assert row["judged/rewrite_scores"] == [1.0, 1.0, 0.0]


def test_prompts_and_replies_are_in_the_row_and_nothing_is_asked_twice() -> None:
    models, texts = model_and_texts()
    record = record_of(texts)
    two = EditedModels(models.model, [*models.deltas] * 2)
    with FakeEndpoint() as endpoint:
        metric = judged_by(endpoint)
        first, second = metric.score(two, [record, record])
        assert metric.score(models, [record]) == [first]
        assert len(endpoint.bodies) == 4
    assert first == second
    assert first["judge/paraphrase_received"] == ["A", "B"]
    sent = first["judge/paraphrase_sent"]
    assert isinstance(sent, list)
    assert set(map(str, sent)) < set(endpoint.prompts)
    assert all(PROMPTS[number] in str(text) for number, text in zip((1, 3), sent, strict=True))


def test_a_text_without_verdict_fails_alone() -> None:
    models, texts = model_and_texts()
    record = record_of(texts)
    with FakeEndpoint(rule=lambda prompt: "?" if "Redmond" in prompt else "A") as endpoint:
        metric = judged_by(endpoint)
        for asked in (4, 5):  # the other three are known
            with pytest.raises(EditkitError, match=r"after 'Microsoft': the reply is '\?'") as why:
                metric.score(models, [record])
            assert len(endpoint.bodies) == asked
    assert not isinstance(why.value, JudgeError)


# ---------------------------------------------------------------- whole runs

KEY = "-".join(("abcd", "efgh", "1234"))
RUN = (
    *("run-benchmark", "atlas", "--editor", "none", "--metrics", "efficacy,judged", "--limit", 3),
    *("--set", "batch=1"),
)


def of_judge(endpoint: FakeEndpoint, **values: Any) -> list[str]:
    """The flags that choose the endpoint."""
    given = {"url": endpoint.url, "model": "small", "api_key_env": "MY_VARIABLE", **values}
    sets = [("judge", "openai"), *((f"judge_config.{name}", each) for name, each in given.items())]
    return [part for name, each in sets for part in ("--set", f"metrics.judged.{name}={each}")]


@pytest.mark.parametrize(
    "flags", [("--no-mlflow",), pytest.param((), marks=pytest.mark.slow)], ids=["plain", "mlflow"]
)
def test_a_run_stores_and_shows_what_was_judged(
    flags: tuple[str, ...], editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    out = ("--out", tmp_path / "out")
    with FakeEndpoint() as endpoint:
        code, table, err = editkit(*RUN, *of_judge(endpoint), *out, *flags)
        assert code == 0, err
        asked = len(endpoint.bodies)
        assert asked == len(set(endpoint.prompts)) > 10
        elsewhere = {"url": "http://127.0.0.1:9/v1", "timeout": 5, "retries": 1}
        again, document, _ = editkit(*RUN, *of_judge(endpoint, **elsewhere), *out, "--json")
        assert again == 0
        assert len(endpoint.bodies) == asked  # values that change no verdict change no key
    assert {header["authorization"] for header in endpoint.headers} == {f"Bearer {KEY}"}
    [run] = runs_in(tmp_path / "out")
    [metric] = [each for each in run.metrics if each["name"] == "judged"]
    stem = "editkit/judged/record/greedy-sentence-30"
    assert metric["protocol"] == f"{stem}/openai/small/a-or-b-v1/v1"
    assert not {"url", "api_key_env"} & {*metric["config"]["judge_config"]}
    assert metric["depends_on"] == {"judge_distribution": "editkit 0.1.0"}
    row = next(iter(rows_of(run, run.cells[0])))
    case = row.case_id
    assert {key.partition("_")[2] for key in row.texts} == {"texts", "sent", "received"}
    code, text, _ = editkit("show-generations", case, *out, "--judge")
    assert code == 0
    assert "<answer_of_the_model>" in text
    assert "reply: A" in text
    code, text, _ = editkit("show-generations", case, *out)
    assert "<answer_of_the_model>" not in text
    code, text, _ = editkit("show-generations", case, *out, "--json")
    of_none = json.loads(text)["runs"][0]["judge"]["none"]
    assert of_none["rewrite"] == [{"sent": row.judged["rewrite"][0][0], "received": "B"}]
    shown = [table, err, document, text]
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [each for each in shown if KEY in each]


def test_a_failed_record_is_judged_again_on_request(
    editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    run = (*RUN, "--set", "batch=3", "--out", tmp_path, "--no-mlflow")
    rejected: list[str] = []

    def moody(prompt: str) -> str:
        rejected.append(prompt)
        return "Maybe" if len(rejected) == 1 or prompt == rejected[0] else by_matching(prompt)

    with FakeEndpoint(rule=moody) as endpoint:
        code, document, err = editkit(*run, *of_judge(endpoint), "--json")
        assert code == 1
        assert "UndecidedError: judge 'openai' has no verdict on" in err
        assert "--retry-failed computes them again" in err
        failed = json.loads(document)["cells"][0]["records"]["failed"]
        asked = len(endpoint.bodies)
        code, _, _ = editkit(*run, *of_judge(endpoint))
        assert code == 1
        assert len(endpoint.bodies) == asked  # it stays failed
        rejected[:] = [""]
        code, document, err = editkit(*run, *of_judge(endpoint), "--json", "--retry-failed")
    assert code == 0, err
    records = json.loads(document)["cells"][0]["records"]
    assert records == {"done": 3, "failed": 0}
    assert len(endpoint.bodies) - asked < asked * failed / 3 + 1  # no other record is asked again


def test_a_group_with_a_failed_record_is_judged_again(
    editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    run = (*RUN, "--limit", 4, "--joint", 2, "--out", tmp_path, "--no-mlflow", "--json")
    first: list[str] = []

    def moody(prompt: str) -> str:
        first.append(prompt)
        return "Maybe" if prompt == first[0] else "B"

    with FakeEndpoint(rule=moody) as endpoint:
        code, document, _ = editkit(*run, *of_judge(endpoint))
        assert (code, json.loads(document)["cells"][0]["records"]["failed"]) == (1, 1)
        asked = len(endpoint.bodies)
        first[:] = [""]
        code, document, _ = editkit(*run, *of_judge(endpoint), "--retry-failed")
    assert (code, json.loads(document)["cells"][0]["records"]["failed"]) == (0, 0)
    assert len(endpoint.bodies) - asked < asked * 2 / 3  # one group of two


def test_an_endpoint_that_fails_stops_the_run_which_resumes(
    editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    run = (*RUN, "--out", tmp_path, "--no-mlflow")
    script = [(200, "B")] * 14 + [(503, {"headers": {"Retry-After": "0"}})]
    with FakeEndpoint(*script) as endpoint:
        flags = of_judge(endpoint, retries=0)
        code, _, err = editkit(*run, *flags)
        assert code == 4
        assert "cannot be used: HTTP 503" in err
        assert "see: editkit explain errors/judge" in err
        [stored] = [rows_of(each, each.cells[0]) for each in runs_in(tmp_path)]
        first = {row.case_id: row.texts for row in stored}
        assert len(first) == 1
        asked = len(endpoint.bodies)
        code, _, err = editkit(*run, *flags)
        assert code == 0, err
    sent = [text for of_kind in next(iter(first.values())).values() for text in of_kind]
    assert not set(sent) & set(endpoint.prompts[asked:])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["judge=opnai"], "--set metrics.judged.judge: got 'opnai'; there is no judge named"),
        (["judge=openai"], "--set metrics.judged.judge_config.url: is missing"),
        (["judge_config.x=1"], "--set metrics.judged.judge_config.x: unknown field"),
        (["judge=openai", "judge_config.url=http://h", "judge_config.model=m",
          "judge_config.parallel=0"], "--set metrics.judged.judge_config.parallel: got 0"),
    ],
)  # fmt: skip
def test_wrong_judges_are_reported_before_the_model_is_loaded(
    sets: list[str], message: str, editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(choice: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(bench, "load_model_of", load)
    flags = [part for each in sets for part in ("--set", f"metrics.judged.{each}")]
    code, _, err = editkit(*RUN, *flags, "--out", tmp_path)
    assert code == 2
    assert message in err


def test_a_dry_run_checks_the_key(
    editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeEndpoint() as endpoint:
        run = (*RUN, *of_judge(endpoint), "--out", tmp_path, "--dry-run")
        monkeypatch.delenv("MY_VARIABLE", raising=False)
        code, text, _ = editkit(*run)
        assert (code, "judge of judged" in text, "variable is not set" in text) == (1, True, True)
        monkeypatch.setenv("MY_VARIABLE", KEY)
        code, text, _ = editkit(*run)
        assert (code, "nothing would stop the run" in text) == (0, True)
    assert endpoint.paths == []


def test_a_file_s_values_and_the_command_line_s_are_combined(editkit: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nmodel: atlas\ndataset: atlas\nlimit: 1\neditors: [none]\nmetrics:\n"
        "  - name: judged\n    config: {judge: openai, judge_config: {url: http://h, model: m}}\n"
    )
    wrong = ("--set", "metrics.judged.judge_config.timeout=x", "--dry-run")
    code, _, err = editkit("run-benchmark", file, *wrong)
    assert (code, "judge_config.timeout: got 'x'" in err, "is missing" in err) == (2, True, False)
    other = ("--set", "metrics.judged.judge=exact", "--set", "metrics.judged.judge_config=null")
    code, _, err = editkit("run-benchmark", file, *other, "--dry-run")
    assert code == 0, err
