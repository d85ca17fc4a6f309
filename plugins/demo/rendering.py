"""What the page shows, as HTML. The markup is in ``templates``, which escape every value."""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit import EditkitError
from editkit.errors import first_line
from editkit.patches.content import ROLES, Answer, Movement, Role
from editkit.patches.judging import judged
from editkit.patches.verdict import Verdict, verdict_of
from editkit.redaction import redacted
from editkit.report.html_page import html_template
from editkit.storage.resources import resource_text
from editkit_plugins.demo.studio import Made, Offered, Traced

if TYPE_CHECKING:
    from editkit import LanguageModel, Patch

UNEDITED = "unedited"
_MOST_MOVED = 2  # unrelated prompts of each editor
_TITLES: dict[Role, tuple[str, str]] = {
    "edit": ("The edited fact", "should give the new answer"),
    "wording": ("In other words", "should give the new answer"),
    "neighbor": ("Neighbours", "should keep their answers"),
    "subject": ("Other facts of {subject}", "should keep their answers"),
    "free": ("Other prompts", ""),
}


@dataclasses.dataclass(frozen=True)
class Bar:
    """The probability of one answer.

    Attributes:
        label: The answer.
        probability: Its probability, from 0 to 1.
        is_new: Whether it is the new object.
    """

    label: str
    probability: float
    is_new: bool

    @property
    def shown(self) -> str:
        """The probability as text: ``.994``, ``1.000``, ``<.001``."""
        if 0 < self.probability < 0.0005:
            return "<.001"
        return f"{self.probability:.3f}".removeprefix("0")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one model answers to one prompt.

    Attributes:
        text: Its own continuation of the prompt.
        bars: Probabilities of the answers.
        good: Whether it answers as a good edit leaves it; None if nothing is expected.
        note: A number that belongs to the text.
    """

    text: str
    bars: tuple[Bar, ...] = ()
    good: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Card:
    """An editor's patch in a few words.

    Attributes:
        verdict: What to think of the edit.
        facts: Numbers with their names.
    """

    verdict: Verdict
    facts: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Line:
    """A prompt with the answers of all models, the unedited one first."""

    prompt: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Prompts with one role."""

    title: str
    note: str
    lines: tuple[Line, ...]


def header(model: LanguageModel) -> str:
    """The title and the model."""
    described = model.describe()
    return _part(
        "header",
        name=model.name,
        facts=[
            str(described["architecture"]),
            f"{model.n_layers} layers",
            f"{model.hf.num_parameters() / 1e6:,.1f} million parameters",
            str(described["dtype"]),
        ],
    )


def editors(offered: Sequence[Offered]) -> str:
    """What each editor does, and why some cannot be chosen."""
    return _part("editors", offered=offered)


def welcome() -> str:
    """What to do first."""
    return _part("welcome")


def note(text: str) -> str:
    """A sentence that explains a part of the page."""
    return _part("note", text=text)


def status(text: str) -> str:
    """How far the work is."""
    return _part("status", text=text)


def problem(error: BaseException) -> str:
    """An error as a sentence, and what to do."""
    if isinstance(error, EditkitError):
        return _part("problem", message=error.message, hint=error.hint or "")
    message = f"unexpected {redacted(first_line(error, named=True))}"
    return _part("problem", message=message, hint="The terminal shows the traceback.")


def result(made: Made, sizes: Mapping[str, int]) -> str:
    """The edited fact, and a verdict for each editor.

    Args:
        made: The edits.
        sizes: Bytes of each patch's file, by editor.
    """
    cards = {name: _card(patch, sizes[name]) for name, patch in made.patches.items()}
    return _part("result", made=made, cards=cards)


def table(made: Made) -> str:
    """What the unedited model and each edited one answer to the questions about the edit."""
    return _part(
        "table",
        columns=[UNEDITED, *made.patches],
        groups=[*_groups(made), *_drift(made)],
        percent=_percent,
    )


