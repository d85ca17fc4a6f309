"""Finds failed edits of any editor from notes and scores, and suggests what to change.

An editor reports how an edit went in the notes of its delta, under standard keys:

- ``converged`` (bool): whether the stopping criterion is met; absent if the method has none;
- ``unstable`` (text): why the edit should not be trusted;
- ``warning`` (text): what the method cannot do for this request;
- ``advice`` (text): what to change if the edit did not converge or is unstable;
- ``loss``, ``steps``, ``delta_norm`` (numbers): displayed and stored only.

The core adds checks that work for any method: whether the change is zero, whether it survives
rounding (:mod:`editkit.editing.delta_effects`), and whether the edited prompt shows the edit.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = [
    "BASELINE",
    "CONTEXT_TEXTS",
    "KINDS",
    "ROUNDED_AWAY",
    "Edit",
    "Outcomes",
    "convergence",
    "is_probable",
    "is_watched",
    "outcomes_of",
    "unwatched",
]

BASELINE = "none"
"""The editor that changes nothing: it is neither ranked nor counted as failed."""

IMPROBABLE = math.log(2)
"""Nats per token at which a target is as probable as all other tokens together."""

MOSTLY_LOST, WHOLLY_LOST = 0.5, 0.99
"""Shares of a change lost to rounding: the first is the threshold for a report, at the second
nothing is left of the change."""

ROUNDED_AWAY = "rounded_away"
"""Note added by the core: the share of the change lost when weights are rounded to their type."""

CONTEXT_TEXTS = "context_texts"
"""Note added by the core: the number of texts that an edit puts before prompts, if it does so."""

_MOST_TEXTS = 2


def is_probable(nll: float) -> bool:
    """Whether a target is more probable than not, on average over its tokens.

    Editors that raise the probability of a target use this in addition to their stopping criterion:
    other terms may keep the loss high although the model already predicts the target.

    Args:
        nll: Mean negative log likelihood of the target's tokens, in nats.
    """
    return nll < IMPROBABLE


def convergence(loss: float, nll: float, *, stop_loss: float, advice: str) -> dict[str, Any]:
    """Notes ``loss``, ``converged`` and ``advice`` of an edit that minimises a target's loss.

    It converged if its loss fell below the stopping point, or if the target is probable: few runs
    reach the published stopping points within the published number of steps.

    Args:
        loss: The loss at the end.
        nll: As for :func:`is_probable`.
        stop_loss: Training stops below this loss.
        advice: What to change if it did not converge.
    """
    if loss < stop_loss or is_probable(nll):
        return {"loss": loss, "converged": True}
    return {"loss": loss, "converged": False, "advice": advice}


@dataclasses.dataclass(frozen=True)
class Edit:
    """The notes and score of one edit.

    Attributes:
        name: Name of the edit in messages, such as ``case 17``.
        notes: The notes of its delta.
        taken: Score on the edited prompt, if available; 0 if the edit has no effect there.
    """

    name: str
    notes: Mapping[str, Any]
    taken: float | None = None


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """How many edits failed, how they failed, and what to change.

    Attributes:
        n: Number of edits.
        unconverged: Edits that do not meet the editor's criterion.
        unstable: Edits that the editor marked as unstable.
        unchanged: Edits with a change that is zero or lost to rounding, and no report of
            convergence.
        rounded: Edits that are mostly lost when the weights are rounded to their type.
        contradicted: Edits reported as converged but with no effect on the edited prompt.
        untaken: Edits with no report and no effect on the edited prompt.
        example: The first reason for an unstable edit.
        warnings: Warnings from editors, with the number of edits for each.
        advice: What to change, most frequent first.
    """

    n: int
    unconverged: int = 0
    unstable: int = 0
    unchanged: int = 0
    rounded: int = 0
    contradicted: int = 0
    untaken: int = 0
    example: str = ""
    warnings: tuple[tuple[str, int], ...] = ()
    advice: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """The number of edits of each kind."""
        return {kind: getattr(self, kind) for kind in KINDS}

    def __bool__(self) -> bool:
        """Whether any edit failed or has a warning."""
        return any(self.counts().values()) or bool(self.warnings)

    @property
    def summary(self) -> str:
        """One line to print after the editor's name; empty if every edit worked."""
        parts = [
            KINDS[kind].format(n=n, are="is" if n == 1 else "are")
            for kind, n in self.counts().items()
            if n
        ]
        if self.example:
            parts = [f"{p} ({self.example})" if p.endswith("unstable") else p for p in parts]
        edits = "1 edit" if self.n == 1 else f"{self.n} edits"
        sentences = [f"of {edits}, {_listed(parts)}"] if parts else []
        for warning, n in self.warnings[:_MOST_TEXTS]:
            sentences.append(f"{n} of {self.n}: {warning}")
        if len(self.warnings) > _MOST_TEXTS:
            sentences.append(f"there are {len(self.warnings) - _MOST_TEXTS} other warnings")
        if self.advice:
            sentences.append(f"What to change: {'; or '.join(self.advice)}")
        return "".join(f"{sentence}. " for sentence in sentences).rstrip()

    def document(self) -> dict[str, Any]:
        """The outcomes as plain data, for the ``--json`` document."""
        return {
            "n": self.n,
            **self.counts(),
            "warnings": dict(self.warnings),
            "advice": list(self.advice),
            "summary": self.summary,
        }


