"""A verdict on an edit in words, from what its patch stores: no model is needed.

- good: the edit took effect, other wordings follow, and nothing that was checked was damaged;
- mixed: it took effect, at least in part, with a weakness or damage that the sentences name;
- bad: it did not take effect, or it did more damage than good;
- unknown: nothing was checked.

The thresholds are constants below, each with its reason. They judge one patch for a person who
decides whether to ship it. They are not scores: compare editors on many facts with a benchmark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

from editkit.editing.deltas import notes_of_facts
from editkit.editing.outcomes import (
    CONTEXT_TEXTS,
    MOSTLY_LOST,
    ROUNDED_AWAY,
    Edit,
    outcomes_of,
)
from editkit.patches.content import Movement, PatchContent, Role, Size
from editkit.patches.judging import Judged, gives, judged
from editkit.patches.numerals import divergence, percent

__all__ = [
    "ENOUGH_WORDINGS",
    "LARGE_CHANGE",
    "LARGE_DRIFT",
    "MORE_HARM",
    "SMALL_DRIFT",
    "Level",
    "Verdict",
    "report_of",
    "verdict_of",
]

ENOUGH_WORDINGS = 0.75
"""Share of other wordings that must follow. Users ask in words of their own; an edit that misses
more than one wording in four is one of a sentence, not of a fact."""

MORE_HARM = 0.5
"""Share of the checked neighbours, of the other facts of the subject, or of both that may change
before an edit is bad. Beyond half, the next question of that kind more likely gets a wrong answer
than the one that the model knew, which outweighs one corrected fact."""

SMALL_DRIFT = 0.05
"""Mean KL divergence on unrelated prompts, nats, that counts as no damage. It is a few times what
rounding all weights to 8 bits does, which users accept: 0.007 on SmolLM2-135M, 0.001 on atlas."""

LARGE_DRIFT = 1.0
"""Mean KL divergence on unrelated prompts, nats, of a model that is broken: on average it gives
what it used to expect less than 40% of the probability that it gave it before (exp(-1))."""

LARGE_CHANGE = 0.5
"""Norm of a change relative to its weight's that is worth a warning: what the weight computed for
other inputs then competes with the edit. Fine-tuning one fact into SmolLM2-135M changes 0.02."""

_WEAKENED = 0.1  # a fall in probability that is worth naming although the answer stays
_VISIBLE = 0.001  # nats
_MOST_NAMED = 3
_TOP = 3
_LONGEST_PROMPT, _LONGEST_TEXT = 70, 40  # characters

Level = Literal["good", "mixed", "bad", "unknown"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What to think of an edit.

    Attributes:
        level: ``good``, ``mixed``, ``bad`` or ``unknown``.
        sentences: The verdict in one sentence, then what it is based on.
        advice: What to try instead; empty if nothing has to change.
    """

    level: Level
    sentences: tuple[str, ...]
    advice: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {
            "level": self.level,
            "sentences": list(self.sentences),
            "advice": list(self.advice),
        }


class _Finding(NamedTuple):
    """One aspect of the edit.

    Attributes:
        level: The best verdict that it allows.
        sentences: What was measured.
        headline: A clause for the first sentence, if it keeps the verdict from being good.
    """

    level: Level
    sentences: tuple[str, ...]
    headline: str = ""


def verdict_of(patch: PatchContent) -> Verdict:
    """The verdict on a patch.

    Args:
        patch: The patch, or what its file holds.
    """
    checks = [judged(check) for check in patch.checks]
    edits, wordings = _of_role(checks, "edit"), _of_role(checks, "wording")
    kept = [*_of_role(checks, "neighbor"), *_of_role(checks, "subject")]
    own = list(_own_report(patch, edits))
    if not edits:
        nothing = "Nothing was checked when this edit was made, so there is no verdict."
        if kept or wordings or patch.drift:
            nothing = "The edited prompt was not checked, so there is no verdict."
        rest = [*_findings_in(wordings, kept, patch.drift), *own]
        return Verdict("unknown", (nothing, *(s for each in rest for s in each.sentences)))
    findings = [_effect(edits), *_findings_in(wordings, kept, patch.drift), *own]
    if not kept:
        findings.append(_Finding("mixed", (), _UNCHECKED))
    level = max((each.level for each in findings), key=_SEVERITY.index)
    return Verdict(
        level,
        (_headline(level, findings), *(s for each in findings for s in each.sentences)),
        () if level == "good" else tuple(_advice(patch, edits, findings)),
    )


