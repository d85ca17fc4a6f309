"""The scores equal the published definitions, computed one text after the other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import (
    ConfigError,
    Consequence,
    EditedModels,
    EditRequest,
    OpenQuestion,
    Record,
    applied,
    make_metric,
)
from editkit.testing.samples import RECORDS, random_edits
from tests.tiny import tiny

NEVER = "not in any text"
TOKENS = 6
SMALL: dict[str, Any] = {"frame": "plain", "stop": "tokens", "tokens": TOKENS, "match": "string"}


@pytest.fixture(scope="module")
def models() -> EditedModels:
    model = tiny(context_length=128)
    return EditedModels(model, random_edits(model, RECORDS)[:2])


def text(models: EditedModels, edit: int | None, prompt: str) -> str:
    """A greedy continuation, by the library."""
    delta = models.unedited().deltas[0] if edit is None else models.deltas[edit]
    ids = torch.tensor([models.model.tokenizer(prompt)["input_ids"]])
    with applied(models.model, delta), torch.no_grad():
        out = models.model.hf.generate(
            ids, do_sample=False, max_new_tokens=TOKENS, attention_mask=torch.ones_like(ids)
        )
    return str(models.model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def asking(*questions: tuple[str, str]) -> Consequence:
    return Consequence(tuple(OpenQuestion(prompt, ((answer,),)) for prompt, answer in questions))


def test_scores_by_hand(models: EditedModels) -> None:
    def after(edit: int | None, prompt: str) -> str:
        return text(models, edit, prompt).strip()

    prompts = ("Rome is", "Microsoft is in")
    known = asking(("Seattle", after(None, "Seattle")))
    questions, paris = ("Windows is", "Paris", "The field"), after(0, "Paris")
    first = Record(
        0,
        EditRequest("{} is", "Rome", after(0, prompts[0])),  # right
        also=(EditRequest("{} is in", "Microsoft", NEVER),),  # wrong
        consequences={
            "multi_hop": (asking(*zip(questions, (NEVER, paris, NEVER), strict=True)),),
            "old_answer": (
                asking(*zip(questions, (after(0, "Windows is"), paris, NEVER), strict=True)),
            ),
            "single_hops": (
                asking((prompts[0], after(0, prompts[0]))),
                asking((prompts[1], NEVER)),
                asking(("Seattle", after(0, "Seattle"))),
            ),
            "original_hops": (
                asking(("Seattle", after(None, "Seattle"))),
                asking(("Paris", NEVER)),
            ),
        },
    )
    second = Record(
        1,
        EditRequest("{} is", "Rome", after(1, prompts[0])),
        consequences={
            "multi_hop": (asking(("Paris", NEVER)),),
            "single_hops": (asking((prompts[0], after(1, prompts[0]))),),
            "original_hops": (known,),
        },
    )
    rows = make_metric("mquake", **SMALL).score(models, [first, second])
    numbers = [{k: v for k, v in row.items() if isinstance(v, float)} for row in rows]
    assert numbers[0] == {
        "mquake/edit": 1 / 2,
        "mquake/instance": 0.0,
        "mquake/hops": 2 / 3,
        "mquake/multi_hop": 1.0,
        "mquake/questions": 1 / 3,
        "mquake/old_answer": 1 / 3,  # the second question gets the old answer, and the new one
        "mquake/known": 0.0,
    }
    assert numbers[1] == {
        "mquake/edit": 1.0,
        "mquake/instance": 1.0,
        "mquake/hops": 1.0,
        "mquake/multi_hop": 0.0,
        "mquake/questions": 0.0,
        "mquake/known": 1.0,
    }
    assert rows[0]["mquake/texts_of_questions"] == [
        f"{each} {after(0, each)}" for each in questions
    ]
    assert rows[0]["mquake/texts_of_hops"] == [f"Seattle {after(0, 'Seattle')}"]
    only = make_metric("mquake", **SMALL, instances="known").score(models, [first, second])
    assert {"mquake/multi_hop", "mquake/old_answer"}.isdisjoint(only[0])
    assert only[0]["mquake/edit"] == 1 / 2
    assert only[1]["mquake/multi_hop"] == 0.0


@pytest.mark.parametrize(
    ("match", "answer", "right"),
    [
        ("string", "The Hague", True),
        ("string", "the Hague", False),
        ("string", "Hague", False),
        ("exact", "hague", True),
        ("exact", "The Hague, Netherlands", False),
        ("contained", "Hague", True),
    ],
)
def test_the_rules_of_an_answer(
    models: EditedModels, monkeypatch: pytest.MonkeyPatch, match: str, answer: str, right: bool
) -> None:
    row = answered(models, monkeypatch, "The Hague", answer, match=match)
    assert row["mquake/multi_hop"] == float(right)


@pytest.mark.parametrize(
    ("match", "answer", "right"),
    [
        ("string", "The Hague", True),
        ("string", "The Hag", False),  # ends within a word
        ("string", "Hague", False),
        ("exact", "hague in", True),
        ("exact", "hag", False),
        ("contained", "Netherlands", True),
    ],
)
def test_a_text_after_an_edit_only_begins_with_the_object(
    models: EditedModels, monkeypatch: pytest.MonkeyPatch, match: str, answer: str, right: bool
) -> None:
    written = "The Hague, in the Netherlands"
    row = answered(models, monkeypatch, written, answer, match=match)
    assert row["mquake/edit"] == row["mquake/hops"] == float(right)


def answered(
    models: EditedModels, monkeypatch: pytest.MonkeyPatch, written: str, answer: str, **config: Any
) -> Any:
    """The scores of a record, if every text is the same one."""
    for name in ("free_answers", "unedited_answers"):
        monkeypatch.setattr(
            f"editkit_plugins.mquake.metric.{name}", lambda _, asked, stop: [written] * len(asked)
        )
    request = EditRequest("{} is in", "Rome", answer)
    tests = {"multi_hop": ("Where?", answer), "single_hops": (request.sentence, answer)}
    record = Record(0, request, consequences={name: (asking(t),) for name, t in tests.items()})
    one = EditedModels(models.model, models.deltas[:1])
    [row] = make_metric("mquake", **config).score(one, [record])
    return row


@pytest.mark.parametrize(
    ("frame", "prompt", "chat"),
    [
        ("plain", "Where is {x}?", False),
        ("qa", "Q: Where is {x}?\nA:", False),
        ("qa-line", "Q: Where is {x}? A:", False),
        ("chat", "Where is {x}?", True),
    ],
)
def test_frames_and_demonstrations_are_put_around_questions_alone(
    models: EditedModels,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    frame: str,
    prompt: str,
    chat: bool,
) -> None:
    asked: list[OpenQuestion] = []

    def record_questions(_: Any, questions: Any, stop: Any) -> list[str]:
        asked.extend(each for _, each in questions)
        return [""] * len(questions)

    monkeypatch.setattr("editkit_plugins.mquake.metric.free_answers", record_questions)
    path = tmp_path / "demonstrations.txt"
    path.write_text("Q: Où est Paris?\nA: France", encoding="utf-8")
    request = EditRequest("{} is in", "Rome", "Oslo")
    tests = {"multi_hop": (asking(("Where is {x}?", "Oslo")),)}
    record = Record(0, request, consequences=tests)
    one = EditedModels(models.model, models.deltas[:1])
    make_metric("mquake", frame=frame, demonstrations=path).score(one, [record])
    assert [(each.prompt, each.chat) for each in asked] == [
        ("Rome is in", False),
        (f"Q: Où est Paris?\nA: France\n{prompt}", chat),
    ]


def test_unusable_demonstrations_are_refused(models: EditedModels, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    record = Record(
        0,
        EditRequest("{} is in", "Rome", "Oslo"),
        consequences={"multi_hop": (asking(("Where?", "Oslo")),)},
    )
    one = EditedModels(models.model, models.deltas[:1])
    for name, reason in (("empty", "is empty"), ("latin", "cannot be read"), ("no", "cannot be")):
        metric = make_metric("mquake", demonstrations=tmp_path / f"{name}.txt")
        with pytest.raises(ConfigError, match=reason):
            metric.score(one, [record])


def test_records_without_multi_hop_questions_have_no_scores(models: EditedModels) -> None:
    bare = dataclasses.replace(RECORDS[0], consequences={})
    assert make_metric("mquake").score(models, [bare, RECORDS[1]]) == [{}, {}]
