"""Whether a patch still does what it did when it was made.

A patch carries its questions with the answers before and after the edit. They are asked again: of
the unedited model, which shows whether it still computes the same, and with the patch applied. With
other patches applied, too, the question is a different one: whether the edit and what it kept
survive them.

Probabilities of one model differ a little from run to run. After the unrelated prompts, on atlas
and SmolLM2-135M, the largest difference in the probability of a next token is 4e-6 between batches,
numbers of threads and attention kernels in float32, 0.04 between float32 and bfloat16, and 0.003
between float32 and float16. The tolerances leave room above that, because an answer may have
several tokens. A text that the model writes may also differ where two tokens are nearly equally
likely: it counts as the same if its first different token is that close to the stored one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from editkit.editing.deltas import WeightDelta, check_fits, stack
from editkit.editing.edited_models import EditedModels
from editkit.editing.greedy import end_tokens
from editkit.editing.next_tokens import NextTokenQuery, token_log_p
from editkit.editing.queries import GenerationQuery
from editkit.patches.asking import ask_all
from editkit.patches.content import Answer, Check, Movement, Origin, PatchContent, Question
from editkit.patches.drift import movements
from editkit.patches.judging import judged
from editkit.patches.verdict import SMALL_DRIFT

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = [
    "HALF",
    "OTHER_SETUP",
    "SAME_SETUP",
    "Recheck",
    "Row",
    "Tolerance",
    "recheck",
]


class Tolerance(NamedTuple):
    """Differences that count as none.

    Attributes:
        probability: Of an answer's probability.
        nats: Of the log probability of a token.
        divergence: Of a KL divergence, nats; 5% of it are added.
    """

    probability: float
    nats: float
    divergence: float


SAME_SETUP = Tolerance(1e-4, 1e-3, 1e-3)
"""float32, the same kind of device, the same versions of torch and transformers."""
OTHER_SETUP = Tolerance(1e-3, 1e-2, 1e-2)
"""float32 on another kind of device or with other versions, which compute in another order."""
HALF = Tolerance(0.1, 0.7, 0.1)
"""One of the two models is in float16 or bfloat16."""

_BESIDE_OTHERS = 0.1  # with other patches, a change of a probability that is reported
_MUCH_MORE = 2.0  # with other patches, more drift than this many times the patch's own
_SHARE = 0.05  # of a KL divergence: rounding errors grow with it
_MOST_REASONS = 5

Status = Literal["same", "changed"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One question, asked again.

    Attributes:
        question: The question.
        model: The model that answers: without the patch, or with it.
        stored: The answer when the patch was made.
        now: The answer now.
        status: Whether both are the same, within the tolerance.
        difference: What changed, as a sentence; empty if nothing did.
    """

    question: Question
    model: Literal["unedited", "edited"]
    stored: Answer
    now: Answer
    status: Status
    difference: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return {
            "question": self.question.to_dict(),
            "model": self.model,
            "stored": self.stored.to_dict(),
            "now": self.now.to_dict(),
            "status": self.status,
            "difference": self.difference,
        }


@dataclasses.dataclass(frozen=True)
class Recheck:
    """The questions of a patch, asked again.

    Attributes:
        ok: Whether the patch still does what it did; None if it has no checks.
        reasons: The result in a sentence, then what changed.
        rows: Every question, first those of the unedited model.
        drift: Movements of the unrelated prompts now, with the patch and the others applied.
        stored_drift: The same when the patch was made, without the others.
        others: Number of other patches that were applied, too.
        tolerance: Differences that count as none; None if there was nothing to compare. Answers of
            the edited model beside other patches are compared by what they mean instead.
    """

    ok: bool | None
    reasons: tuple[str, ...]
    rows: tuple[Row, ...] = dataclasses.field(default=(), repr=False)
    drift: tuple[Movement, ...] = dataclasses.field(default=(), repr=False)
    stored_drift: tuple[Movement, ...] = dataclasses.field(default=(), repr=False)
    others: int = 0
    tolerance: Tolerance | None = None

    @property
    def changed(self) -> tuple[Row, ...]:
        """The rows that are not the same."""
        return tuple(row for row in self.rows if row.status == "changed")

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "ok": self.ok,
            "reasons": list(self.reasons),
            "rows": [row.to_dict() for row in self.rows],
            "drift": [vars(movement) for movement in self.drift],
            "stored_drift": [vars(movement) for movement in self.stored_drift],
            "others": self.others,
            "tolerance": None if self.tolerance is None else self.tolerance._asdict(),
        }