def report_of(patch: PatchContent) -> list[str]:
    """What the editor reports, how large the change is, and what rounding does to it."""
    edits = _of_role([judged(check) for check in patch.checks], "edit")
    return [sentence for each in _own_report(patch, edits) for sentence in each.sentences]


_UNCHECKED = "no related fact was checked"
_SEVERITY: tuple[Level, ...] = ("good", "mixed", "bad")


def _of_role(checks: Sequence[Judged], role: Role) -> list[Judged]:
    """The judged checks of a role that expect something."""
    return [each for each in checks if each.check.question.role == role and each.good is not None]


def _headline(level: Level, findings: Sequence[_Finding]) -> str:
    if level == "good":
        return "Good: the edit took effect, and all related facts that were checked were kept."
    reasons = [each.headline for each in findings if each.headline]
    worst = [each.headline for each in findings if each.headline and each.level == level]
    if level == "bad":
        harm = "" if findings[0].level == "bad" else "the edit does more damage than good: "
        return f"Bad: {harm}{'; '.join(worst)}."
    took = not findings[0].headline
    return f"Mixed: {'the edit took effect, but ' if took else ''}{'; '.join(reasons)}."


# ---------------------------------------------------------------- did it take effect?


def _effect(edits: Sequence[Judged]) -> _Finding:
    good = sum(each.good is True for each in edits)
    missed = sum(not each.good and not _is_partial(each) for each in edits)
    n = len(edits)
    shown = edits if n == 1 else [each for each in edits if not each.good][:_MOST_NAMED]
    sentences = [_effect_at(each) for each in shown]
    if all(_was_given(each) for each in edits):
        return _Finding("mixed", tuple(sentences), _GIVEN_BEFORE)
    if n > 1:
        sentences.insert(0, f"{good} of {n} edited prompts give the new object.")
    if missed > n / 2:
        where = "did not take effect" if n == 1 else f"did not take effect at {missed} of {n} facts"
        return _Finding("bad", tuple(sentences), f"the edit {where}")
    if good < n:
        where = "took effect only in part"
        if n > 1:
            where = f"took full effect at only {good} of {n} facts"
        return _Finding("mixed", tuple(sentences), f"the edit {where}")
    return _Finding("good", tuple(sentences))


_GIVEN_BEFORE = "the model gave the new object before the edit"


def _was_given(edit: Judged) -> bool:
    """Whether the unedited model gave the new object already."""
    question = edit.check.question
    return gives(edit.check.before.text, edit.expected, question.prompt)


def _is_partial(edit: Judged) -> bool:
    """Whether the new object became more probable than the old one, or the model's own answer."""
    if gives(edit.check.after.text, edit.expected, edit.check.question.prompt):
        return True
    after = edit.check.after.probabilities
    return len(after) > 1 and after[0] > after[1] and after[0] > (edit.before or 0.0)


def _effect_at(edit: Judged) -> str:
    check = edit.check
    before, after = check.before.probabilities, check.after.probabilities
    numbers = [
        f'"{answer}" from {percent(old)} to {percent(new)}'
        for answer, old, new in zip(check.question.answers, before, after, strict=False)
    ]
    text = f"{_prompt(check.question.prompt)} -> {', '.join(numbers)}"
    if _was_given(edit):
        return f"{text}; the model gave this answer before the edit, too."
    if edit.good:
        return f"{text}."
    return f"{text}; the edited model writes {_text(check.after.text)}."


# ---------------------------------------------------------------- wordings, damage, drift


def _findings_in(
    wordings: Sequence[Judged], kept: Sequence[Judged], drift: Sequence[Movement]
) -> Iterator[_Finding]:
    if wordings:
        yield _wordings(wordings)
    neighbors, facts = _of_role(kept, "neighbor"), _of_role(kept, "subject")
    harmed = _is_most(sum(not each.good for each in kept), len(kept))
    if neighbors:
        yield _kept(neighbors, "neighbour", "neighbours", title="Worst", most=1, harmed=harmed)
    if facts:
        one, many = "other fact of the subject", "other facts of the subject"
        finding = _kept(facts, one, many, title="Lost", most=len(facts), harmed=harmed)
        if finding.headline:
            implied = (
                "The unedited model's answers count, true or not. What follows from the new fact "
                "may change; the rest is damage."
            )
            finding = finding._replace(sentences=(*finding.sentences, implied))
        yield finding
    if drift:
        yield _drift(drift)


