"""The mistakes that newcomers make in Python: a sentence with the value, what is right, and how."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import editkit
from editkit import (
    Attempt,
    Config,
    EditedModels,
    EditkitError,
    Editor,
    EditRequest,
    Fact,
    LanguageModel,
    Localization,
    Locator,
    Metric,
    MetricRow,
    ModelMetric,
    OpenQuestion,
    Patch,
    Probe,
    Record,
    Records,
    UsageError,
    WeightDelta,
)
from editkit.editing.deltas import stack
from editkit.interfaces import State
from editkit.mistakes import expect, expect_list
from tests.tiny import tiny

REQUEST = EditRequest("The {} is in the city of", "Space Needle", "Rome")
QUESTION = OpenQuestion("Where is it?", (("Rome",),))
FACT = Fact("The Space Needle is in the city of", "Space Needle")
RECORD = Record(0, REQUEST, {"paraphrase": (Probe("Where is it?", "Seattle", "Rome"),)})
RECORDS = Records((RECORD,), "digest")
AS_DICT = {"prompt": "The {} is in", "subject": "Space Needle", "target_new": "Rome"}


class ThirdPartyEditor(Editor[Config]):
    """Of another package: it checks nothing itself."""

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        return [self.delta(model, request, {}) for request in requests]

    def step(
        self, model: LanguageModel, requests: Sequence[EditRequest], state: State
    ) -> tuple[WeightDelta, State]:
        return self.edit_jointly(model, requests), dict(state)

    def prepare(self, model: LanguageModel) -> None:
        assert model.fingerprint


class ThirdPartyLocator(Locator[Config]):
    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        return [Localization(fact, (), "state", ()) for fact in facts]


class ThirdPartyMetric(Metric[Config]):
    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        return [{"x": 1.0} for _ in records]


class ThirdPartyModelMetric(ModelMetric[Config]):
    def prepare(self, model: LanguageModel) -> None:
        assert model.fingerprint

    def score(self, models: EditedModels) -> list[MetricRow]:
        return [{"x": 1.0} for _ in range(len(models))]


MODEL = tiny("gpt2")
EDITOR, LOCATOR = ThirdPartyEditor(Config()), ThirdPartyLocator(Config())
METRIC, MODEL_METRIC = ThirdPartyMetric(Config()), ThirdPartyModelMetric(Config())
[DELTA] = EDITOR.edit(MODEL, [REQUEST])
PATCH = Patch(DELTA)
MODELS = EditedModels(MODEL, [DELTA])


def applied(*arguments: Any) -> None:
    with editkit.applied(*arguments):
        pass


def edit(*arguments: Any, **named: Any) -> Any:
    return editkit.edit(*arguments, **{"subject": "Space Needle", "to": "Rome", **named})


any_editor: Any = EDITOR
any_locator: Any = LOCATOR
any_metric: Any = METRIC
any_model_metric: Any = MODEL_METRIC
any_judge: Any = editkit.make_judge("exact")
any_model: Any = MODEL
any_patch: Any = PATCH
any_of: Any = editkit  # calls with wrong types, which mypy would refuse

MISTAKES: list[tuple[Callable[[], Any], str, str, str]] = [
    # a call; the value and its place; what was expected; what to do
    # editors
    (lambda: any_editor.edit(MODEL, REQUEST), "an EditRequest as requests",
     "a list of EditRequests", "Put it in a list: [request]."),
    (lambda: any_editor.edit(MODEL, AS_DICT), "the dict {'prompt': ", "a list of EditRequests",
     "Write it as [EditRequest(prompt, subject, target_new)]."),
    (lambda: any_editor.edit(MODEL, [REQUEST, AS_DICT]), "as requests[1]", "an EditRequest",
     "Write it as EditRequest(prompt, subject, target_new)."),
    (lambda: any_editor.edit(MODEL, "Space Needle"), "the str 'Space Needle' as requests",
     "a list of EditRequests", "Write it as [EditRequest('... {} ...', subject, target_new)]."),
    (lambda: any_editor.edit(MODEL, (r for r in [REQUEST])), "a generator as requests",
     "a list of EditRequests", "Make it a list: list(requests)."),
    (lambda: any_editor.edit(MODEL, RECORD), "a Record as requests", "a list of EditRequests",
     "Use its request: [record.request]."),
    (lambda: any_editor.edit(MODEL, RECORDS), "Records as requests", "a list of EditRequests",
     "[record.request for record in records.records]"),
    (lambda: any_editor.edit(MODEL, [RECORD]), "a Record as requests[0]", "an EditRequest",
     "[record.request for record in records]"),
    (lambda: any_editor.edit(MODEL, [[REQUEST]]), "a list of 1 EditRequest as requests[0]",
     "an EditRequest", "Leave out one pair of brackets."),
    (lambda: any_editor.edit(MODEL, [FACT]), "a Fact as requests[0]", "an EditRequest",
     "Facts are traced"),
    (lambda: any_editor.edit([REQUEST], MODEL), "a list of 1 EditRequest as model",
     "a LanguageModel", "The order of the arguments is edit(model, requests)."),
    (lambda: any_editor.edit(requests=[REQUEST], model="atlas"), "the str 'atlas' as model",
     "a LanguageModel", "Load it first: editkit.load_model(name)."),
    (lambda: any_editor.edit(Path("my-gpt2"), [REQUEST]), "the path 'my-gpt2' as model",
     "a LanguageModel", "Load it first: editkit.load_model(path)."),
    (lambda: any_editor.edit(MODEL.hf, [REQUEST]), "a GPT2LMHeadModel as model",
     "a LanguageModel", "editkit.LanguageModel(network, tokenizer, name='...')"),
    (lambda: any_editor.edit(None, [REQUEST]), "None as model", "a LanguageModel",
     "Load one: editkit.load_model('atlas')."),
    (lambda: any_editor.edit_jointly(MODEL, REQUEST), "an EditRequest as requests",
     "a list of EditRequests", "Put it in a list: [request]."),
    (lambda: any_editor.step(MODEL, [REQUEST], None), "None as state", "a mapping",
     "Give an empty one: {}."),
    (lambda: any_editor.prepare("atlas"), "the str 'atlas' as model", "a LanguageModel",
     "Load it first: editkit.load_model(name)."),
    # deltas
    (lambda: applied(DELTA, MODEL), "a WeightDelta as model", "a LanguageModel",
     "The order of the arguments is applied(model, delta)."),
    (lambda: applied(MODEL, PATCH), "a Patch as delta", "a WeightDelta",
     "Its delta is patch.delta"),
    (lambda: applied(MODEL, [PATCH]), "a Patch as delta[0]", "a WeightDelta",
     "[patch.delta for patch in patches]"),
    (lambda: applied(MODEL, REQUEST), "an EditRequest as delta", "a WeightDelta",
     "[delta] = editor.edit(model, [request])"),
    (lambda: applied(MODEL, any_editor.step(MODEL, [REQUEST], {})), "the dict {} as delta[1]",
     "a WeightDelta", "delta, state = editor.step(model, requests, state)"),
    (lambda: editkit.trace(any_of.applied(MODEL, DELTA), "The Space Needle is in", "Space Needle"),
     "a _GeneratorContextManager as model", "a LanguageModel", "with applied(model, delta):"),
    (lambda: any_of.EditedModels([DELTA], MODEL), "a list of 1 WeightDelta as model",
     "a LanguageModel", "The order of the arguments is EditedModels(model, deltas)."),
    (lambda: any_of.EditedModels(MODEL, DELTA), "a WeightDelta as deltas", "a list of WeightDeltas",
     "Put it in a list: [delta]."),
    (lambda: any_of.EditedModels(MODEL, PATCH), "a Patch as deltas", "a list of WeightDeltas",
     "Put its delta in a list: [patch.delta]."),
    (lambda: any_of.EditedModels(MODEL, [[DELTA]]), "a list of 1 WeightDelta as deltas[0]",
     "a WeightDelta", "Leave out one pair of brackets: edit() returns a list."),
    (lambda: any_of.EditedModels(MODEL, "edit.safetensors"), "the str 'edit.safetensors' as deltas",
     "a list of WeightDeltas", "[editkit.load_delta(path)]"),
    (lambda: any_of.save_delta("edit.safetensors", DELTA), "the str 'edit.safetensors' as delta",
     "a WeightDelta", "The order of the arguments is save_delta(delta, path)."),
    (lambda: any_of.save_delta([DELTA], "x"), "a list of 1 WeightDelta as delta", "a WeightDelta",
     "Give one delta at a time."),
    (lambda: any_of.save_delta(PATCH, "x"), "a Patch as delta", "a WeightDelta",
     "Its delta is patch.delta; patch.save(path) keeps its checks, too."),
    (lambda: any_of.load_delta(DELTA), "a WeightDelta as path", "the path of a file",
     "Give the path of a file."),
    (lambda: any_of.Patch.load(3), "3 as path", "the path of a file", "Give the path of a file."),
    (lambda: any_of.Patch([DELTA]), "a list of 1 WeightDelta as delta", "a WeightDelta",
     "Give one delta at a time."),
    (lambda: PATCH.applied(any_of).__enter__(), "a module as model", "a LanguageModel",
     "Give a LanguageModel."),
    (lambda: any_of.WeightDelta([1], REQUEST, "x", {}, "f"), "a list of 1 int as changes",
     "a mapping", "WeightDelta(changes, ...)"),
    (lambda: stack(any_of.Patch), "the class Patch as deltas", "a list of WeightDeltas",
     "Give a list of WeightDeltas."),
    (lambda: any_of.Dense([[1.0]]), "[[1.0]] of type list", "a tensor", "torch.tensor(numbers)"),
    (lambda: any_of.LowRank([[1.0]], torch.ones(1, 1)), "[[1.0]] of type list", "a tensor",
     "torch.tensor(numbers)"),
    (lambda: any_of.Rows([0], torch.ones(1, 1), 2), "[0] of type list", "a tensor",
     "torch.tensor(numbers)"),
    (lambda: any_of.PromptContext("The Space Needle is in Rome."), "texts 'The Space Needle is",
     "a tuple of texts", "Give PromptContext plain values."),
    # models
    (lambda: any_of.load_model(MODEL), "a LanguageModel as name", "a model's name, folder or file",
     "Give a model's name, folder or file."),
    (lambda: any_of.load_model(None), "None as name", "a model's name, folder or file", "Give a"),
    (lambda: any_of.LanguageModel(MODEL.tokenizer, MODEL.hf, name="x"), "'x' is a transformers",
     "a causal language model of transformers", "Load it with AutoModelForCausalLM"),
    (lambda: any_model.read("Kenya"), "the str 'Kenya' as prompts", "a list of texts",
     "Put it in a list: [text]."),
    (lambda: any_model.encode("Kenya"), "the str 'Kenya' as texts", "a list of texts",
     "Put it in a list: [text]."),
    (lambda: MODELS.generate(any_of.__name__), "the str 'editkit' as queries",
     "a list of GenerationQueries", "Write it as [GenerationQuery(0, prompt)]."),
    (lambda: MODELS.candidate_scores(any_of.__name__), "the str 'editkit' as queries",
     "a list of CandidateQueries", "Write it as [CandidateQuery(0, prompt, candidates)]."),
    # making things by name
    (lambda: any_of.make_editor(MODEL, "rome"), "a LanguageModel as name", "a name",
     "The order of the arguments is make_editor(name, model)."),
    (lambda: any_of.make_editor(ThirdPartyEditor, MODEL), "the class ThirdPartyEditor as name",
     "a name", "Give the name under which it is installed"),
    (lambda: any_of.make_editor(EDITOR, MODEL), "a ThirdPartyEditor as name", "a name",
     "Give its name: editor.name."),
    (lambda: any_of.make_editor("rome", MODEL.hf), "a GPT2LMHeadModel as model",
     "a LanguageModel", "editkit.LanguageModel(network, tokenizer, name='...')"),
    (lambda: any_of.make_locator("causal-tracing", [FACT]), "a list of 1 Fact as model",
     "a LanguageModel", "The order of the arguments is make_locator(name, model)."),
    (lambda: any_of.make_metric(MODELS), "EditedModels as name", "a name", "Give a name."),
    (lambda: any_of.make_model_metric(MODEL), "a LanguageModel as name", "a name", "Give a name."),
    (lambda: any_of.make_judge(MODEL), "a LanguageModel as name", "a name", "Give a name."),
    (lambda: any_of.make_dataset(Path("records.json")), "the path 'records.json' as name", "a name",
     "make_dataset('counterfact', path='records.json')"),
    # locators and traces
    (lambda: any_locator.locate(MODEL, FACT), "a Fact as facts", "a list of Facts",
     "Put it in a list: [fact]."),
    (lambda: any_locator.locate(MODEL, [REQUEST]), "an EditRequest as facts[0]", "a Fact",
     "Write it as Fact(request.sentence, request.subject)."),
    (lambda: any_locator.locate([FACT], MODEL), "a list of 1 Fact as model", "a LanguageModel",
     "The order of the arguments is locate(model, facts)."),
    (lambda: any_of.trace("The Space Needle is in", MODEL, "Space Needle"), "the str 'The Space",
     "a LanguageModel", "Load it first: editkit.load_model(name)."),
    (lambda: any_of.trace(MODEL, REQUEST, "Space Needle"), "an EditRequest as prompt", "a text",
     "Its parts are request.sentence, request.subject and request.target_new."),
    # metrics
    (lambda: any_metric.score([RECORD], MODELS), "a list of 1 Record as models", "EditedModels",
     "The order of the arguments is score(models, records)."),
    (lambda: any_metric.score(MODEL, [RECORD]), "a LanguageModel as models", "EditedModels",
     "Combine it with its edits: EditedModels(model, deltas)."),
    (lambda: any_metric.score([DELTA], [RECORD]), "a list of 1 WeightDelta as models",
     "EditedModels", "Combine them with their model: EditedModels(model, deltas)."),
    (lambda: any_metric.score(MODELS, RECORD), "a Record as records", "a list of Records",
     "Put it in a list: [record]."),
    (lambda: any_metric.score(MODELS, RECORDS), "Records as records", "a list of Records",
     "The list is records.records."),
    (lambda: any_metric.score(MODELS, [REQUEST]), "an EditRequest as records[0]", "a Record",
     "Make records of them: Record(number, request)."),
    (lambda: any_metric.score(MODELS, [RECORD, RECORD]), "1 edited models and 2 records",
     "as many models as records", "EditedModels(model, deltas) needs one delta per record."),
    (lambda: editkit.make_metric("consistency").score(MODELS, [RECORD]), "'consistency'",
     "not prepared", "Call prepare(records.texts) with the dataset's texts first."),
    (lambda: any_model_metric.prepare(MODELS), "EditedModels as model", "a LanguageModel",
     "The unedited model is models.model."),
    (lambda: any_model_metric.score(MODEL), "a LanguageModel as models", "EditedModels",
     "Combine it with its edits: EditedModels(model, deltas)."),
    # judges
    (lambda: any_judge.judge(QUESTION), "an OpenQuestion as attempts", "a list of Attempts",
     "Add what the model wrote: [Attempt(question, text)]."),
    (lambda: any_judge.judge(Attempt(QUESTION, "Rome")), "an Attempt as attempts",
     "a list of Attempts", "Put it in a list: [attempt]."),
    (lambda: any_of.Attempt("Where is it?", "Rome"), "the str 'Where is it?' as question",
     "an OpenQuestion", "OpenQuestion"),
    (lambda: any_of.Verdict(1.5), "1.5", "a number from 0 to 1", "Write Verdict(1.0)"),
    # patches
    (lambda: any_patch.check("atlas"), "the str 'atlas' as model", "a LanguageModel",
     "Load it first: editkit.load_model(name)."),
    (lambda: any_patch.check(MODEL, PATCH), "a Patch as others", "a list of Patches",
     "Put it in a list: [patch]."),
    (lambda: any_of.Patch.stack([DELTA]), "a WeightDelta as patches[0]", "a Patch",
     "[Patch(delta) for delta in deltas]"),
    (lambda: any_of.Patch.conflicts(["a.safetensors"]), "the str 'a.safetensors' as patches[0]",
     "a Patch", "Patch.load(path)"),
    (lambda: any_patch.overlap("a.safetensors"), "the str 'a.safetensors' as other", "a Patch",
     "Read the file first: Patch.load(path)."),
    (lambda: any_patch.diff(DELTA), "a WeightDelta as other", "a Patch",
     "Make a patch of it: Patch(delta)."),
    (lambda: any_patch.save(MODEL), "a LanguageModel as path", "the path of a file",
     "Give the path of a file."),
    (lambda: any_patch.export(MODEL), "a LanguageModel as out", "the path of a new folder",
     "Give the path of a new folder."),
    (lambda: any_patch.export("no-such-folder", model=MODEL), "a LanguageModel as model",
     "a model's name, folder or file", "Give a model's name, folder or file."),
    (lambda: any_of.Ledger(MODEL), "a LanguageModel as folder", "the path of a folder",
     "The order of the arguments is Ledger(folder, model=...)."),
    (lambda: any_of.Ledger("no-such-folder", model=MODEL), "a LanguageModel as model",
     "a model's name, folder or file", "Ledger(folder, model=...)"),
    # results
    (lambda: any_of.runs_in(RECORDS), "Records as out", "the path of an output folder",
     "Give the path of an output folder."),
    (lambda: editkit.runs_in("no-such-folder"), "no-such-folder", "no result store",
     "Give the --out folder of an earlier 'editkit run-benchmark'."),
    # data
    (lambda: any_of.Record(1, AS_DICT), "the dict {'prompt'", "an EditRequest",
     "Write it as EditRequest(prompt, subject, target_new)."),
    (lambda: any_of.Record(1, REQUEST, [Probe("a", "b", "c")]), "a list of 1 Probe as probes",
     "a mapping", "Record(case_id, request, probes, texts, "),
    (lambda: any_of.Record(1, REQUEST, {"paraphrase": Probe("a", "b", "c")}),
     "a Probe as probes['paraphrase']", "a list of Probes", "Give a list of Probes."),
    (lambda: any_of.EditRequest(None, "Space Needle", "Rome"), "prompt is None", "a non-empty text",
     "Give the request a prompt."),
    (lambda: any_of.EditRequest("The Space Needle is in", "Space Needle", "Rome"), "holds 0 places",
     "exactly one '{}'", "Write '{}' once, where the subject belongs: 'The {} is in'."),
    (lambda: any_of.Fact("The Space Needle", "Eiffel Tower"), "'Eiffel Tower'", "in the prompt",
     "Write the subject exactly as it is spelled in the prompt."),
    (lambda: any_of.Probe("Where is it?", ["Seattle"], "Rome"), "target_true is ['Seattle']",
     "a non-empty text", "Give the request a target_true."),
    # one fact
    (lambda: edit(MODEL.hf, "The Space Needle is in"), "a GPT2LMHeadModel as model",
     "a LanguageModel", "editkit.LanguageModel(network, tokenizer, name='...')"),
    (lambda: edit("The Space Needle is in", MODEL), "a LanguageModel as prompt", "a text",
     "The order of the arguments is edit(model, prompt, "),
    (lambda: edit(MODEL, REQUEST), "an EditRequest as prompt", "a text",
     "Its parts are request.sentence, request.subject and request.target_new."),
    (lambda: edit(MODEL, "The Space Needle is in", keep="Big Ben is in"), "the str 'Big Ben is in'",
     "a list of texts", "Put it in a list: [text]."),
    (lambda: edit(MODEL, "The Space Needle is in", also="Where is the Space Needle?"), "as also",
     "a list of texts", "Put it in a list: [text]."),
    (lambda: edit(MODEL, "The Space Needle is in", editor=ThirdPartyEditor),
     "the class ThirdPartyEditor as editor", "an Editor", "make_editor(name, model)"),
    (lambda: any_of.edit_many(MODEL, {"prompt": "The Space Needle is in"}), "'prompt'", "a list",
     "Put it in a list, or use editkit.edit for one fact."),
]  # fmt: skip
NOT_CALLED = {  # by newcomers: to derive from, to offer plugins, errors, and results
    name
    for name in editkit.__all__
    if name.endswith(("Error", "Spec")) or name in (
        "Config", "Consequence", "Dataset", "Failure", "JointEditor", "LayerRule", "Localization",
        "MetricRow", "Records", "RejectedRecord", "RequiredStatistic", "Requirements", "Score",
        "State", "Style", "Trace", "counting", "hookimpl", "show_progress",
    )
}  # fmt: skip
COVERED = {
    "Attempt", "Dense", "EditRequest", "EditedModels", "Editor", "Fact", "Judge", "LanguageModel",
    "Ledger", "Locator", "LowRank", "Metric", "ModelMetric", "OpenQuestion", "Patch", "Probe",
    "PromptContext", "Record", "Rows", "Verdict", "WeightDelta", "applied", "edit", "edit_many",
    "load_delta", "load_model", "make_dataset", "make_editor", "make_judge", "make_locator",
    "make_metric", "make_model_metric", "runs_in", "save_delta", "trace",
}  # fmt: skip


@pytest.mark.parametrize(
    ("call", "value", "expected", "hint"), MISTAKES, ids=[case[1] for case in MISTAKES]
)
def test_a_mistake_gets_a_sentence(
    call: Callable[[], Any], value: str, expected: str, hint: str
) -> None:
    with pytest.raises(EditkitError) as caught:
        call()
    assert value in caught.value.message
    assert expected in caught.value.message
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 400


def test_every_public_name_was_considered() -> None:
    """A new name gets a case in MISTAKES, or belongs into NOT_CALLED."""
    assert set(editkit.__all__) == NOT_CALLED | COVERED
    assert not NOT_CALLED & COVERED
    source = Path(__file__).read_text(encoding="utf-8")
    cases = source.partition("\nMISTAKES")[2].partition("\nNOT_CALLED")[0]
    assert not [name for name in COVERED if plain(name) not in plain(cases)]


def plain(name: str) -> str:
    return name.replace("_", "").lower()


def test_right_calls_pass() -> None:
    deltas = EDITOR.edit(MODEL, (REQUEST, REQUEST))
    models = EditedModels(MODEL, tuple(deltas))
    assert METRIC.score(models, (RECORD, RECORD)) == [{"x": 1.0}] * 2
    assert MODEL_METRIC.score(models) == [{"x": 1.0}] * 2
    assert len(LOCATOR.maps(MODEL, [FACT])) == 1
    applied(MODEL, deltas)
    applied(MODEL, DELTA)
    EDITOR.step(MODEL, [REQUEST], {})


def test_a_path_is_a_model_s_name(tmp_path: Path) -> None:
    MODEL.hf.save_pretrained(tmp_path)
    MODEL.tokenizer.save_pretrained(tmp_path)
    loaded = editkit.load_model(tmp_path)
    assert loaded.fingerprint == editkit.load_model(str(tmp_path)).fingerprint
    editor = editkit.make_editor("ft", tmp_path, layer=0)
    assert editor.config == editkit.make_editor("ft", str(tmp_path), layer=0).config
    with pytest.raises(EditkitError, match="the folder '.*nowhere' does not exist"):
        editkit.load_model(tmp_path / "nowhere")


def test_stand_ins_of_other_packages_pass() -> None:
    """Whoever has an object with the same methods may use it: checks are for mistakes."""
    expect(SimpleNamespace(fingerprint="x"), "LanguageModel", "model", "edit(model, requests)")

    @dataclasses.dataclass
    class OwnRequest:
        prompt: str

    class Lazy:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, place: int) -> EditRequest:
            return [REQUEST][place]

    expect_list([OwnRequest("x")], "EditRequest", "requests", "edit(model, requests)")
    expect_list(Lazy(), "EditRequest", "requests", "edit(model, requests)")  # type: ignore[arg-type]


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "value",
    [
        {"a": Broken()}, [Broken()], "x" * 10_000, {n: n for n in range(9999)}, range(3), object(),
        torch.ones(1000, 1000), b"\xff" * 1000, {1, 2}, type, Broken, lambda: None, 1e999, "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_any_value_is_described_in_a_few_words(value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        expect(value, "LanguageModel", "model", "edit(model, requests)")
    assert len(caught.value.message) < 250
    assert "\n" not in caught.value.message


def test_every_argument_is_checked_once_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "editkit.interfaces.expect_list", lambda values, *_: seen.append(len(values))
    )
    EDITOR.edit(MODEL, [REQUEST] * 5)
    assert seen == [5]


def test_what_the_page_of_usage_errors_shows_is_what_they_report() -> None:
    page = (Path(editkit.__file__).parents[1] / "docs/errors/usage.md").read_text(encoding="utf-8")
    [message] = re.findall(r"^    (edit\(model, requests\): .*)$", page, re.MULTILINE)
    with pytest.raises(UsageError) as caught:
        any_editor.edit(MODEL, REQUEST)
    assert message == caught.value.message