def recheck(
    patch: PatchContent,
    model: LanguageModel,
    others: Sequence[PatchContent] = (),
    later: Sequence[PatchContent] = (),
) -> Recheck:
    """Ask the questions of a patch again.

    Args:
        patch: The patch.
        model: The unedited model that it was made for.
        others: Patches to apply before it, as for a patch that was made on top of them.
        later: Patches to apply after it, as for those that were made on top of it.

    Raises:
        DeltaError: The patch was made for another model, or does not fit it; or the patches do not
            fit together.
    """
    patches = [*others, patch, *later]
    n_others = len(patches) - 1
    for each in patches:
        if not n_others or len(each.delta.made_on) <= 1:  # not made on top of others
            check_fits(model, each.delta)
    delta = stack([each.delta for each in patches]) if n_others else patch.delta
    if not patch.checks and not patch.drift:
        return Recheck(
            None,
            (
                "The file has no checks: it is a plain delta, or was made without them. It fits "
                "the model; what it does was not compared.",
            ),
            others=n_others,
        )
    tolerance = _tolerance(patch.origin, model)
    without = WeightDelta({}, None, "none", {}, model.fingerprint)
    if below := others[: max(0, len(patch.delta.made_on) - 1)]:  # the patch was made on top of them
        without = stack([each.delta for each in below])
    rows = _rows(patch.checks, model, without, delta, tolerance, beside_others=bool(n_others))
    drift = movements(model, [delta])[0] if patch.drift else ()
    moved = _drift_differences(patch.drift, drift, tolerance, others=bool(n_others))
    differences = [*(row.difference for row in rows if row.difference), *moved]
    shown = differences[:_MOST_REASONS]
    if len(differences) > len(shown):
        shown.append(f"There are {len(differences) - len(shown)} more differences.")
    summary = _summary(rows, drifted=bool(moved), others=n_others)
    return Recheck(
        not differences, (summary, *shown), tuple(rows), drift, patch.drift, n_others, tolerance
    )


def _tolerance(origin: Origin | None, model: LanguageModel) -> Tolerance:
    described = model.describe()
    if origin is None:
        return OTHER_SETUP if described["dtype"] == "float32" else HALF
    if {origin.dtype, described["dtype"]} & {"float16", "bfloat16"}:
        return HALF
    kinds = [_kind_of(device) for device in (origin.device, str(described["device"]))]
    versions = {name: _version_of(name) for name in ("torch", "transformers")}
    same = all(origin.versions.get(name) == version for name, version in versions.items())
    return SAME_SETUP if same and kinds[0] == kinds[1] else OTHER_SETUP


def _kind_of(device: str) -> str:
    """The kind of a device: ``cuda`` of ``cuda:0``, ``cuda`` of ``cuda:0, cuda:1``."""
    return device.partition(",")[0].partition(":")[0]


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------- answers


def _rows(
    checks: Sequence[Check],
    model: LanguageModel,
    without: WeightDelta,
    delta: WeightDelta,
    tolerance: Tolerance,
    *,
    beside_others: bool,
) -> list[Row]:
    """The answers of the model without the patch, then those of the edited one."""
    models = EditedModels(model, [without, delta])
    before, after = ask_all(models, [check.question for check in checks])
    rows = []
    for check, now in zip(checks, before, strict=True):
        difference = _difference(models, 0, check, check.before, now, tolerance)
        rows.append(_row(check.question, "unedited", check.before, now, difference))
    for check, now in zip(checks, after, strict=True):
        if beside_others:
            difference = _lost(check, now)
        else:
            difference = _difference(models, 1, check, check.after, now, tolerance)
        rows.append(_row(check.question, "edited", check.after, now, difference))
    return rows


def _row(
    question: Question,
    model: Literal["unedited", "edited"],
    stored: Answer,
    now: Answer,
    difference: str,
) -> Row:
    if not difference:
        return Row(question, model, stored, now, "same")
    who = "the unedited model" if model == "unedited" else "the edited model"
    sentence = f'"{" ".join(question.prompt.split())}", {who}: {difference}.'
    return Row(question, model, stored, now, "changed", sentence)