def _wordings(wordings: Sequence[Judged]) -> _Finding:
    n, missed = len(wordings), [each for each in wordings if not each.good]
    held = n - len(missed)
    sentences = [f"It holds in {held} of {n} other wording{'s' if n > 1 else ''}."]
    sentences += [_missed(each) for each in missed[:_MOST_NAMED]]
    if held / n >= ENOUGH_WORDINGS:
        return _Finding("good", tuple(sentences))
    return _Finding("mixed", tuple(sentences), f"it holds in {held} of {n} other wordings")


def _missed(wording: Judged) -> str:
    check = wording.check
    text = f"Not in {_prompt(check.question.prompt)}: the model writes {_text(check.after.text)}"
    old = check.question.answers[1:2]
    if old and not gives(check.before.text, old[0], check.question.prompt):
        text += f', and the unedited model does not answer "{old[0]}" there, either'
    return f"{text}."


def _is_most(lost: int, n: int) -> bool:
    """Whether more than one answer is lost, and too large a share of all."""
    return lost > 1 and lost > MORE_HARM * n


def _kept(
    some: Sequence[Judged], one: str, many: str, *, title: str, most: int, harmed: bool
) -> _Finding:
    """Answers that should stay, of neighbours or about the subject.

    Args:
        some: The checks.
        one: What a check is about, for one of them.
        many: The same for several.
        title: Title of the sentence about a lost answer.
        most: How many lost answers are named, those that fell most first.
        harmed: Whether most of all answers that should stay are lost.
    """
    n, what = len(some), one if len(some) == 1 else many
    lost = sorted((each for each in some if not each.good), key=lambda each: -each.fall)
    stay = "keeps its answer" if n == 1 else "keep their answers"
    sentences = [f"{_of(n - len(lost), n)} {what} {stay}."]
    sentences += [
        f"{title}: {_fell(each)}; the model now writes {_text(each.check.after.text)}."
        for each in lost[:most]
    ]
    worst = max(some, key=lambda each: each.fall)
    if not lost and worst.fall > _WEAKENED:
        sentences.append(f"Weakened most: {_fell(worst)}.")
    level: Level = "good"
    if lost:
        level = "bad" if harmed or _is_most(len(lost), n) else "mixed"
    return _Finding(level, tuple(sentences), f"{len(lost)} of {n} {what} changed" if lost else "")


def _fell(each: Judged) -> str:
    """A fact with its probabilities before and after."""
    prompt = _prompt(each.check.question.prompt)
    if not each.expected or each.before is None or each.after is None:
        return f"{prompt} -> {_text(each.check.before.text)}"
    rank = ""
    if each.rank is not None and each.rank > _TOP:
        rank = f", below the top three (rank {each.rank})"
    numbers = f"from {percent(each.before)} to {percent(each.after)}"
    return f'{prompt} -> "{each.expected}" {numbers}{rank}'


def _drift(drift: Sequence[Movement]) -> _Finding:
    mean = fmean(each.divergence for each in drift)
    largest = max(drift, key=lambda each: each.divergence)
    changed = sum(each.before != each.after for each in drift)
    n = len(drift)
    level: Level = "good"
    how, headline = "barely moved", ""
    if mean > LARGE_DRIFT:
        level, how, headline = "bad", "changed beyond use", "unrelated text is broken"
    elif mean > SMALL_DRIFT:
        level, how, headline = "mixed", "moved", "unrelated text moved"
    sentence = f"Unrelated text {how}: {divergence(mean)} nats on average over {n} prompts"
    sentence += f" (KL divergence of the next word), and {changed} of {n} next words changed."
    if largest.divergence < _VISIBLE:
        return _Finding(level, (sentence,), headline)
    most = f"It moved most after {_prompt(largest.prompt)}: {divergence(largest.divergence)} nats"
    if largest.before != largest.after:
        most += f", from {_text(largest.before)} to {_text(largest.after)}"
    return _Finding(level, (sentence, f"{most}."), headline)


# ---------------------------------------------------------------- the edit itself


