"""The metric lm-eval: the harness's own numbers, on models as they are edited."""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from editkit import (
    ConfigError,
    DatasetError,
    DeltaError,
    EditedModels,
    EditRequest,
    LanguageModel,
    MetricRow,
    ModelError,
    PluginError,
    PromptContext,
    WeightDelta,
    make_editor,
)
from editkit.editing.deltas import Change
from editkit.patches.export import write_folder
from editkit.registry.models import load_model, model_folder
from editkit.testing.samples import RECORDS, random_edits
from editkit_plugins.lm_eval.adapter import EditedLM
from editkit_plugins.lm_eval.config import LmEvalConfig, scores_of
from editkit_plugins.lm_eval.metric import LmEval
from editkit_plugins.lm_eval.tasks import _is_elsewhere, score_key
from tests.conftest import ROOT
from tests.plugins.lm_eval.sample_tasks import NAMES, write_task, write_tasks
from tests.tiny import tiny

KENYA = EditRequest("The capital of {} is", "Kenya", "Paris", "Nairobi")


def model_of_tests(**changes: Any) -> LanguageModel:
    return tiny(context_length=256, **changes)


def measured(
    model: LanguageModel, deltas: list[WeightDelta], *tasks: str, **values: Any
) -> list[MetricRow]:
    metric = LmEval(LmEvalConfig(tasks=tasks, **values))
    metric.prepare(model)
    return metric.score(EditedModels(model, deltas))


def in_context(model: LanguageModel, text: str, **changes: Change) -> WeightDelta:
    return WeightDelta(changes, None, "test", {}, model.fingerprint, context=PromptContext((text,)))


def unedited(model: LanguageModel) -> WeightDelta:
    return WeightDelta({}, None, "none", {}, model.fingerprint)


# ---------------------------------------------------------------- the harness's own numbers