KINDS = {
    "unconverged": "{n} did not converge",
    "unstable": "{n} {are} unstable",
    "unchanged": "{n} changed nothing",
    "rounded": "{n} {are} mostly lost when the weights are rounded to the model's dtype",
    "contradicted": "{n} converged but did not take effect at the edited prompt",
    "untaken": "{n} did not take effect at the edited prompt",
}


def outcomes_of(edits: Iterable[Edit]) -> Outcomes:
    """Count the failed edits.

    Notes of the wrong type are ignored.
    """
    n = 0
    counts = dict.fromkeys(KINDS, 0)
    examples: list[str] = []
    warnings: Counter[str] = Counter()
    advice: Counter[str] = Counter()
    for edit in edits:
        n += 1
        kinds = _kinds_of(edit)
        for kind in kinds:
            counts[kind] += 1
        if "unstable" in kinds and not examples:
            reason = edit.notes["unstable"]
            examples.append(f"{edit.name}: {reason}" if isinstance(reason, str) else edit.name)
        warning = edit.notes.get("warning")
        if isinstance(warning, str) and warning.strip():
            warnings[_line(warning).rstrip(".")] += 1
        if kinds:
            own = edit.notes.get("advice")
            if isinstance(own, str) and own.strip():
                advice.update(part.rstrip(".") for part in _line(own).split("; and "))
            if (_number(edit.notes.get(ROUNDED_AWAY)) or 0.0) > MOSTLY_LOST:
                advice["load the model in float32 (--dtype float32)"] += 1
    return Outcomes(
        n=n,
        **counts,
        example=_line(examples[0]) if examples else "",
        warnings=tuple(warnings.most_common()),
        advice=tuple(text for text, _ in advice.most_common(_MOST_TEXTS)),
    )


def _kinds_of(edit: Edit) -> list[str]:
    notes = edit.notes
    converged = notes.get("converged")
    converged = converged if isinstance(converged, bool) else None
    kinds = []
    if converged is False:
        kinds.append("unconverged")
    if notes.get("unstable"):
        kinds.append("unstable")
    lost, norm = _number(notes.get(ROUNDED_AWAY)) or 0.0, _number(notes.get("delta_norm"))
    in_context = bool(_number(notes.get(CONTEXT_TEXTS)))  # it has an effect without any weights
    if (norm == 0 or lost >= WHOLLY_LOST) and converged is not True and not in_context:
        kinds.append("unchanged")
    elif lost > MOSTLY_LOST:
        kinds.append("rounded")
    if edit.taken == 0 and converged is not False and "unchanged" not in kinds:
        kinds.append("untaken" if converged is None else "contradicted")
    return kinds


def _number(value: Any) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _line(text: str) -> str:
    return " ".join(text.split())


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


# ---------------------------------------------------------------- editors called from Python

_unwatched = contextvars.ContextVar("_unwatched", default=False)


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Inside, editors do not log failed edits; the caller reports them."""
    token = _unwatched.set(True)
    try:
        yield
    finally:
        _unwatched.reset(token)


def is_watched() -> bool:
    """Whether failed edits are logged here."""
    return not _unwatched.get()