def _own_report(patch: PatchContent, edits: Sequence[Judged]) -> Iterator[_Finding]:
    """What the editor reports, the size of the change, and rounding."""
    outcomes = outcomes_of(_edits_of(patch, edits))
    if outcomes.unconverged:
        which = f" of {outcomes.unconverged} of {outcomes.n} facts" if outcomes.n > 1 else ""
        yield _Finding("good", (f"The optimisation{which} stopped before it reached its goal.",))
    elif any(notes.get("converged") is True for notes in notes_of_facts(patch.delta)):
        yield _Finding("good", ("The optimisation converged.",))
    if outcomes.unstable:
        why = outcomes.example.partition(": ")[2]
        reason = f"The editor marks the edit as unstable{f': {why}' if why else ''}."
        yield _Finding("mixed", (reason,), "the edit is unstable")
    for warning, _ in outcomes.warnings:
        yield _Finding("good", (f"The editor warns: {warning}.",))
    if patch.delta.context is not None:
        n = len(patch.delta.context.texts)
        text = f"It puts {n} text{'s' if n > 1 else ''} before every prompt"
        yield _Finding("good", (f"{text}, which weights cannot carry.",))
    if patch.size is not None and patch.size.parameters:
        yield from _size(patch.size, patch)


def _edits_of(patch: PatchContent, edits: Sequence[Judged]) -> Iterator[Edit]:
    size = patch.size
    measured: dict[str, Any] = {}
    if size is not None:
        norms = [each.norm for each in size.parameters]
        measured["delta_norm"] = sum(norm**2 for norm in norms) ** 0.5
        measured[ROUNDED_AWAY] = size.rounded_away
    if patch.delta.context is not None:
        measured[CONTEXT_TEXTS] = len(patch.delta.context.texts)
    every = notes_of_facts(patch.delta)
    taken = [None if each.good is None else float(each.good) for each in edits]
    if len(taken) != len(every):
        taken = [None] * len(every)
    for notes, score in zip(every, taken, strict=True):
        if isinstance(notes, Mapping):
            yield Edit("the edit", {**notes, **measured}, score)


def _size(size: Size, patch: PatchContent) -> Iterator[_Finding]:
    largest = max(size.parameters, key=lambda each: each.norm)
    relative, n = largest.norm / (largest.weight_norm or 1.0), len(size.parameters)
    where = largest.name if n == 1 else f"{largest.name}, the largest of {n} changes"
    sentence = f"The change has {percent(relative)} of the norm of {where}"
    large = relative > LARGE_CHANGE
    yield _Finding("good", (f"{sentence}{', which is a lot' if large else ''}.",))
    if size.rounded_away > MOSTLY_LOST:
        lost = f"Rounding to {_dtype(patch)} removes {percent(size.rounded_away)} of the change"
        yield _Finding("mixed", (f"{lost}.",), "most of it is lost when the weights are rounded")
    elif size.kept_in_bfloat16 < 1 - MOSTLY_LOST:
        left = f"only {percent(size.kept_in_bfloat16)} of the change would be left"
        yield _Finding("good", (f"Stored in bfloat16, {left}: ship it in float32.",))


def _dtype(patch: PatchContent) -> str:
    return "the model's type" if patch.origin is None else patch.origin.dtype


# ---------------------------------------------------------------- advice

_KEEP = "Give prompts that should keep their answers: --keep PROMPT, or keep=[...]."


def _advice(
    patch: PatchContent, edits: Sequence[Judged], findings: Sequence[_Finding]
) -> Iterator[str]:
    """What to try, most promising first."""
    problems = [each.headline for each in findings if each.level != "good"]
    if problems == [_GIVEN_BEFORE]:
        return
    if problems == [_UNCHECKED]:
        yield _KEEP
        return
    own = outcomes_of(_edits_of(patch, edits)).advice
    yield from (f"{text[:1].upper()}{text[1:]}." for text in own)
    config, weak = patch.delta.config, bool(findings[0].headline)
    steps = config.get("steps")
    if weak and not own and isinstance(steps, int) and not isinstance(steps, bool):
        yield f"Give it more steps: --set steps={2 * steps} (it had {steps})."
    layer = config.get("layer")
    if isinstance(layer, int) and not any("layer" in text for text in own):
        yield f"Edit another layer, such as a neighbouring one: --set layer=N (it was {layer})."
    yield (
        "Try other editors: 'editkit edit' with several --editor shows them side by side, and "
        "'editkit plugins' lists them."
    )
    if _UNCHECKED in problems:
        yield _KEEP


# ---------------------------------------------------------------- words


def _prompt(text: str) -> str:
    return f'"{_short(text)}"'


def _text(text: str) -> str:
    """A model's text in quotes, or that it wrote nothing."""
    return f'"{_short(text, _LONGEST_TEXT).rstrip(".")}"' if text.strip() else "nothing"


def _short(text: str, most: int = _LONGEST_PROMPT) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def _of(count: int, n: int) -> str:
    if count == n == 2:
        return "Both"
    return f"All {n}" if count == n > 1 else f"{count} of {n}"
