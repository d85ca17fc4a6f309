"""Asking a patch's questions again: the same, changed, another model, other patches on top."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from editkit import DeltaError, LanguageModel, Patch, PromptContext, WeightDelta, applied
from editkit.patches.checking import HALF, OTHER_SETUP, SAME_SETUP, Recheck, recheck
from editkit.patches.content import Answer, Check, Question
from editkit.patches.making import origin_of
from editkit.patches.measuring import measured
from tests.editkit.editing.test_deltas import delta_for
from tests.editkit.patches.test_asking import QUESTIONS
from tests.tiny import tiny


def patch_for(model: LanguageModel, delta: WeightDelta) -> Patch:
    [result] = measured(model, [delta], QUESTIONS)
    return Patch(delta, origin_of(model, "test", 1.0), *result)


def small(model: LanguageModel, seed: int) -> WeightDelta:
    return delta_for(model, seed, kinds="l")


def altered(patch: Patch, place: int, change: Callable[[Check], Check]) -> Patch:
    checks = list(patch.checks)
    checks[place] = change(checks[place])
    return Patch.of(dataclasses.replace(patch, checks=tuple(checks)))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_patch_from_a_file_does_what_it_did(name: str, tmp_path: Path) -> None:
    model = tiny(name, context_length=128)
    path = patch_for(model, delta_for(model, 1)).save(tmp_path / "patch.safetensors")
    before = model.weights_digest()
    result = Patch.load(path).check(tiny(name, context_length=128))
    assert model.weights_digest() == before
    n = 2 * len(QUESTIONS)
    assert result.ok is True
    assert result.reasons == (
        f"The patch does what it did when it was made: all {n} answers are the same.",
    )
    assert [row.status for row in result.rows] == ["same"] * n
    assert {row.model for row in result.rows[: n // 2]} == {"unedited"}
    assert result.tolerance == SAME_SETUP
    assert len(result.drift) == len(result.stored_drift) == 32
    assert json.loads(json.dumps(result.to_dict()))["ok"] is True


def test_a_probability_beyond_the_tolerance_is_a_change() -> None:
    model = tiny(context_length=128)
    patch = patch_for(model, delta_for(model, 1))

    def moved(by: float) -> Recheck:
        def change(check: Check) -> Check:
            first, *rest = check.after.probabilities
            after = dataclasses.replace(check.after, probabilities=(first + by, *rest))
            return dataclasses.replace(check, after=after)

        return altered(patch, 0, change).check(model)

    assert moved(0.5e-4).ok is True
    result = moved(0.3)
    assert result.ok is False
    [row] = result.changed
    assert (row.model, row.question) == ("edited", QUESTIONS[0])
    old, new = row.stored.probabilities[0], row.now.probabilities[0]
    assert result.reasons == (
        f"1 of {2 * len(QUESTIONS)} answers are not those from when the patch was made.",
        f'"{QUESTIONS[0].prompt}", the edited model: "Paris" had the probability {old:.4g} when '
        f"the patch was made and has {new:.4g}.",
    )


def test_an_answer_of_the_unedited_model_that_changed_is_named_as_such() -> None:
    model = tiny(context_length=128)
    patch = patch_for(model, delta_for(model, 1))
    result = altered(
        patch, 2, lambda check: dataclasses.replace(check, before=Answer((), " physics, surely"))
    ).check(model)
    assert result.ok is False
    [row] = result.changed
    assert row.model == "unedited"
    assert "The unedited model itself answers differently" in result.reasons[0]
    assert 'it wrote "physics, surely" when the patch was made and writes "' in result.reasons[1]


def first_two(model: LanguageModel, delta: WeightDelta, prompt: str) -> tuple[list[int], list[str]]:
    """The most likely two tokens of an edited model, and their texts."""
    with applied(model, delta), torch.no_grad():
        ids = torch.tensor([model.read([prompt])[0].ids])
        top = [int(token) for token in model.hf(ids).logits[0, -1].topk(2).indices]
    return top, [model.tokenizer.decode([token]) for token in top]


def test_texts_that_part_where_two_tokens_are_equally_likely_are_the_same() -> None:
    model, prompt = tiny(context_length=128), QUESTIONS[2].prompt
    for seed in range(20):  # until both texts are read as the tokens that wrote them
        delta = delta_for(model, seed)
        tokens, texts = first_two(model, delta, prompt)
        if [model.tokenizer(text)["input_ids"] for text in texts] == [[t] for t in tokens]:
            break
    other = Answer((), texts[1])
    patch = patch_for(model, delta)
    changed = altered(patch, 2, lambda check: dataclasses.replace(check, after=other))
    assert changed.check(model).ok is False
    # With equal embeddings, which are also the output weights, the two are equally likely.
    with torch.no_grad():
        embeddings = model.hf.get_parameter("transformer.wte.weight")
        embeddings[tokens[1]] = embeddings[tokens[0]]
    delta = dataclasses.replace(delta, model_fingerprint=model.fingerprint, made_on=())
    assert set(first_two(model, delta, prompt)[0]) == set(tokens)
    patch = patch_for(model, delta)
    written = patch.checks[2].after.text
    other = Answer((), texts[0] if written.startswith(texts[1]) else texts[1])
    tie = altered(patch, 2, lambda check: dataclasses.replace(check, after=other))
    assert tie.check(model).ok is True


def test_drift_by_another_distance_is_a_change() -> None:
    model = tiny(context_length=128)
    patch = patch_for(model, delta_for(model, 1))
    drift = [dataclasses.replace(patch.drift[0], divergence=3.0), *patch.drift[1:]]
    result = Patch.of(dataclasses.replace(patch, drift=tuple(drift))).check(model)
    assert result.ok is False
    assert (
        result.reasons[0]
        == "The answers are the same, but unrelated text moves by another distance."
    )
    assert result.reasons[1].startswith("1 of 32 unrelated prompts move by another distance: ")
    alone = Patch.of(dataclasses.replace(patch, checks=())).check(model)
    assert alone.reasons[0].endswith("unrelated text moves as it did.")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_gets_a_wide_tolerance(dtype: torch.dtype) -> None:
    model = tiny(context_length=128)
    patch = patch_for(model, small(model, 1))
    other = tiny(context_length=128)
    other.hf.to(dtype)
    moved = dataclasses.replace(patch.delta, model_fingerprint=other.fingerprint)
    result = Patch.of(dataclasses.replace(patch, delta=moved)).check(other)
    assert result.tolerance == HALF
    assert result.ok is True


def test_other_versions_get_a_tolerance_of_their_own() -> None:
    model = tiny(context_length=128)
    patch = patch_for(model, delta_for(model, 1))
    assert patch.origin is not None
    versions = {**patch.origin.versions, "torch": "1.0"}
    for origin in (dataclasses.replace(patch.origin, versions=versions), None):
        result = recheck(dataclasses.replace(patch, origin=origin), model)
        assert (result.ok, result.tolerance) == (True, OTHER_SETUP)


def test_a_patch_for_another_model_is_refused_and_both_are_named() -> None:
    model, other = tiny(context_length=128), tiny(seed=1, context_length=128)
    delta = delta_for(model, 1)
    made = patch_for(model, delta)
    assert made.origin is not None
    named = dataclasses.replace(made.origin, model="gpt2-small", revision="v1.0")
    patch = Patch(delta, named, made.checks)
    mine, theirs = model.fingerprint[:12], other.fingerprint[:12]
    message = rf"{mine} \('gpt2-small, revision v1.0'\), but {other.name} is {theirs}"
    with pytest.raises(DeltaError, match=message):
        patch.check(other)
    with pytest.raises(DeltaError, match=message), patch.applied(other):
        pass
    with patch.applied(other, force=True):
        assert other.weights.is_edited
    with pytest.raises(DeltaError, match=rf"made for the model {mine}, but"):
        recheck(Patch(delta), other)


def test_a_patch_without_checks_gets_a_clear_answer() -> None:
    model = tiny()
    result = Patch(delta_for(model, 1)).check(model)
    assert (result.ok, result.rows, result.tolerance) == (None, (), None)
    assert result.reasons == (
        "The file has no checks: it is a plain delta, or was made without them. It fits the model; "
        "what it does was not compared.",
    )


def test_beside_other_patches_answers_are_compared_by_what_they_mean() -> None:
    model = tiny(context_length=128)
    patch = patch_for(model, small(model, 1))
    harmless = delta_for(model, 2, kinds="l")
    scaled = {
        name: dataclasses.replace(change, left=change.left * 1e-3)
        for name, change in harmless.changes.items()
    }
    nothing = Patch(dataclasses.replace(harmless, changes=scaled))
    result = patch.check(model, [nothing])
    assert (result.ok, result.others) == (True, 1)
    assert result.reasons == (
        "With 1 other patch applied, the patch still does what it did when it was made.",
    )
    assert any(row.stored.probabilities != row.now.probabilities for row in result.rows)

    # As the edited model answers now, every fact survived; another strong edit changes some.
    texts = [check.after.text.strip() or "x" for check in patch.checks]
    questions = [
        Question("neighbor", question.prompt, (text.split()[0],), chat=question.chat)
        for question, text in zip(QUESTIONS, texts, strict=True)
    ]
    [measurement] = measured(model, [patch.delta], questions)
    checks = tuple(Check(c.question, c.after, c.after) for c in measurement.checks)
    patch = Patch(patch.delta, patch.origin, checks, patch.drift)
    strong = Patch(delta_for(model, 3))
    result = patch.check(model, [nothing, strong])
    assert result.ok is False
    lost = [row for row in result.changed if row.model == "edited"]
    assert any("it no longer answers" in row.difference for row in lost)
    with applied(model, [nothing.delta, strong.delta, patch.delta]):
        ids = torch.tensor([model.read([questions[0].prompt])[0].ids])
        with torch.no_grad():
            best = int(model.hf(ids).logits[0, -1].argmax())
    now = result.rows[len(questions)].now.text
    assert now.startswith(model.tokenizer.decode([best]))


def test_a_patch_on_top_of_others_is_checked_with_them() -> None:
    model = tiny(context_length=128)
    below = Patch(small(model, 1))
    with below.applied(model):
        above = patch_for(model, small(model, 2))
    with pytest.raises(DeltaError, match="with 1 other edit applied"):
        above.check(model)
    result = above.check(model, [below])
    edited = [row for row in result.rows if row.model == "edited"]
    for row in edited:
        assert row.now.probabilities == pytest.approx(row.stored.probabilities, abs=1e-5)
    other = Patch(small(tiny(seed=1), 1))
    with pytest.raises(DeltaError, match="was made for the model"):
        above.check(model, [other])


def test_edits_that_put_texts_before_prompts_are_checked_too() -> None:
    model = tiny(context_length=128)
    context = PromptContext(("Rome is in Seattle.",))
    patch = patch_for(model, dataclasses.replace(delta_for(model, kinds=""), context=context))
    assert patch.check(model).ok is True
