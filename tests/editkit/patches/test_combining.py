"""Stacking patches, and what differs between two."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from editkit import DeltaError, EditedModels, EditRequest, LowRank, Patch, UsageError, applied
from editkit.patches.asking import ask
from editkit.patches.combining import diff, parts_of, stacked
from editkit.patches.content import Answer, Check, Origin, Question
from tests.editkit.patches.made import NAME, dense, low_rank, patch_with, rows
from tests.tiny import tiny

ROME = EditRequest("{} is in", "Rome", "Seattle", "Italy")
OSLO = EditRequest("{} is in", "Oslo", "Chad", "Norway")
ORIGIN = Origin(
    "tiny", "abc", "gpt2", "float32", "cpu", "2026-01-01T00:00:00+00:00", 1.5, {"editkit": "1"}
)
UNKNOWN = Answer((0.1, 0.9), " text")


def asked(request: EditRequest, *more: Question) -> tuple[Check, ...]:
    edit = Question("edit", request.sentence, (request.target_new, "the"))
    return tuple(Check(question, UNKNOWN, UNKNOWN) for question in (edit, *more))


def checked(patch: Patch, *checks: Check, **origin: object) -> Patch:
    return dataclasses.replace(
        patch,
        checks=checks,
        origin=dataclasses.replace(ORIGIN, **origin),  # type: ignore[arg-type]
    )


def test_a_stack_is_the_sum_and_names_its_parts(tmp_path: Path) -> None:
    one = checked(patch_with({NAME: low_rank(0)}, ROME), *asked(ROME))
    other = checked(
        patch_with({NAME: rows(1)}, OSLO), *asked(OSLO), seconds=2.5, versions={"editkit": "2"}
    )
    patch = Patch.stack([one, other])
    total = low_rank(0).dense() + rows(1).dense()
    torch.testing.assert_close(patch.delta.changes[NAME].dense(), total)
    assert patch.requests == (ROME, OSLO)
    assert patch.checks == ()
    assert patch.origin is not None
    assert (patch.origin.seconds, patch.origin.revision) == (4.0, "abc")
    assert patch.origin.versions == {"editkit": "1, 2"}
    assert patch.origin.created > ORIGIN.created
    again = Patch.load(patch.save(tmp_path / "two.patch"))
    assert [part["digest"] for part in parts_of(again)] == [p.delta.digest() for p in (one, other)]
    assert parts_of(again)[0]["facts"] == ["Rome is in Seattle"]
    third = patch_with({NAME: low_rank(2)}, EditRequest("{} is in", "Bonn", "Peru"))
    assert len(parts_of(Patch.stack([again, third]))) == 3


def test_the_notes_of_each_fact_survive() -> None:
    def noted(patch: Patch, **notes: object) -> Patch:
        return dataclasses.replace(patch, delta=dataclasses.replace(patch.delta, notes=notes))

    one = noted(patch_with({NAME: low_rank(0)}, ROME), unstable="too large")
    other = noted(patch_with({NAME: low_rank(1)}, OSLO), converged=True)
    third = noted(
        patch_with({NAME: low_rank(2)}, EditRequest("{} is in", "Bonn", "Peru")), loss=0.5
    )
    patch = Patch.stack([Patch.stack([one, other]), third])
    assert patch.delta.notes["facts"] == [
        {"unstable": "too large"},
        {"converged": True},
        {"loss": 0.5},
    ]


def test_conflicting_patches_are_refused_unless_forced_and_other_models_always() -> None:
    one, other = patch_with({NAME: low_rank(0)}, ROME), patch_with({NAME: low_rank(1)}, ROME)
    opposed = patch_with({NAME: low_rank(2)}, EditRequest("{} is in", "Rome", "Oslo"))
    for patches, kind in [
        ([one, one], "same patch"),
        ([one, other], "same fact"),
        ([one, opposed], "contradiction"),
    ]:
        with pytest.raises(DeltaError, match=f"{kind}: patch 1 and patch 2: .*force it"):
            stacked(patches)
        assert len(stacked(patches, force=True).requests) == 2
    elsewhere = patch_with({NAME: low_rank(3)}, OSLO, base="another")
    for force in (False, True):
        with pytest.raises(DeltaError, match="other model: a and b: .* base and another"):
            stacked([one, elsewhere], force=force, names=["a", "b"])
        with pytest.raises(DeltaError, match="no patches"):
            stacked([], force=force)


def test_a_model_measures_the_checks_of_the_stack() -> None:
    model = tiny()
    name = f"{model.path(1, 'mlp_out')}.weight"
    d, h = model.hf.get_parameter(name).shape
    shared = Question("neighbor", "Paris is in", ("the", "a"))
    swapped = Question("neighbor", OSLO.sentence, ("the", "a"))  # what the other patch edits
    one, other = (
        checked(
            patch_with({name: low_rank(seed, d, h)}, request, base=model.fingerprint),
            *asked(request, shared, swapped),
        )
        for seed, request in enumerate((ROME, OSLO))
    )
    patch = stacked([one, other], model=model)
    prompts = [check.question.prompt for check in patch.checks]
    assert prompts == ["Rome is in", "Paris is in", "Oslo is in"]
    none = patch_with({}, ROME, base=model.fingerprint).delta
    [before] = ask(EditedModels(model, [none]), [shared])
    with applied(model, [one.delta, other.delta]):
        inside = dataclasses.replace(none, model_fingerprint=model.fingerprint)
        [after] = ask(EditedModels(model, [inside]), [shared])
    assert patch.checks[1].before.probabilities == pytest.approx(before.probabilities, rel=1e-4)
    assert patch.checks[1].after.probabilities == pytest.approx(after.probabilities, rel=1e-4)
    assert patch.checks[1].before != patch.checks[1].after
    with pytest.raises(DeltaError, match="made for the model"):
        stacked([patch_with({NAME: low_rank(0)}, ROME)], model=model)


def test_the_difference_names_what_differs() -> None:
    one = checked(patch_with({NAME: low_rank(0), "x.bias": dense(low_rank(9))}, ROME), *asked(ROME))
    two = dataclasses.replace(
        patch_with({NAME: rows(1)}, dataclasses.replace(ROME, target_new="Oslo")).delta,
        config={"layer": 3, "deep": {"seed": 1}},
        editor="another",
    )
    other = checked(Patch(two), *asked(ROME), dtype="bfloat16", seconds=9.0)
    difference = diff(one, other)
    assert {each.name: (each.first, each.second) for each in difference.differences} == {
        "fact.target_new": ("Seattle", "Oslo"),
        "editor": ("test", "another"),
        "settings.layer": (None, 3),
        "settings.deep.seed": (None, 1),
        "origin.dtype": ("float32", "bfloat16"),
    }
    weight, bias = difference.weights
    assert (weight.name, weight.forms) == (NAME, ("rank 2", "3 rows"))
    assert (bias.forms, bias.cosine) == (("dense", None), None)
    a, b = low_rank(0).dense(), rows(1).dense()
    assert weight.cosine == pytest.approx(float((a * b).sum() / a.norm() / b.norm()), abs=1e-5)
    assert difference.norms == pytest.approx((one.delta.norm(), other.delta.norm()))
    assert difference.cosine == pytest.approx(
        float((a * b).sum()) / (one.delta.norm() * other.delta.norm()), abs=1e-5
    )
    assert [first.question for first, _ in difference.checks] == [one.checks[0].question]
    assert not difference.same_edit
    json.dumps(difference.to_dict())


def test_a_patch_does_not_differ_from_itself() -> None:
    patch = patch_with({NAME: low_rank(0)}, ROME)
    difference = patch.diff(patch)
    assert difference.same_edit
    assert difference.differences == ()
    assert difference.cosine == pytest.approx(1)
    assert patch.overlap(patch) == pytest.approx(1)
    opposite = patch_with({NAME: LowRank(-low_rank(0).left, low_rank(0).right)}, ROME)
    assert patch.diff(opposite).cosine == pytest.approx(-1)
    assert patch.overlap(opposite) == pytest.approx(1)
    assert diff(patch, patch_with({}, ROME)).cosine is None
    assert [each.kind for each in Patch.conflicts([patch, patch])] == ["same patch"]


def test_errors_name_the_model_that_a_patch_was_made_on(tmp_path: Path) -> None:
    model = tiny()
    path = checked(patch_with({NAME: low_rank(0)}, ROME), model="a/model").save(
        tmp_path / "a.patch"
    )
    named = r"made for the model base \('a/model, revision abc'\), but tiny-gpt2 is"
    with pytest.raises(DeltaError, match=named), Patch.load(path).applied(model):
        pass
    with pytest.raises(DeltaError, match=named):
        Patch.stack([Patch.load(path)], model=model)
    elsewhere = checked(patch_with({}, OSLO, base="other"), model="b", revision=None)
    with pytest.raises(
        DeltaError, match=r"two models, base \('a/model, revision abc'\) and other \('b'\)"
    ):
        Patch.stack([Patch.load(path), elsewhere])


def test_other_things_than_patches_are_refused_with_a_sentence() -> None:
    patch = patch_with({NAME: low_rank(0)}, ROME)
    for call in (
        lambda: Patch.stack(patch),
        lambda: Patch.stack([patch.delta]),
        lambda: Patch.conflicts([patch, patch.delta]),
        lambda: patch.overlap(patch.delta),
        lambda: patch.diff("b.patch"),
        lambda: patch.interference(patch, tiny()),
    ):
        with pytest.raises(UsageError, match="atch"):
            call()
    plain = stacked([patch])
    assert type(plain) is not Patch
    assert Patch.of(plain).overlap(plain) == pytest.approx(1)