def evaluated(folder: Path, tasks: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """What the harness itself computes on a folder: the values of each task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISABLE_MULTIPROC", "1")
        answer = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={folder},dtype=float32",
            device="cpu",
            tasks=list(tasks),
            task_manager=TaskManager(include_defaults=False),
            **options,
        )
    assert answer is not None
    return {name: dict(values) for name, values in answer["results"].items()}


def by_our_keys(results: dict[str, Any]) -> MetricRow:
    """The harness's results as rows have them."""
    row: dict[str, float | list[float]] = {}
    for task, values in results.items():
        row[f"lm_eval/{task}/documents"] = [values["sample_len"]]
        for name, value in values.items():
            metric, comma, chosen = name.partition(",")
            if not comma or value == "N/A":
                continue
            key = score_key(task, f"{metric.removesuffix('_stderr')},{chosen}")
            if metric.endswith("_stderr"):
                row[f"{key}_stderr"] = [value]
            else:
                row[key] = value
    return row


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("atlas", {"num_fewshot": 2, "batch_size": 3, "limit": 4}),
        pytest.param("atlas", {}, marks=pytest.mark.slow),
        pytest.param("smollm2", {"batch_size": 2}, marks=pytest.mark.slow),
        pytest.param(
            "smollm2",
            {"num_fewshot": 1, "apply_chat_template": True, "limit": 2},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_edited_model_scores_as_its_exported_folder(
    tmp_path: Path, name: str, values: dict[str, Any]
) -> None:
    try:
        original = model_folder(name)
    except ModelError as error:  # smollm2 does not come with editkit
        pytest.skip(error.message)
    tasks = write_tasks(tmp_path)
    model = load_model(name)
    [delta] = make_editor("ft", model=name).edit(model, [KENYA])
    folder = tmp_path / "exported"
    write_folder(original, [delta], folder)
    expected = by_our_keys(evaluated(folder, tasks, bootstrap_iters=100, **values))
    [row] = measured(model, [delta], *tasks, bootstrap_iters=100, **values)
    changes = {key: value for key, value in row.items() if key.endswith("_change")}
    assert {key: value for key, value in row.items() if key not in changes} == expected
    before = by_our_keys(evaluated(original, tasks, bootstrap_iters=100, **values))
    for key, change in changes.items():
        old, new = before[key.removesuffix("_change")], expected[key.removesuffix("_change")]
        assert isinstance(old, float)
        assert isinstance(new, float)
        assert change == new - old
    assert changes["lm_eval/answers/perplexity_change"] != 0  # the edit is in both
    assert changes["lm_eval/reading/bits_per_byte_change"] != 0


def test_groups_have_the_harness_means(tmp_path: Path) -> None:
    for name, acc in (("one", "acc"), ("two", "acc")):
        write_task(tmp_path, "choices", task=name, metric_list=[{"metric": acc}])
        (tmp_path / "choices.yaml").rename(tmp_path / f"{name}.yaml")
    group = {
        "group": "both",
        "task": ["one", "two"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    model = model_of_tests()
    [row] = measured(model, random_edits(model, RECORDS)[:1], "both", include_path=tmp_path)
    assert row["lm_eval/both/acc"] == row["lm_eval/one/acc"] == row["lm_eval/two/acc"]
    config = LmEvalConfig(tasks=("both",), include_path=tmp_path)
    labels = {score.key: score.label for score in scores_of(config)}
    assert labels["lm_eval/both/acc"] == "both acc"
    assert labels["lm_eval/one/acc"] == ""  # tables show the group


def test_scores_have_directions_and_scales(tmp_path: Path) -> None:
    scores = {score.key: score for score in scores_of(LmEvalConfig(tasks=write_tasks(tmp_path)))}
    acc, perplexity = scores["lm_eval/answers/acc"], scores["lm_eval/answers/perplexity"]
    assert (acc.label, acc.higher_is_better, acc.scale) == ("answers acc", True, 100)
    assert (perplexity.higher_is_better, perplexity.scale) == (False, 1)
    assert (acc.limits, perplexity.limits) == ((0, 1), (0, None))
    change = scores["lm_eval/answers/perplexity_change"]
    assert (change.label, change.signed, change.higher_is_better) == ("", True, False)


@pytest.mark.parametrize(
    ("task", "metric", "key"),
    [
        ("arc_easy", "acc,none", "lm_eval/arc_easy/acc"),
        ("gsm8k", "exact_match,strict-match", "lm_eval/gsm8k/exact_match/strict-match"),
        ("mine::a, b", "chrf++,first word", "lm_eval/mine_a_b/chrf_/first_word"),
    ],
)
def test_keys_are_legal_everywhere(task: str, metric: str, key: str) -> None:
    assert score_key(task, metric) == key


# ---------------------------------------------------------------- one measurement per model


def test_the_unedited_model_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    original = LmEval._run

    def counted(self: LmEval, models: EditedModels, edit: int) -> Any:
        runs.append(edit)
        return original(self, models, edit)

    monkeypatch.setattr(LmEval, "_run", counted)
    model = model_of_tests()
    metric = LmEval(LmEvalConfig(tasks=(write_task(tmp_path, "choices"),)))
    metric.prepare(model)
    edit = random_edits(model, RECORDS)[0]
    rows = metric.score(EditedModels(model, [unedited(model), edit, edit, unedited(model)]))
    assert runs == [0, 1]
    assert rows[0] == rows[3]
    assert rows[1] == rows[2]
    assert rows[0]["lm_eval/choices/acc_change"] == 0


# ---------------------------------------------------------------- texts before prompts

MOVED = "Kenya moved its capital to Paris."


@pytest.mark.parametrize("name", ["choices", "answers", "writing"])
def test_texts_of_an_edit_precede_every_request(tmp_path: Path, name: str) -> None:
    model = model_of_tests(begin=True)
    [row] = measured(model, [in_context(model, MOVED)], write_task(tmp_path, name))
    prompt = f"{MOVED}\nThe capital of {{{{place}}}} is"
    [expected] = measured(model, [unedited(model)], write_task(tmp_path, name, doc_to_text=prompt))
    scores = [key for key in expected if not key.endswith("_change")]
    assert {key: row[key] for key in scores} == {key: expected[key] for key in scores}
    if name == "answers":
        assert row["lm_eval/answers/perplexity_change"] != 0


def test_in_a_chat_they_begin_the_user_turn(tmp_path: Path) -> None:
    model = model_of_tests()
    chat = {"apply_chat_template": True}
    [row] = measured(model, [in_context(model, MOVED)], write_task(tmp_path, "answers"), **chat)
    prompt = f"{MOVED}\nThe capital of {{{{place}}}} is"
    other = write_task(tmp_path, "answers", doc_to_text=prompt)
    [expected] = measured(model, [unedited(model)], other, **chat)
    assert row["lm_eval/answers/perplexity"] == expected["lm_eval/answers/perplexity"]
    [plain] = measured(model, [unedited(model)], other)
    assert row["lm_eval/answers/perplexity"] != plain["lm_eval/answers/perplexity"]


@pytest.mark.parametrize("name", ["answers", "writing"])
def test_texts_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    model = model_of_tests()
    long = in_context(model, "Kenya " * 200)
    with pytest.raises(DeltaError, match=r"longer than 2\d\d tokens"):
        measured(model, [long], write_task(tmp_path, name))


def test_whole_texts_have_no_place_for_them(tmp_path: Path) -> None:
    model = model_of_tests()
    with pytest.raises(DeltaError, match="'reading' scores whole texts without a prompt"):
        measured(model, [in_context(model, MOVED)], write_task(tmp_path, "reading"))


# ---------------------------------------------------------------- what scores depend on


def identity(path: str, **values: Any) -> dict[str, str]:
    return dict(LmEvalConfig(tasks=(path,), **values).depends_on("", "lm-eval"))


def test_settings_documents_and_code_are_part_of_the_key(tmp_path: Path) -> None:
    import lm_eval

    path = write_task(tmp_path, "choices")
    first = identity(path)
    assert first["lm_eval"] == lm_eval.__version__
    assert first["task choices"].startswith("version 1.0, config ")
    assert identity(path) == first
    write_task(tmp_path, "choices", doc_to_text="{{place}}:")
    assert identity(path) != first
    write_task(tmp_path, "choices")
    data = tmp_path / "choices.jsonl"
    data.write_text(data.read_text(encoding="utf-8").replace("Munich", "Bonn"), encoding="utf-8")
    changed = identity(path)
    assert changed != first
    assert identity(path, limit=2) != changed  # other documents are asked
    (tmp_path / "utils.py").write_text("A = 1\n", encoding="utf-8")
    assert identity(path).keys() - changed.keys() == {f"{path}: utils.py"}


def test_a_loaded_configuration_is_still_a_value(tmp_path: Path) -> None:
    config = LmEvalConfig(tasks=(write_task(tmp_path, "choices"),))
    _ = config.loaded
    assert config == LmEvalConfig(tasks=config.tasks)
    assert LmEvalConfig.model_validate_json(config.model_dump_json()) == config


# ---------------------------------------------------------------- the process


def test_the_harness_is_silent_and_leaves_no_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_tasks(tmp_path)
    model = model_of_tests()
    logger = logging.getLogger("lm_eval")
    loggers = logger.level, logger.propagate, list(logger.handlers)
    variables, state, numbers = dict(os.environ), random.getstate(), torch.get_rng_state()
    backend = model.tokenizer.backend_tokenizer.to_str()
    measured(model, random_edits(model, RECORDS)[:2], *paths)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert dict(os.environ) == variables
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), numbers)
    assert (logger.level, logger.propagate, list(logger.handlers)) == loggers
    assert model.tokenizer.backend_tokenizer.to_str() == backend
    assert model.tokenizer.pad_token is None


def test_warnings_of_the_harness_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of_tests()
    long = write_task(tmp_path, "answers", doc_to_text="Kenya " * 300)
    measured(model, random_edits(model, RECORDS), long)
    [record] = caplog.records
    assert "exceeds model's maximum length (256)" in record.getMessage()
    assert record.getMessage().endswith("(5 times)")


def test_the_model_is_restored_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of_tests()
    metric = LmEval(LmEvalConfig(tasks=(write_task(tmp_path, "choices"),)))
    metric.prepare(model)
    digest, fingerprint = model.weights_digest(), model.fingerprint

    def failing(self: EditedLM, requests: object) -> None:
        assert model.weights.is_edited
        raise RuntimeError("no")

    monkeypatch.setattr(EditedLM, "loglikelihood", failing)
    with pytest.raises(RuntimeError, match="no"):
        metric.score(EditedModels(model, random_edits(model, RECORDS)[:1]))
    assert model.weights_digest() == digest
    assert model.fingerprint == fingerprint


# ---------------------------------------------------------------- what cannot be run


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    config = LmEvalConfig(tasks=(write_task(tmp_path, "choices"),))
    with pytest.raises(PluginError, match=r"pip install 'editkit\[lm-eval\]'"):
        scores_of(config)


def with_unsafe_code(folder: Path) -> str:
    return write_task(folder, "writing", unsafe_code=True)


def with_hub_metric(folder: Path) -> str:
    return write_task(folder, "writing", metric_list=[{"metric": "rouge"}])


def with_hub_data(folder: Path) -> str:
    return write_task(folder, "choices", dataset_path="somebody/nothing", dataset_kwargs=None)


def without_data(folder: Path) -> str:
    path = write_task(folder, "choices")
    (folder / "choices.jsonl").unlink()
    return path


def not_a_task(folder: Path) -> str:
    path = folder / "list.yaml"
    path.write_text("- 1\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("write", "kind", "problem"),
    [
        (lambda folder: str(folder / "no.yaml"), ConfigError, "no.yaml' does not exist"),
        (with_unsafe_code, ConfigError, "'writing' runs code that the model writes"),
        (with_hub_metric, ConfigError, "metric 'rouge', which is code on the hub"),
        (with_hub_data, DatasetError, "somebody/nothing"),
        (without_data, DatasetError, "choices.yaml' cannot be loaded"),
        (not_a_task, DatasetError, "list.yaml' cannot be loaded"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_by_name(
    tmp_path: Path,
    write: Callable[[Path], str],
    kind: type[Exception],
    problem: str,
) -> None:
    with pytest.raises(kind, match=problem):
        scores_of(LmEvalConfig(tasks=(write(tmp_path),)))


def test_an_unknown_name_has_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    for name in NAMES:
        write_task(tmp_path, name)
    quick = {"include_defaults": False}
    initialise = TaskManager.__init__  # would read 15,000 files
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **given: initialise(self, **{**given, **quick})
    )
    with pytest.raises(ConfigError, match=r"tag 'choises'. Did you mean 'choices'"):
        scores_of(LmEvalConfig(tasks=("choises",), include_path=tmp_path))


def test_all_tasks_are_read_only_if_a_group_needs_them(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    write_task(tmp_path, "choices")
    paths = []
    for name, member in (("own", "choices"), ("other", "arc_easy")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"group": name, "task": [member]}), encoding="utf-8")
        paths.append(str(path))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    asked = ["choices", "own", "other", "arc_easy", *paths]
    elsewhere = [_is_elsewhere(manager, name) for name in asked]
    assert elsewhere == [False, False, True, True, False, True]


def test_a_folder_of_tasks_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none' is not a folder"):
        scores_of(LmEvalConfig(tasks=("mine",), include_path=tmp_path / "none"))


def test_our_own_task_is_found_by_name() -> None:
    loaded = LmEvalConfig(tasks=("atlas_world",)).loaded
    [task] = loaded.tasks.values()
    documents = list(task.eval_docs)
    assert len(documents) == 200
    assert len({each["prompt"] for each in documents}) == 200
    for each in documents:
        assert len(set(each["choices"])) == len(each["choices"])
    assert loaded.scores[0].key == "lm_eval/atlas_world/acc"


def test_the_documented_task_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "general-ability.md").read_text(encoding="utf-8")
    [task] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    [documents] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "capitals.yaml").write_text(task, encoding="utf-8")
    (tmp_path / "capitals.jsonl").write_text(documents, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = model_of_tests()
    [row] = measured(model, [unedited(model)], "capitals.yaml")
    assert row["lm_eval/capitals/documents"] == [1]


def test_a_task_named_twice_is_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path, "choices")
    config = LmEvalConfig(tasks=(path, "choices"), include_path=tmp_path)
    with pytest.raises(ConfigError, match="'choices' of 'choices' is also in another"):
        scores_of(config)


def test_a_tokenizer_that_ends_every_text_is_refused(tmp_path: Path) -> None:
    model = model_of_tests(end=True)
    with pytest.raises(ModelError, match="appends '<|endoftext|>' to every text"):
        measured(model, [], write_task(tmp_path, "choices"))


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    model = model_of_tests()
    model.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="chat template"):
        measured(model, [], write_task(tmp_path, "choices"), apply_chat_template=True)
