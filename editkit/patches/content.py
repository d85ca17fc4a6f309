"""What a patch holds: an edit, where it was made, and what it did when it was made.

Plain data. The questions were answered by the unedited and by the edited model when the patch was
made; both answers are stored, so that one can check later whether it still works.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from editkit.data_types import EditRequest, without_defaults
from editkit.editing.deltas import WeightDelta
from editkit.mistakes import expect

__all__ = [
    "ROLES",
    "Answer",
    "Check",
    "Movement",
    "Origin",
    "ParameterSize",
    "PatchContent",
    "Question",
    "Role",
    "Size",
]

Role = Literal["edit", "wording", "neighbor", "subject", "free"]
"""What a question is about: the edited prompt; the fact in other words; another subject with the
old object; another fact of the subject; any other prompt of the user."""

ROLES: tuple[Role, ...] = ("edit", "wording", "neighbor", "subject", "free")


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt that both models answer.

    Attributes:
        role: What it is about.
        prompt: Text up to the answer, with the subject filled in.
        answers: The answers that get probabilities: the new object, then the old one; for a
            neighbour or another fact of the subject, the unedited model's answer, then the new
            object.
        separator: Text between prompt and answer; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.
        given: Whether the user gave it; otherwise it was proposed.
    """

    role: Role
    prompt: str
    answers: tuple[str, ...] = ()
    separator: str | None = None
    chat: bool = False
    given: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The question as plain data; ``separator`` and ``chat`` only if they are set."""
        return without_defaults({**vars(self), "answers": list(self.answers)})


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one model answers to a question.

    Attributes:
        probabilities: Probability of each of the question's answers as a whole, after the prompt.
        text: The model's own greedy continuation, without special tokens.
        ranks: For each answer, the rank of its first token among all next tokens: 1 for the most
            probable. Empty if it was not measured.
    """

    probabilities: tuple[float, ...]
    text: str
    ranks: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain data."""
        numbers = {"probabilities": list(self.probabilities), "ranks": list(self.ranks)}
        return {**numbers, "text": self.text}


@dataclasses.dataclass(frozen=True)
class Check:
    """A question with the answers before and after the edit."""

    question: Question
    before: Answer
    after: Answer


@dataclasses.dataclass(frozen=True)
class Movement:
    """How far the edit moved the next token after an unrelated prompt.

    Attributes:
        prompt: The prompt.
        divergence: KL divergence of the edited model's distribution from the unedited one, nats.
        before: The unedited model's most likely next token, as text.
        after: The edited model's.
    """

    prompt: str
    divergence: float
    before: str
    after: str


@dataclasses.dataclass(frozen=True)
class ParameterSize:
    """How large the change of one parameter is.

    Attributes:
        name: The parameter.
        norm: Frobenius norm of the change.
        weight_norm: Frobenius norm of the unedited parameter.
    """

    name: str
    norm: float
    weight_norm: float


@dataclasses.dataclass(frozen=True)
class Size:
    """How large an edit is, and what rounding leaves of it.

    Attributes:
        parameters: Each changed parameter.
        rounded_away: Share of the change that is lost in the model's own type, from 0 to 1
            (:meth:`editkit.editing.delta_effects.Effects.of`).
        kept_in_bfloat16: Share that remains if the model is stored in bfloat16, from 0 to 1
            (:func:`editkit.editing.delta_effects.share_kept`).
    """

    parameters: tuple[ParameterSize, ...]
    rounded_away: float
    kept_in_bfloat16: float

    def to_dict(self) -> dict[str, Any]:
        """The size as plain data."""
        return {**vars(self), "parameters": [vars(each) for each in self.parameters]}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a patch was made.

    Attributes:
        model: The model's name: ``atlas``, a hub id, or the name of a folder.
        revision: Commit of a hub model, or the branch or tag that was asked for.
        architecture: ``gpt2``, ``llama``, ...
        dtype: Type of the weights in memory: ``float32``.
        device: Device of the model.
        created: Time in UTC, ISO 8601.
        seconds: Time that the edit took, without loading the model and without checks.
        versions: Versions of editkit, of the editor's distribution, torch, transformers, Python.
    """

    model: str
    revision: str | None
    architecture: str
    dtype: str
    device: str
    created: str
    seconds: float
    versions: Mapping[str, str]

    @property
    def model_and_revision(self) -> str:
        """The model in words: ``gpt2-xl, revision main``."""
        return self.model + (f", revision {self.revision}" if self.revision else "")

    def to_dict(self) -> dict[str, Any]:
        """The origin as plain data."""
        return {**vars(self), "versions": dict(self.versions)}


@dataclasses.dataclass(frozen=True, eq=False)
class PatchContent:
    """What a patch holds.

    Attributes:
        delta: The edit, with its request, editor, settings, notes and the model's fingerprint.
        origin: Where it was made; None for a file of :func:`editkit.save_delta`.
        checks: What the models answered when it was made; may be empty.
        drift: Movement of unrelated prompts when it was made; may be empty.
        size: Size of the change; None if it was not measured.
        remarks: What is unusual about the edit, and what could not be checked, in sentences.
    """

    delta: WeightDelta
    origin: Origin | None = None
    checks: tuple[Check, ...] = ()
    drift: tuple[Movement, ...] = ()
    size: Size | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect(self.delta, "WeightDelta", "delta", "Patch(delta)")
        if self.origin is not None and not self.delta.made_for:  # errors about the delta name it
            named = dataclasses.replace(self.delta, made_for=self.origin.model_and_revision)
            object.__setattr__(self, "delta", named)

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """The edited facts."""
        return self.delta.requests

    @property
    def editor(self) -> str:
        """Name of the editor that made it."""
        return self.delta.editor

    def of_role(self, role: Role) -> tuple[Check, ...]:
        """The checks with that role."""
        return tuple(check for check in self.checks if check.question.role == role)