def answers(made: Made, asked: Sequence[tuple[str, Sequence[Answer]]]) -> str:
    """Answers of all models to free prompts, the latest first."""
    lines = [
        Line(prompt, tuple(Cell(each.text.strip(), _bars(made, made.objects, each)) for each in of))
        for prompt, of in asked
    ]
    return _part("answers", columns=[UNEDITED, *made.patches], lines=lines, percent=_percent)


def traces(shown: Sequence[Traced]) -> str:
    """The pictures of causal traces, one below the other."""
    return _part("traces", shown=shown, encoded=lambda png: base64.b64encode(png).decode("ascii"))


def taken_back(made: Made, is_same: bool, answer: Answer) -> str:
    """What the model answers after its edits were discarded."""
    cell = Cell(answer.text.strip(), _bars(made, made.objects, answer))
    return _part("taken_back", made=made, is_same=is_same, cell=cell, percent=_percent)


@functools.cache
def style() -> str:
    """The style sheet."""
    return resource_text("editkit_plugins.demo:templates/style.css")


def _part(macro: str, /, **values: Any) -> str:
    return str(getattr(_parts(), macro)(**values))


@functools.cache
def _parts() -> Any:
    return html_template("editkit_plugins.demo", "parts.html").module


def _percent(probability: float) -> str:
    """The width of a bar."""
    return f"{100 * probability:.1f}%"


def _card(patch: Patch, size: int) -> Card:
    facts = []
    if patch.origin is not None:
        facts.append(("edited in", f"{patch.origin.seconds:.2f} s"))
    if patch.drift:
        facts.append(("drift", f"{_nats(_mean_divergence(patch.drift))} nats"))
    facts.append(("file", f"{size / 1000:,.0f} kB"))
    return Card(verdict_of(patch), tuple(facts), patch.remarks)


def _groups(made: Made) -> Iterator[Group]:
    """The questions by role, with the answers of all models; all patches have the same ones."""
    patches = list(made.patches.values())
    for role in ROLES:
        lines = []
        for checks in zip(*(patch.of_role(role) for patch in patches), strict=True):
            question = checks[0].question
            answers: list[tuple[Answer, bool | None]] = [(checks[0].before, None)]
            answers += [(check.after, judged(check).good) for check in checks]
            cells = (
                Cell(answer.text.strip(), _bars(made, question.answers, answer), good)
                for answer, good in answers
            )
            lines.append(Line(question.prompt, tuple(cells)))
        if lines:
            title, note = _TITLES[role]
            yield Group(title.format(subject=made.request.subject), note, tuple(lines))


def _drift(made: Made) -> Iterator[Group]:
    """The unrelated prompts that some editor moved most."""
    moved = {name: {m.prompt: m for m in patch.drift} for name, patch in made.patches.items()}
    most = dict.fromkeys(
        each.prompt
        for of_one in moved.values()
        for each in sorted(of_one.values(), key=lambda each: -each.divergence)[:_MOST_MOVED]
    )
    lines = []
    for prompt in most:
        of_all = [of_one[prompt] for of_one in moved.values()]
        after = [Cell(each.after.strip(), note=f"{_nats(each.divergence)} nats") for each in of_all]
        lines.append(Line(prompt, (Cell(of_all[0].before.strip()), *after)))
    if lines:
        n = len(next(iter(moved.values())))
        note = f"the next token, and how far it moved (KL divergence); the largest of {n}"
        yield Group("Unrelated prompts", note, tuple(lines))


def _mean_divergence(drift: Sequence[Movement]) -> float:
    return sum(each.divergence for each in drift) / len(drift)


def _nats(value: float) -> str:
    return "<.001" if value < 0.0005 else f"{value:.3f}"


def _bars(made: Made, labels: Sequence[str], answer: Answer) -> tuple[Bar, ...]:
    return tuple(
        Bar(label, probability, label == made.request.target_new)
        for label, probability in zip(labels, answer.probabilities, strict=True)
    )
