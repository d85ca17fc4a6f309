"""How facts reach a model: one fact per model, many at once, or one after the other.

A regime is part of what a result means: a score after one edit and a score after a thousand edits
of one model are different measurements. It is independent of how work is batched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

from typing_extensions import Self

__all__ = ["INDEPENDENT", "Regime", "RegimeKind"]

RegimeKind = Literal["independent", "joint", "sequential"]
Item = TypeVar("Item")

_LARGEST = 10**9
_FORMS = "independent, {joint: N}, or {sequential: N, step: K, checkpoints: [...]}"


@dataclasses.dataclass(frozen=True)
class Regime:
    """How the facts of a run reach models.

    Attributes:
        kind: ``independent``: each fact in its own copy of the model. ``joint``: groups of facts,
            one delta per group. ``sequential``: a model takes some facts at a time, on top of all
            before.
        facts: Facts per model.
        step: Facts of one step of a sequence.
        checkpoints: Numbers of facts after which a sequence is scored, ascending; the last one is
            ``facts``.
        groups: Use only this many models; None: as many as the records allow.
    """

    kind: RegimeKind = "independent"
    facts: int = 1
    step: int = 1
    checkpoints: tuple[int, ...] = ()
    groups: int | None = None

    @classmethod
    def joint(cls, facts: int, *, groups: int | None = None) -> Self:
        """Groups of ``facts`` facts, one delta per group.

        Raises:
            ValueError: A number is not positive.
        """
        return cls("joint", _count("joint", facts), groups=_optional_count("groups", groups))

    @classmethod
    def sequential(
        cls,
        facts: int,
        *,
        step: int = 1,
        checkpoints: Sequence[int] | None = None,
        groups: int | None = None,
    ) -> Self:
        """Sequences of ``facts`` facts, ``step`` at a time.

        Args:
            facts: Length of a sequence.
            step: Facts per step.
            checkpoints: Numbers of facts after which the model is scored; by default the powers of
                ten that end a step. The end of the sequence is always one.
            groups: Most sequences.

        Raises:
            ValueError: A number is not positive, or a checkpoint is not the end of a step.
        """
        facts, step = _count("sequential", facts), _count("step", step)
        if step > facts:
            raise ValueError(f"step is {step}, expected at most the {facts} facts of a sequence")
        if checkpoints is None:
            powers = [10**n for n in range(10) if 10**n < facts and 10**n % step == 0]
            checkpoints = powers
        if not isinstance(checkpoints, list | tuple):
            raise ValueError(f"checkpoints is {checkpoints!r:.80}, expected a list of numbers")
        marks = sorted({*(_count("checkpoints", mark) for mark in checkpoints), facts})
        for mark in marks:
            if mark > facts:
                raise ValueError(f"checkpoint {mark} is beyond the {facts} facts of a sequence")
            if mark % step and mark != facts:
                raise ValueError(
                    f"checkpoint {mark} is not the end of a step of {step} facts; the next is "
                    f"{mark + step - mark % step}"
                )
        return cls("sequential", facts, step, tuple(marks), _optional_count("groups", groups))

    @classmethod
    def parse(cls, value: Any) -> Self:
        """A regime from a benchmark file.

        Args:
            value: ``independent``, ``{joint: N}``, or ``{sequential: N, step: K, checkpoints: [n,
                ...]}``; the last two may have ``groups``.

        Raises:
            ValueError: It is none of these, or a number is wrong.
        """
        if isinstance(value, cls):
            return value
        if value == "independent":
            return cls()
        if not isinstance(value, Mapping):
            raise ValueError(f"got {value!r:.80}, expected {_FORMS}")
        content = dict(value)
        kinds = [kind for kind in get_args(RegimeKind) if kind in content]
        if kinds not in (["joint"], ["sequential"]):
            raise ValueError(f"got {content!r:.80}, expected {_FORMS}")
        options = {"joint": ("groups",), "sequential": ("step", "checkpoints", "groups")}[kinds[0]]
        facts = content.pop(kinds[0])
        if unknown := [name for name in content if name not in options]:
            raise ValueError(
                f"{kinds[0]} has the unknown option {unknown[0]!r:.40}, expected "
                f"{' or '.join(options)}"
            )
        return (
            cls.joint(facts, **content) if kinds == ["joint"] else cls.sequential(facts, **content)
        )

    def to_dict(self) -> dict[str, Any]:
        """The regime as :meth:`parse` reads it, with every default written out."""
        if self.kind == "independent":
            return {"independent": 1}
        content: dict[str, Any] = {self.kind: self.facts}
        if self.kind == "sequential":
            content |= {"step": self.step, "checkpoints": list(self.checkpoints)}
        return content if self.groups is None else {**content, "groups": self.groups}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """A regime from :meth:`to_dict`.

        Raises:
            ValueError: It is not one.
        """
        return cls() if dict(content) in ({}, {"independent": 1}) else cls.parse(content)

    @property
    def is_independent(self) -> bool:
        """Whether every fact has a model of its own."""
        return self.kind == "independent"

    @property
    def together(self) -> int:
        """Facts of one step: all facts of a joint edit."""
        return self.step if self.kind == "sequential" else self.facts

    @property
    def label(self) -> str:
        """For tables: ``independent``, ``joint 100``, ``sequential 1000 by 10``."""
        if self.is_independent:
            return self.kind
        by = f" by {self.step}" if self.step > 1 else ""
        return f"{self.kind} {self.facts}{by}"

    def groups_of(self, items: Sequence[Item]) -> list[tuple[Item, ...]]:
        """Cut items, in order, into the groups that share a model; the last may be shorter."""
        starts = range(0, len(items), self.facts)
        groups = [tuple(items[start : start + self.facts]) for start in starts]
        return groups[: self.groups]

    def checkpoints_of(self, facts: int) -> tuple[int, ...]:
        """The checkpoints of a group with this many facts, the last at its end; (0,) if joint."""
        if self.kind != "sequential":
            return (0,)
        return (*(mark for mark in self.checkpoints if mark < facts), facts)

    def steps_of(self, facts: int) -> Iterable[tuple[int, int]]:
        """The steps of a sequence with this many facts, as half-open ranges of facts."""
        starts = range(0, facts, self.step)
        return [(start, min(start + self.step, facts)) for start in starts]


INDEPENDENT = Regime()


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise ValueError(f"{name} is {value!r:.40}, expected a whole number from 1")
    return value


def _optional_count(name: str, value: Any) -> int | None:
    return None if value is None else _count(name, value)
