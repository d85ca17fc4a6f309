"""What to show of a patch: one choice of numbers and words for terminals and notebooks.

All texts here are as a model, a user or a file gives them; whoever prints them makes them safe
(:mod:`editkit.safe_text`, ``html.escape``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from editkit.patches.answers import spoken_object
from editkit.patches.content import ROLES, Answer, Check, Movement, PatchContent, Role
from editkit.patches.judging import Judged, judged
from editkit.patches.numerals import divergence, percent
from editkit.patches.verdict import Level, report_of, verdict_of
from editkit.prompts import joined
from editkit.safe_text import one_line

__all__ = [
    "Group",
    "Line",
    "Measure",
    "Section",
    "groups_of",
    "heading",
    "measures_of",
    "origin_line",
    "sections_of",
    "summary",
    "took_effect",
]

_LONGEST_OPENING = 50
_CLAUSE = re.compile(r"[^.!?;\n]*")
_LARGEST = 3
"""Unrelated prompts that are shown by name."""


class Line(NamedTuple):
    """A line of numbers.

    Attributes:
        label: What they are about.
        numbers: The numbers as text, one per head of the section.
        good: Whether they are as a good edit leaves them; None where nothing is expected.
        remark: What is different if they are not.
    """

    label: str
    numbers: tuple[str, ...]
    good: bool | None = None
    remark: str = ""


class Section(NamedTuple):
    """A part of what is shown of a patch.

    Attributes:
        title: Its title.
        heads: Heads of its columns of numbers.
        lines: Its lines.
        texts: Texts with their labels, which may be empty.
        level: The verdict, if this is the section with the verdict.
    """

    title: str
    heads: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    level: Level | None = None


class Group(NamedTuple):
    """The judged checks of one role."""

    role: Role
    checks: tuple[Judged, ...]

    @property
    def n(self) -> int:
        """How many of them expect something."""
        return sum(each.good is not None for each in self.checks)

    @property
    def n_good(self) -> int:
        """How many are as a good edit leaves them."""
        return sum(each.good is True for each in self.checks)

    @property
    def share(self) -> str:
        """How many are as a good edit leaves them: ``3/4``."""
        return f"{self.n_good}/{self.n}"


# ---------------------------------------------------------------- words


def heading(content: PatchContent) -> str:
    """The edit in one line: ``The capital of Kenya is -> Paris (was Nairobi)``."""
    if not content.requests:
        return "an edit without a named fact"
    request = content.requests[0]
    old = f" (was {request.target_true})" if request.target_true else ""
    others = len(content.requests) - 1
    more = f", and {others} more fact{'s' if others > 1 else ''}" if others else ""
    return f"{request.sentence} -> {request.target_new}{old}{more}"


def _opening(text: str) -> str:
    """The first clause of a continuation, on one line, cut at a word if it is long."""
    match = _CLAUSE.match(text.lstrip())
    clause = " ".join(match.group().split()) if match else ""
    if len(clause) <= _LONGEST_OPENING:
        return clause
    return (clause[:_LONGEST_OPENING].rpartition(" ")[0] or clause[:_LONGEST_OPENING]) + " …"


def origin_line(content: PatchContent) -> str:
    """Who made the patch, where, and how long it took."""
    origin = content.origin
    if origin is None:
        return f"by {content.editor}"
    return f"by {content.editor} on {origin.model}, in {origin.seconds:.1f} s"


def summary(content: PatchContent) -> str:
    """The patch in a line: ``'The capital of Kenya is' -> Paris, by rome on atlas: works``."""
    if content.requests:
        request = content.requests[0]
        others = len(content.requests) - 1
        more = f" and {others} more fact{'s' if others > 1 else ''}" if others else ""
        fact = f"{request.sentence!r} -> {request.target_new}{more}"
    else:
        fact = "no named fact"
    place = f" on {content.origin.model}" if content.origin else ""
    groups = {group.role: group for group in groups_of(content)}
    results = []
    if "edit" in groups:
        results.append("works" if took_effect(content) else "did not take effect")
    for role, name in (("neighbor", "neighbours"), ("subject", "other facts")):
        if role in groups:
            n = groups[role].n
            results.append(f"{n - groups[role].n_good} of {n} {name} changed")
    result = f": {', '.join(results)}" if results else ""
    return one_line(f"{fact}, by {content.editor}{place}{result}")


# ---------------------------------------------------------------- sections


def sections_of(content: PatchContent) -> list[Section]:
    """Everything that is shown of a patch, in its order; the verdict comes last."""
    sections = [_section(group, content) for group in groups_of(content)]
    if content.drift:
        sections.append(_drift(content.drift))
    if report := report_of(content):
        sections.append(Section("The edit itself", texts=tuple(("", each) for each in report)))
    if content.remarks:
        sections.append(Section("Remarks", texts=tuple(("", each) for each in content.remarks)))
    verdict = verdict_of(content)
    advice = tuple(("", each) for each in verdict.advice)
    sections.append(Section(verdict.sentences[0], texts=advice, level=verdict.level))
    return sections


def _section(group: Group, content: PatchContent) -> Section:
    heads = ("before", "after")
    if len(content.requests) > 1 and group.role != "free":
        return _section_of_many(group)
    if group.role == "edit":
        first = group.checks[0].check
        lines = tuple(
            Line(answer, _numbers(each.check, place))
            for each in group.checks
            for place, answer in enumerate(each.check.question.answers)
        )
        texts = (("before", first.before.text), ("after", first.after.text))
        return Section("The edited prompt", heads, lines, texts)
    n, changed = group.n, group.n - group.n_good
    request = content.requests[0] if content.requests else None
    new = request.target_new if request else "The new object"
    subject = request.subject if request else "the subject"
    titles: dict[Role, str] = {
        "wording": f"{new} in other words: {group.n_good} of {n} follow",
        "neighbor": f"Neighbours, which should stay: {changed} of {n} changed",
        "subject": f"Other facts of {subject}, which should stay: {changed} of {n} changed",
        "free": "Other prompts",
    }
    return Section(titles[group.role], heads, tuple(map(_line, group.checks)))


def _section_of_many(group: Group) -> Section:
    """The checks of a patch with several facts: each line has its own prompt and answer."""
    titles: dict[Role, str] = {
        "edit": f"The edited prompts: {group.n_good} of {group.n} give the new object",
        "wording": f"The facts in other words: {group.n_good} of {group.n} follow",
        "neighbor": f"Neighbours, which should stay: {group.n - group.n_good} of {group.n} changed",
        "subject": "Other facts of the subjects, which should stay: "
        f"{group.n - group.n_good} of {group.n} changed",
    }
    return Section(titles[group.role], ("before", "after"), tuple(map(_line, group.checks)))


def _line(each: Judged) -> Line:
    question = each.check.question
    label = question.prompt
    if question.role in ("edit", "neighbor", "subject") and each.expected:
        label = joined(label, each.expected, question.separator)
    remark = "" if each.good else _change(each.check)
    return Line(label, _numbers(each.check, 0), each.good, remark)


def _numbers(check: Check, place: int) -> tuple[str, str]:
    """The probabilities of an answer before and after the edit, as text."""

    def of(answer: Answer) -> str:  # a file may have fewer probabilities than answers
        return percent(answer.probabilities[place]) if place < len(answer.probabilities) else "-"

    return of(check.before), of(check.after)


def _change(check: Check) -> str:
    """The answers before and after the edit, in the models' own words."""
    prompt = check.question.prompt
    before, after = (_answer(each.text, prompt) for each in (check.before, check.after))
    return f'still "{after}"' if before == after else f'"{before}" -> "{after}"'