def _difference(
    models: EditedModels, edit: int, check: Check, stored: Answer, now: Answer, tolerance: Tolerance
) -> str:
    """What is different beyond the tolerance, as a clause; empty if nothing is."""
    for answer, old, new in zip(
        check.question.answers, stored.probabilities, now.probabilities, strict=False
    ):
        if abs(old - new) > tolerance.probability:
            return _from_to(answer, old, new)
    if stored.text == now.text:
        return ""
    if _margin(models, edit, check.question, stored.text, now.text) <= tolerance.nats:
        return ""
    return f'it wrote "{_line(stored.text)}" when the patch was made and writes "{_line(now.text)}"'


def _lost(check: Check, now: Answer) -> str:
    """What the edited model no longer does as it did without other patches, as a clause."""
    stored, again = judged(check), judged(dataclasses.replace(check, after=now))
    moved = abs((stored.after or 0.0) - (again.after or 0.0)) > _BESIDE_OTHERS
    if stored.good and not again.good:
        wrote = _line(now.text)
        return f'it no longer answers "{stored.expected or _line(check.after.text)}" but "{wrote}"'
    if moved and stored.good is not None:
        return _from_to(stored.expected, stored.after or 0.0, again.after or 0.0)
    return ""


def _from_to(answer: str, old: float, new: float) -> str:
    return f'"{answer}" had the probability {old:.4g} when the patch was made and has {new:.4g}'


def _line(text: str) -> str:
    return " ".join(text.split())


def _margin(models: EditedModels, edit: int, question: Question, stored: str, now: str) -> float:
    """How much more likely the model finds its own text than the stored one, where they part.

    Returns:
        The difference of the log probabilities of the two tokens, nats; infinite if the texts
        cannot be compared token by token.
    """
    model = models.model
    prompt = models.prompt(GenerationQuery(edit, question.prompt, chat=question.chat)).ids
    old, new = (
        tuple(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for text in (stored, now)
    )
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    before = (*prompt, *old[:same])
    if len(before) > model.context_length:
        return math.inf
    ends = tuple(end_tokens(model, chat=question.chat))
    choices = [ids[same : same + 1] or ends for ids in (old, new)]
    if not all(choices):
        return math.inf
    asked = NextTokenQuery(edit, before, in_context=True)
    [log_p] = token_log_p(models, [asked], [[*choices[0], *choices[1]]])
    likely_old, likely_new = max(log_p[: len(choices[0])]), max(log_p[len(choices[0]) :])
    margin = likely_new - likely_old
    return math.inf if math.isnan(margin) else margin


# ---------------------------------------------------------------- drift, and the result in words


def _drift_differences(
    stored: Sequence[Movement], now: Sequence[Movement], tolerance: Tolerance, *, others: bool
) -> list[str]:
    again = {movement.prompt: movement.divergence for movement in now}
    pairs = [(each, again[each.prompt]) for each in stored if each.prompt in again]
    if not pairs:
        return []
    old, new = fmean(each.divergence for each, _ in pairs), fmean(value for _, value in pairs)
    if others:
        if new <= max(SMALL_DRIFT, _MUCH_MORE * old):
            return []
        return [
            f"Unrelated text moves by {new:.3f} nats on average with all patches, and by "
            f"{old:.3f} with this one alone."
        ]
    moved = [
        each
        for each, value in pairs
        if abs(each.divergence - value) > tolerance.divergence + _SHARE * each.divergence
    ]
    if not moved:
        return []
    return [
        f"{len(moved)} of {len(pairs)} unrelated prompts move by another distance: {new:.3f} nats "
        f"on average instead of {old:.3f}."
    ]


def _summary(rows: Sequence[Row], *, drifted: bool, others: int) -> str:
    n = len(rows)
    changed = [row for row in rows if row.status == "changed"]
    beside = f"with {others} other patch{'es' if others > 1 else ''} applied, " if others else ""
    if not changed and not drifted:
        same = f"all {n} answers are the same" if n else "unrelated text moves as it did"
        text = f"{beside}the patch does what it did when it was made: {same}."
        if others:
            text = f"{beside}the patch still does what it did when it was made."
    elif not changed:
        text = f"{beside}the answers are the same, but unrelated text moves by another distance."
    else:
        text = f"{beside}{len(changed)} of {n} answers are not those from when the patch was made."
        if any(row.model == "unedited" for row in changed):
            text += (
                " The unedited model itself answers differently: it may run with another dtype, on "
                "another device, or with other versions."
            )
    return f"{text[0].upper()}{text[1:]}"
