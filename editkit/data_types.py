"""The data that editors, locators, metrics, datasets and observers exchange.

Facts and their prompts: :class:`EditRequest`, :class:`Probe`, :class:`Record`, :class:`Fact`.
Results: :class:`Localization`, :class:`Score`, :class:`Report`. Before a run:
:class:`Requirements`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from editkit.consequences import Consequence
from editkit.errors import PluginError, RequestError
from editkit.mistakes import expect, expect_list
from editkit.prompts import (
    checked_text,
    clean_fields,
    fill,
    joined,
    subject_span,
)
from editkit.reprs import arrow, changed_fields, counted, quoted, summary
from editkit.storage.file_names import why_unsafe_path

__all__ = [
    "EditRequest",
    "Fact",
    "Failure",
    "Localization",
    "Point",
    "Probe",
    "Record",
    "Records",
    "RejectedRecord",
    "Report",
    "RequiredStatistic",
    "Requirements",
    "Score",
    "fact_of",
    "without_defaults",
]


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """One fact to write: after the edit, the prompt should continue with the new target.

    Spaces at the prompt's end and white space around targets are dropped; the separator replaces
    them. Line breaks at the prompt's end are kept.

    Attributes:
        prompt: A sentence up to the object, with exactly one ``{}`` for the subject.
        subject: The entity that the fact is about.
        target_new: The object to write.
        target_true: The object that the model is expected to give before the edit, if known.
        relation_id: The relation's identifier, if known (``P17``).
        separator: Text between prompt and target; None: the default for the script and the end of
            the prompt (:func:`editkit.prompts.default_separator`).
        chat: Whether the filled prompt is a user's turn in a chat, in the model's own template, and
            the target is the beginning of the model's answer.

    Raises:
        RequestError: A text is blank or is not valid Unicode, the subject begins or ends with white
            space, the prompt does not have exactly one place for it, or white space at the prompt's
            end or around a target contradicts the given separator.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    relation_id: str | None = None
    separator: str | None = None
    chat: bool = False
    __repr__ = changed_fields

    def __post_init__(self) -> None:
        clean_fields(self, "target_new", optional="target_true")
        if self.relation_id is not None:
            checked_text(self.relation_id, "relation_id")
        if self.prompt.count("{}") != 1:
            raise RequestError(
                f"prompt {self.prompt!r} holds {self.prompt.count('{}')} places for the subject, "
                "expected exactly one '{}'.",
                hint=f"Write '{{}}' once, where the subject belongs{self._suggestion()}.",
            )

    def _suggestion(self) -> str:
        """The prompt as it was probably meant, for the hint."""
        if "{}" in self.prompt or self.prompt.count(self.subject) != 1:
            return ""
        return f": {self.prompt.replace(self.subject, '{}')!r}"

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
        """The sentence with the new target, as one text."""
        return joined(self.sentence, self.target_new, self.separator)

    def to_dict(self) -> dict[str, Any]:
        """The request as plain data, as it is saved with a delta or a row.

        ``separator`` and ``chat`` are included only if they are set, so that the digests of other
        requests are those of earlier versions.
        """
        return without_defaults(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EditRequest:
        """The request that :meth:`to_dict` described, in this or an earlier version.

        Earlier versions allowed white space around subjects; it is moved into the prompt.
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
    """A prompt with two competing answers.

    Attributes:
        prompt: Text up to the answer; spaces at its end are dropped.
        target_true: The answer before any edit; white space around it is dropped.
        target_new: The answer that competes with it; likewise.
        separator: Text between prompt and answer; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: A text cannot be used.
    """

    prompt: str
    target_true: str
    target_new: str
    separator: str | None = None
    chat: bool = False
    __repr__ = changed_fields

    def __post_init__(self) -> None:
        clean_fields(self, "target_true", "target_new")

    def to_dict(self) -> dict[str, Any]:
        """The probe as plain data; ``separator`` and ``chat`` only if they are set."""
        return without_defaults(vars(self))


@dataclasses.dataclass(frozen=True)
class Record:
    """One case of a benchmark: an edit, and the prompts that measure what the edit did.

    Attributes:
        case_id: Unique within its dataset.
        request: The edit.
        probes: Prompts by kind: ``rewrite``, ``paraphrase``, ``neighborhood``, ``attribute``,
            ``same_subject``, or a dataset's own kinds.
        texts: Free texts by kind: ``generation`` (prompts), ``reference``, ``essence``.
        also: Further edits of the case, which are written together with ``request``.
        consequences: Tests of what follows from the edits, by group
            (:data:`editkit.consequences.GROUPS`).
        aliases: Other spellings of answers in ``request``, ``also`` and ``probes``, by answer.

    Raises:
        UsageError: A value has the wrong type.
    """

    case_id: int
    request: EditRequest
    probes: Mapping[str, tuple[Probe, ...]] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    also: tuple[EditRequest, ...] = ()
    consequences: Mapping[str, tuple[Consequence, ...]] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        call = "Record(case_id, request, probes, texts, also, consequences, aliases)"
        expect(self.request, "EditRequest", "request", call)
        expect(self.probes, "mapping", "probes", call)
        expect(self.texts, "mapping", "texts", call)
        expect_list(self.also, "EditRequest", "also", call)
        expect(self.consequences, "mapping", "consequences", call)
        expect(self.aliases, "mapping", "aliases", call)
        for kind, probes in self.probes.items():
            expect_list(probes, "Probe", f"probes[{kind!r}]", call)
        for kind, texts in self.texts.items():
            expect_list(texts, "text", f"texts[{kind!r}]", call)
        for group, tests in self.consequences.items():
            expect_list(tests, "Consequence", f"consequences[{group!r}]", call)
        for answer, spellings in self.aliases.items():
            expect_list(spellings, "text", f"aliases[{answer!r}]", call)

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """All edits of the case."""
        return (self.request, *self.also)

    @property
    def unprobed(self) -> tuple[EditRequest, ...]:
        """Edits without a probe of kind ``rewrite`` at their own prompt."""
        probed = {(probe.prompt, probe.chat) for probe in self.probes.get("rewrite", ())}
        return tuple(r for r in self.requests if (r.sentence, r.chat) not in probed)

    def spellings(self, answer: str) -> tuple[str, ...]:
        """An answer and its aliases."""
        return (answer, *self.aliases.get(answer, ()))

    @summary
    def __repr__(self) -> str:
        prompts = {**self.probes, **self.texts, **self.consequences}
        kinds = ", ".join(f"{len(each)} {kind}" for kind, each in prompts.items())
        edit = arrow(self.request.sentence, self.request.target_new)
        edit += f" and {counted(len(self.also), 'other edit')}" if self.also else ""
        return f"Record {self.case_id}: {edit}; {kinds or 'no prompts'}"


@dataclasses.dataclass(frozen=True)
class RejectedRecord:
    """A record that could not be read, the broken field, and the reason.

    Without a case id, ``case_id`` is the position in the file, from 0: ``position 3``.
    """

    case_id: str
    field: str
    reason: str

    @property
    def place(self) -> str:
        """The record in words: ``case 7``, ``position 3``."""
        return self.case_id if self.has_position else f"case {self.case_id}"

    @property
    def has_position(self) -> bool:
        """Whether it is named by its position, for lack of a case id."""
        return self.case_id.startswith("position ")


@dataclasses.dataclass(frozen=True)
class Records:
    """The content of a dataset.

    Attributes:
        records: The records, in the dataset's own order.
        digest: Hexadecimal digest of the records' content.
        rejected: Broken records, which are not in ``records``.
        texts: Free texts of the dataset as a whole, by kind: ``reference``.
        as_configured: Whether the dataset has already applied ``separator`` and ``chat`` of its
            configuration; otherwise they are applied to its records afterwards.
    """

    records: tuple[Record, ...]
    digest: str
    rejected: tuple[RejectedRecord, ...] = ()
    texts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    as_configured: bool = False

    @summary
    def __repr__(self) -> str:
        rejected = f", {len(self.rejected)} rejected" if self.rejected else ""
        n = counted(len(self.records), "record")
        return f"Records: {n}{rejected}, digest {self.digest[:12]}"


def without_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a request, probe or fact, without ``separator`` and ``chat`` if unset."""
    unset = {"separator": None, "chat": False}
    return {key: value for key, value in data.items() if key not in unset or value != unset[key]}


# ---------------------------------------------------------------- locating


@dataclasses.dataclass(frozen=True)
class Fact:
    """A fact to trace: a prompt, its subject, and the answer.

    Spaces at the prompt's end and around the answer are dropped, as in
    :class:`~editkit.EditRequest`.

    Attributes:
        prompt: A text up to the answer.
        subject: The entity that the fact is about, spelled as in the prompt.
        answer: The continuation of the prompt; None: the model's own.
        separator: Text between prompt and answer; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: The subject is blank or is not in the prompt, or a text cannot be used.
    """

    prompt: str
    subject: str
    answer: str | None = None
    separator: str | None = None
    chat: bool = False
    __repr__ = changed_fields

    def __post_init__(self) -> None:
        clean_fields(self, optional="answer")
        if self.subject not in self.prompt:
            raise RequestError(
                f"the subject {self.subject!r} is not in the prompt {self.prompt!r}.",
                hint="Write the subject exactly as it is spelled in the prompt.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The fact as plain data; ``separator`` and ``chat`` only if they are set."""
        return without_defaults(vars(self))


def fact_of(request: EditRequest, answer: str | None = None) -> Fact:
    """The fact that a request edits.

    Args:
        request: The request.
        answer: The answer to trace; None: the request's true target.
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
        kind: Kind of the sites: ``state``, ``mlp``, ``attn``, ``neuron``.
        scores: Nested lists (tokens, layers) of effects; 0 where nothing was traced.
        baselines: Named reference values, such as ``clean`` and ``corrupted`` probability.
        neurons: For kind ``neuron``: single neurons as (layer, neuron, effect), largest first.
        subject: Half-open span of the subject's tokens, if the locator reports it.
        answer: The answer whose probability was traced, as the model writes it.
        window: How many layers are restored together around each layer; None for a single one.
        replacements: Other subjects that replace the fact's own in the corrupted runs, if any do.
        counterparts: With ``replacements``: for each token, the tokens of those prompts at whose
            place it is restored, as text; empty for a token without one, which is not traced.
    """

    fact: Fact
    tokens: tuple[str, ...]
    kind: str
    scores: tuple[tuple[float, ...], ...]
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    neurons: tuple[tuple[int, int, float], ...] = ()
    subject: tuple[int, int] | None = None
    answer: str = ""
    window: int | None = None
    replacements: tuple[str, ...] = ()
    counterparts: tuple[str, ...] = ()

    @property
    def traced(self) -> tuple[bool, ...]:
        """For each token, whether it was traced; false for those without a counterpart."""
        return tuple(map(bool, self.counterparts)) or (True,) * len(self.tokens)

    @summary
    def __repr__(self) -> str:
        effects = [
            (effect, token, layer)
            for token, row in enumerate(self.scores)
            for layer, effect in enumerate(row)
        ]
        text = f"Localization of {quoted(self.fact.prompt)}: {self.kind}"
        if not effects:
            return f"{text}, {counted(len(self.neurons), 'neuron')}"
        effect, token, layer = max(effects)
        size = f"{counted(len(self.scores), 'token')} x {counted(len(self.scores[0]), 'layer')}"
        place = f"{quoted(self.tokens[token])} in layer {layer}"
        return f"{text}, {size}, largest {effect:.3g} at {place}"


# ---------------------------------------------------------------- scores and reports


@dataclasses.dataclass(frozen=True)
class Failure:
    """When reports mark a mean as a clear failure: its whole 95% interval is below a bound.

    The bound is the larger of ``floor`` and a share of another mean: the same editor's mean of the
    score ``of``, or the unedited model's mean of the same score if ``of`` is empty.

    Attributes:
        name: Name of the failure: ``generalization``.
        share: The share, a fraction.
        of: Key of the score that it is a share of; empty for the unedited model's.
        floor: The lowest bound; None for none.
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
        label: Column head in tables: ``ES``; empty for scores that tables omit.
        summary: Whether it is part of the summary score, the harmonic mean of such columns.
        higher_is_better: Direction; None if neither is better.
        signed: Whether it may be negative (shown with its sign).
        scale: Factor in tables: 100 for fractions, 1 for other numbers.
        failure: When reports mark it as a clear failure; None for never.
        at_edit: Whether it is measured at the edited prompt itself, so that 0 means that the edit
            had no effect.
        digits: Significant digits of numbers in tables, at least one decimal; None: one decimal if
            the scale is 100, otherwise three digits. A narrow interval adds decimals.
        bounds: Lowest and highest possible value, for the 95% interval; None in place of a missing
            bound. By default (0, 1) with the scale 100, (-1, 1) if the score is also signed, and
            otherwise only 0 as the lower bound of scores without a sign.
        name: A few words for the legend below a table: ``efficacy``. By default, the key is shown.
        description: One sentence without a full stop, which ``editkit describe``, pages and the
            documentation show: ``share of edits after which the model prefers the new object``.
    """

    key: str
    label: str = ""
    summary: bool = False
    higher_is_better: bool | None = True
    signed: bool = False
    scale: float = 100.0
    failure: Failure | None = None
    at_edit: bool = False
    digits: int | None = None
    bounds: tuple[float | None, float | None] | None = None
    name: str = ""
    description: str = ""

    @property
    def significant_digits(self) -> int | None:
        """``digits``, or their default; None: one decimal."""
        return 3 if self.digits is None and self.scale != 100 else self.digits

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """``bounds``, or their default."""
        if self.bounds is not None:
            return self.bounds
        highest = 1.0 if self.scale == 100 else None
        if self.signed:
            return None if highest is None else -highest, highest
        return 0.0, highest


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        step: Its step, from 0.
        value: Its value.
        time: When it was measured, in seconds since the epoch.
    """

    step: int
    value: float
    time: float


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a training, a trace or similar work, for tracking services.

    Attributes:
        out: Output folder; a tracking service may keep its own files there.
        kind: Its kind, such as ``training``; reports of one kind are shown together.
        name: Its name in lists.
        fingerprint: Digest of everything it depends on; the same work always has the same digest.
        started: Start time, in seconds since the epoch.
        finished: End time; None while it is running.
        params: The settings.
        metrics: Single numbers, the results.
        curves: Numbers measured step by step, by name.
        tags: Values to group and search by.
        files: Files to keep with it (figures, tables), by the path that they are shown under.
        panels: Images (PNG) by name, shown next to those of the same name in other reports.
        note: Markdown that explains the report by itself.

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
        """Refuse names that would leave the folder in which a tracking service keeps files."""
        for what, names in (("files", self.files), ("panels", self.panels)):
            for name in names:
                reason = why_unsafe_path(name)
                if reason is not None:
                    raise PluginError(
                        f"report {self.kind} {self.name!r} names {name!a:.80} among its {what}, "
                        f"which {reason}.",
                        hint="Fix the plugin: a name is a relative path such as 'figures/a.png'.",
                    )


# ---------------------------------------------------------------- requirements


@dataclasses.dataclass(frozen=True)
class RequiredStatistic:
    """A second moment that an editor reads before it edits.

    Attributes:
        path: Dotted path of the module whose inputs it averages.
        width: Length D of those inputs; the statistic is (D, D).
        corpus: Source of its texts; None if it is read from ``file``.
        tokens: Most tokens of the corpus; None: all.
        file: A published file that is read instead.
        order: Order of the texts; None: the default of the source.
        seed: Seed of a random order.
        row_tokens: Most tokens of a text; None: the default.
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
class Requirements:
    """What an editor needs besides the model's weights.

    Attributes:
        memory: Most bytes at once while it edits all requests together, without the weights and
            statistics: activations, networks of its own, and the deltas that it returns.
        statistics: The statistics that it reads.
        notes: Sentences for the user.
    """

    memory: int = 0
    statistics: tuple[RequiredStatistic, ...] = ()
    notes: tuple[str, ...] = ()
