"""The data that editors, locators, metrics, datasets and observers exchange: frozen, without code.

Facts and their prompts: :class:`EditRequest`, :class:`Probe`, :class:`Record`, :class:`Fact`.
Results: :class:`Localization`, :class:`Score`, :class:`Report`. Requirements: :class:`Needs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from editkit.errors import PluginError, RequestError
from editkit.prompts import (
    check_chat,
    check_separator,
    check_subject,
    checked_text,
    clean_prompt,
    clean_target,
    fill,
    joined,
    subject_span,
)
from editkit.storage.file_names import why_unsafe_path

__all__ = [
    "EditRequest",
    "Fact",
    "Failure",
    "Localization",
    "Needs",
    "Point",
    "Probe",
    "Record",
    "Records",
    "RejectedRecord",
    "Report",
    "Score",
    "StatisticNeeds",
    "fact_of",
    "without_defaults",
]


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """One fact to write: the prompt, filled with the subject, shall continue with the new target.

    Spaces at the prompt's end and white space around targets are dropped: the separator stands for
    them. Line breaks at the prompt's end are kept.

    Attributes:
        prompt: A sentence up to the object, with exactly one ``{}`` where the subject stands.
        subject: The entity that the fact is about.
        target_new: The object to write.
        target_true: The object that the model is expected to hold before, if known.
        relation_id: The relation's identifier, if known (``P17``).
        separator: What stands between prompt and target; None: what the script and the end of the
            prompt ask for (:func:`editkit.prompts.default_separator`).
        chat: Whether the filled prompt is a user's turn in a chat, written with the model's own
            template, and the target the beginning of the model's answer.

    Raises:
        RequestError: A text is blank or is not valid Unicode, the subject begins or ends with white
            space, the prompt has not exactly one place for it, or white space at the prompt's end
            or around a target contradicts a separator that is given.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    relation_id: str | None = None
    separator: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        check_separator(self.separator)
        check_chat(self.chat)
        check_subject(self.subject)
        put = object.__setattr__
        put(self, "prompt", clean_prompt(self.prompt, "prompt", self.separator))
        put(self, "target_new", clean_target(self.target_new, "target_new", self.separator))
        if self.target_true is not None:
            put(self, "target_true", clean_target(self.target_true, "target_true", self.separator))
        if self.relation_id is not None:
            checked_text(self.relation_id, "relation_id")
        if self.prompt.count("{}") != 1:
            raise RequestError(
                f"prompt {self.prompt!r} holds {self.prompt.count('{}')} places for the subject, "
                "expected exactly one '{}'.",
                hint="Write '{}' where the subject belongs, once.",
            )

    @property
    def sentence(self) -> str:
        """The prompt with the subject filled in."""
        return fill(self.prompt, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Half-open character span of the subject in :attr:`sentence`."""
        return subject_span(self.prompt, self.subject)

    @property
    def statement(self) -> str:
        """The sentence with the new target, as a plain text: what an edit makes the model say."""
        return joined(self.sentence, self.target_new, self.separator)

    def to_dict(self) -> dict[str, Any]:
        """The request as plain data, to be saved with a delta or a row.

        ``separator`` and ``chat`` are there where they are set, so that digests of requests that do
        not use them are those of earlier versions.
        """
        return without_defaults(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EditRequest:
        """The request that :meth:`to_dict` described, today or in an earlier version.

        Earlier versions took subjects with white space around them; it moves into the prompt.
        """
        values = dict(data)
        subject, prompt = values.get("subject"), values.get("prompt")
        if isinstance(subject, str) and isinstance(prompt, str) and subject.strip():
            core = subject.strip()
            before, _, after = subject.partition(core)
            values |= {"subject": core, "prompt": prompt.replace("{}", f"{before}{{}}{after}", 1)}
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A prompt with the answers that compete for it.

    Attributes:
        prompt: Text up to the answer; spaces at its end are dropped.
        target_true: The answer that the unedited world holds; white space around it is dropped.
        target_new: The answer that competes with it; likewise.
        separator: What stands between prompt and answer; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: A text cannot be used.
    """

    prompt: str
    target_true: str
    target_new: str
    separator: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        check_separator(self.separator)
        check_chat(self.chat)
        put = object.__setattr__
        put(self, "prompt", clean_prompt(self.prompt, "prompt", self.separator))
        for name in ("target_true", "target_new"):
            put(self, name, clean_target(getattr(self, name), name, self.separator))

    def to_dict(self) -> dict[str, Any]:
        """The probe as plain data; ``separator`` and ``chat`` where they are set."""
        return without_defaults(vars(self))


@dataclasses.dataclass(frozen=True)
class Record:
    """One case of a benchmark: an edit, and the prompts that measure what the edit did.

    Attributes:
        case_id: Unique within its dataset.
        request: The edit.
        probes: Prompts by kind: ``rewrite``, ``paraphrase``, ``neighborhood``, ``attribute``,
            ``same_subject``, or kinds of a dataset's own.
        texts: Free texts by kind: ``generation`` (prompts), ``reference``, ``essence``.
    """

    case_id: int
    request: EditRequest
    probes: Mapping[str, tuple[Probe, ...]] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RejectedRecord:
    """A record that could not be read: which, where in it, and why."""

    case_id: str
    field: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Records:
    """The content of a dataset.

    Attributes:
        records: The records, in the dataset's own order.
        digest: Hexadecimal digest of the records' content.
        rejected: Records that were broken and are not among ``records``.
        texts: Free texts of the dataset as a whole, by kind: ``reference``.
        as_configured: Whether the dataset has seen to ``separator`` and ``chat`` of its
            configuration itself; otherwise its records are asked so afterwards.
    """

    records: tuple[Record, ...]
    digest: str
    rejected: tuple[RejectedRecord, ...] = ()
    texts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    as_configured: bool = False


def without_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a request, a probe or a fact without a separator or chat that is not set."""
    unset = {"separator": None, "chat": False}
    return {key: value for key, value in data.items() if key not in unset or value != unset[key]}


# ---------------------------------------------------------------- locating


@dataclasses.dataclass(frozen=True)
class Fact:
    """What a locator traces: a prompt, its subject, and the answer (None: the model's own).

    Spaces at the prompt's end and around the answer are dropped, as in
    :class:`~editkit.EditRequest`.

    Attributes:
        prompt: A text up to the answer.
        subject: What the fact is about, as it stands in the prompt.
        answer: What the prompt continues with.
        separator: What stands between them; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: The subject is blank or is not in the prompt, or a text cannot be used.
    """

    prompt: str
    subject: str
    answer: str | None = None
    separator: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        check_separator(self.separator)
        check_chat(self.chat)
        check_subject(self.subject)
        put = object.__setattr__
        put(self, "prompt", clean_prompt(self.prompt, "prompt", self.separator))
        if self.answer is not None:
            put(self, "answer", clean_target(self.answer, "answer", self.separator))
        if self.subject not in self.prompt:
            raise RequestError(
                f"the subject {self.subject!r} is not in the prompt {self.prompt!r}.",
                hint="Write the subject as it stands in the prompt, letter by letter.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The fact as plain data; ``separator`` and ``chat`` where they are set."""
        return without_defaults(vars(self))


def fact_of(request: EditRequest, answer: str | None = None) -> Fact:
    """The fact that a request is about, before it is edited.

    Args:
        request: The request.
        answer: The answer to follow; None: the request's true target.
    """
    return Fact(
        request.sentence,
        request.subject,
        request.target_true if answer is None else answer,
        separator=request.separator,
        chat=request.chat,
    )


@dataclasses.dataclass(frozen=True)
class Localization:
    """Effect of each site on one fact.

    Attributes:
        fact: The fact.
        tokens: The prompt's tokens as text.
        kind: What a site is: ``state``, ``mlp``, ``attn``, ``neuron``.
        scores: Nested lists (tokens, layers) of effects; 0 where nothing was traced.
        baselines: Named reference values, such as ``clean`` and ``corrupted`` probability.
        neurons: For kind ``neuron``: single neurons as (layer, neuron, effect), largest first.
        subject: Half-open span of the subject's tokens, where the locator tells it.
        answer: The answer whose probability was followed, as the model writes it.
    """

    fact: Fact
    tokens: tuple[str, ...]
    kind: str
    scores: tuple[tuple[float, ...], ...]
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    neurons: tuple[tuple[int, int, float], ...] = ()
    subject: tuple[int, int] | None = None
    answer: str = ""


# ---------------------------------------------------------------- scores and reports


@dataclasses.dataclass(frozen=True)
class Failure:
    """When reports mark a mean as a clear failure: its 95% interval lies wholly below a bound.

    The bound is the larger one of ``floor`` and of a share of another mean: the same editor's mean
    of the score ``of``, or the unedited model's mean of the very score where ``of`` is empty.

    Attributes:
        name: What failed: ``generalization``.
        share: The share, a fraction.
        of: Key of the score that it is a share of; empty for the unedited model's.
        floor: The least bound; None for none.
    """

    name: str
    share: float
    of: str = ""
    floor: float | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """A column that a metric produces.

    Attributes:
        key: Name in stores and MLflow: ``efficacy/score``.
        label: Column head in tables: ``ES``; empty for scores that tables leave out.
        summary: Whether it enters the summary score, the harmonic mean of such columns.
        higher_is_better: Direction; None where neither is better.
        signed: Whether it may be negative (shown with its sign).
        scale: What tables multiply it by: 100 for fractions, 1 for what is no fraction.
        failure: When reports mark it as a clear failure; None for never.
        at_edit: Whether it is measured at the edited prompt itself: 0 says that the edit is not
            there.
    """

    key: str
    label: str = ""
    summary: bool = False
    higher_is_better: bool | None = True
    signed: bool = False
    scale: float = 100.0
    failure: Failure | None = None
    at_edit: bool = False


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        step: Where it stands, from 0.
        value: Its value.
        time: When it was known, in seconds since the epoch.
    """

    step: int
    value: float
    time: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Something to be shown.

    Attributes:
        out: Output folder; a tracking service may keep its own files there.
        kind: What it is one of: ``training``; reports of one kind are shown together.
        name: Its name in lists.
        fingerprint: Digest of what it depends on: the same thing keeps it for ever.
        started: When it was begun, in seconds since the epoch.
        finished: When it was done; None while it goes on.
        params: What was chosen.
        metrics: Single numbers that came out.
        curves: Numbers that came out step by step, by name.
        tags: What to group and search by.
        files: Files to keep with it (figures, tables), by the path that they are shown under.
        panels: Pictures (PNG) by name, shown beside those of the same name of other reports.
        note: Markdown for a reader who sees it alone.

    Raises:
        PluginError: A name in ``files`` or ``panels`` is absolute, climbs out with ``..``, or
            cannot be a file's name.
    """

    out: Path
    kind: str
    name: str
    fingerprint: str
    started: float
    finished: float | None
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Sequence[Point]] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    panels: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse names that would leave the folders of whoever keeps the files."""
        for what, names in (("files", self.files), ("panels", self.panels)):
            for name in names:
                trouble = why_unsafe_path(name)
                if trouble is not None:
                    raise PluginError(
                        f"report {self.kind} {self.name!r} names {name!a:.80} among its {what}, "
                        f"which {trouble}.",
                        hint="Fix the plugin: a name is a relative path such as 'figures/a.png'.",
                    )


# ---------------------------------------------------------------- requirements


@dataclasses.dataclass(frozen=True)
class StatisticNeeds:
    """A second moment that an editor reads before it edits.

    Attributes:
        path: Dotted path of the module whose inputs it is of.
        width: Length D of those inputs; the statistic is D x D.
        corpus: Source of its texts; None where it is read from ``file``.
        tokens: Most tokens of the corpus that are used; None for all.
        file: A published file that is read instead.
        order: Order of the texts; None: that of such a source.
        seed: Seed of a random order.
        row_tokens: Most tokens of a text that are run; None: the usual number.
    """

    path: str
    width: int
    corpus: str | None = None
    tokens: int | None = None
    file: str | None = None
    order: Literal["stored", "random"] | None = None
    seed: int = 0
    row_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Needs:
    """What an editor will need besides the model's weights, in bytes.

    Attributes:
        prepare: Most memory at once while it prepares, with statistics read and not computed.
        edit: Most memory at once while it edits all requests together, with what preparing leaves
            behind and the deltas that it gives.
        deltas: Memory of what is left after an edit: the deltas, and what preparing leaves.
        statistics: The statistics that it reads.
        notes: What else there is to say, in plain sentences.
    """

    prepare: int = 0
    edit: int = 0
    deltas: int = 0
    statistics: tuple[StatisticNeeds, ...] = ()
    notes: tuple[str, ...] = ()