def _answer(text: str, prompt: str) -> str:
    """The part of a text that a person would read as the answer."""
    spoken = spoken_object(text, prompt)
    return _opening(text) if spoken is None else spoken.text


def _drift(drift: Sequence[Movement]) -> Section:
    """How far unrelated prompts moved, those that moved most by name."""
    n_changed = sum(each.before != each.after for each in drift)
    changed = f"{n_changed or 'no'} next word{'' if n_changed == 1 else 's'} changed"
    lines = [Line(f"average of {len(drift)}; {changed}", (divergence(_mean_divergence(drift)),))]
    for each in sorted(drift, key=lambda each: -each.divergence)[:_LARGEST]:
        before, after = _token(each.before), _token(each.after)
        moved = f'"{before}" stays' if before == after else f'"{before}" -> "{after}"'
        lines.append(Line(f"{each.prompt} … {moved}", (divergence(each.divergence),)))
    explained = "KL divergence in nats; 0 means that nothing moved."
    return Section(
        "Unrelated prompts: how far the next word moved", ("KL",), tuple(lines), (("", explained),)
    )


def _token(text: str) -> str:
    """A token without the spaces around it; white space alone is written as in Python."""
    return text.strip() or repr(text)[1:-1]


def _mean_divergence(drift: Sequence[Movement]) -> float:
    return math.fsum(each.divergence for each in drift) / len(drift)


# ---------------------------------------------------------------- what is good


def groups_of(content: PatchContent) -> list[Group]:
    """The checks of a patch by role, those of the edited prompt first."""
    groups = [Group(role, tuple(map(judged, content.of_role(role)))) for role in ROLES]
    return [group for group in groups if group.checks]


def took_effect(content: PatchContent) -> bool:
    """Whether the edited model gives the new object at the edited prompt."""
    return any(group.n_good for group in groups_of(content) if group.role == "edit")


# ---------------------------------------------------------------- measures of a comparison


class Measure(NamedTuple):
    """A number in a comparison, before and after the edit, as text."""

    before: str
    after: str


def measures_of(content: PatchContent) -> dict[str, Measure]:
    """What editors are compared by, by name; a patch without checks has few of them."""
    names: dict[Role, str] = {
        "wording": "other wordings that follow",
        "neighbor": "neighbours that stayed",
        "subject": "other facts that stayed",
    }
    measures = {}
    for group in groups_of(content):
        if group.role == "edit":
            check = group.checks[0].check
            for place, answer in enumerate(check.question.answers):
                measures[f"probability of {answer}"] = Measure(*_numbers(check, place))
        elif group.role in names:
            measures[names[group.role]] = Measure("", group.share)
    if content.drift:
        drift = divergence(_mean_divergence(content.drift))
        measures["drift (KL, nats)"] = Measure("", drift)
    converged = content.delta.notes.get("converged")
    if isinstance(converged, bool):
        measures["converged"] = Measure("", "yes" if converged else "no")
    if content.origin is not None:
        measures["seconds"] = Measure("", f"{content.origin.seconds:.1f}")
    measures["verdict"] = Measure("", verdict_of(content).level)
    return measures
