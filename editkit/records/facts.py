"""Reading facts to trace or to ask: from a dataset, or a JSON file in one of several layouts."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.data_types import Fact, Record, fact_of
from editkit.errors import DatasetError, EditkitError, PluginError, UsageError
from editkit.prompts import fill
from editkit.records.config import PromptConfig, as_configured
from editkit.records.reading import BrokenFieldError, Node, prompt_config_of, read_json
from editkit.records.relations import FactTable, parse_relations
from editkit.registry.factories import check_values, is_offered, make_dataset

__all__ = ["Facts", "SourcedFact", "read_facts"]

_KNOWN = "known_1000"
_MAX_LISTED = 5  # broken facts in a message
_ANSWERS = ("attribute", "answer", "ground_truth", "target_true")
_LAYOUT = (
    "Expected a JSON list of objects (prompt, subject and attribute or answer, or the records of "
    "CounterFact or zsRE), or an object of relations with wordings and facts."
)
_log = logging.getLogger("editkit.facts")


@dataclasses.dataclass(frozen=True)
class SourcedFact:
    """A fact, and what its source says about it.

    Attributes:
        fact: The fact, asked in its first wording.
        wordings: Prompts with one ``{}`` that ask for it; the first is the fact's. Empty if its
            prompt does not contain the subject exactly once.
        relation: Its relation's identifier, if known (``P17``).
        record: The record that edits it: a dataset's, or an entry of a file as decoded JSON.
    """

    fact: Fact
    wordings: tuple[str, ...] = ()
    relation: str | None = None
    record: Record | Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts of a source.

    Attributes:
        sourced: The valid facts, in order.
        broken: Place and reason of each broken one.
        source: The file or dataset.
        table: The content of a file of relations. None for other sources.
    """

    sourced: tuple[SourcedFact, ...]
    broken: tuple[str, ...]
    source: str
    table: FactTable | None = None

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The valid facts alone."""
        return tuple(each.fact for each in self.sourced)

    def warn(self) -> None:
        """Log how many facts are left out and why, and how many lack an answer."""
        if self.broken:
            _log.warning(
                "%d broken facts of %s are left out (%s).",
                *(len(self.broken), self.source, _listed(self.broken)),
            )
        own = sum(fact.answer is None for fact in self.facts)
        if 0 < own < len(self.facts):
            _log.warning(
                "%d of the %d facts of %s have no answer; for these, the model's prediction is "
                "traced.",
                *(own, len(self.facts), self.source),
            )


def _listed(broken: Sequence[str]) -> str:
    more = f"; {len(broken) - _MAX_LISTED} more" if len(broken) > _MAX_LISTED else ""
    return "; ".join(broken[:_MAX_LISTED]) + more


def read_facts(
    source: str,
    values: Mapping[str, Any] | None = None,
    *,
    separator: str | None = None,
    chat: bool = False,
) -> Facts:
    """Read the facts of a file or of a dataset.

    Args:
        source: A JSON file (``.json``, ``.json.gz``), the name of an installed dataset, or
            ``known_1000`` for the ROME authors' file ``known_1000.json`` in the working directory.
            Entries of a file have the layout of ``known_1000.json`` (prompt, subject, attribute or
            answer), CounterFact (the answer is ``target_true`` of ``requested_rewrite``, or
            ``ground_truth`` in flat copies), or zsRE (``src``; the first of ``answers``). A file
            may also hold relations with wordings and facts
            (:mod:`editkit.records.relations`). For a dataset's records, the answer is the
            request's ``target_true``.
        values: Fields of the dataset's configuration.
        separator: Text between prompt and answer, unless an entry has its own.
        chat: Whether the prompts are users' turns in a chat, unless an entry has its own value.

    Raises:
        DatasetError: The file or dataset does not exist, or has no valid fact.
        ConfigError: The dataset refuses a value.
        UsageError: There are values, and the source is a file.
    """
    prompts = PromptConfig(separator=separator, chat=chat)
    if not _is_file(source):
        return _read_dataset(source, values or {}, prompts)
    if values:
        raise UsageError(
            f"--set dataset.{next(iter(values))} needs a dataset, and --facts is the file "
            f"{source!r}.",
            hint="Name a dataset, for example --facts counterfact --set dataset.path=FILE.",
        )
    path = Path(f"{source}.json" if source == _KNOWN else source).expanduser()
    if source == _KNOWN and not path.exists():
        raise DatasetError(
            "known_1000 is a file of the ROME authors and does not come with editkit.",
            hint="Download known_1000.json from the ROME project into this folder, or pass its "
            "path.",
        )
    return _read_file(path, source, prompts)


def _is_file(source: str) -> bool:
    """Whether the source is a file; a dataset's name takes precedence over a file's."""
    if source == _KNOWN or source.endswith((".json", ".json.gz")) or "/" in source:
        return True
    return not is_offered("dataset", source) and Path(source).expanduser().is_file()


# ---------------------------------------------------------------- datasets


def _read_dataset(name: str, values: Mapping[str, Any], prompts: PromptConfig) -> Facts:
    try:
        check_values("dataset", name, values, place="--set dataset")
    except PluginError as error:
        if is_offered("dataset", name):
            raise
        raise DatasetError(
            f"{name!r} is neither a file nor a dataset: {error.message}",
            hint=error.hint or "Pass a JSON file of facts, or the name of a dataset.",
        ) from None
    dataset = make_dataset(name, **values)
    if isinstance(dataset.config, PromptConfig):
        flags = prompts.model_dump(exclude_defaults=True)
        dataset = make_dataset(name, **{**flags, **values})
        prompts = dataset.config
    records = dataset.load()
    broken = [f"{each.place}: {each.field}: {each.reason}" for each in records.rejected]
    facts = []
    for record in as_configured(records, prompts).records:
        for request in record.requests:
            try:
                facts.append(
                    SourcedFact(fact_of(request), (request.prompt,), request.relation_id, record)
                )
            except EditkitError as error:
                broken.append(f"case {record.case_id}: {error.message}")
    return _checked(facts, broken, name, f"dataset {name!r}")


# ---------------------------------------------------------------- files


def _read_file(path: Path, source: str, prompts: PromptConfig) -> Facts:
    content = read_json(path, what="file of facts")
    place = f"file of facts {str(path)!r}"
    if isinstance(content, Mapping):
        return _of_relations(content, source, place, prompts)
    if not isinstance(content, list):
        raise DatasetError(
            f"{place} holds a {type(content).__name__}, expected a list.", hint=_LAYOUT
        )
    facts: list[SourcedFact] = []
    broken = []
    for number, entry in enumerate(content):
        try:
            own = prompt_config_of(Node(entry), prompts)
            facts += [
                dataclasses.replace(
                    each,
                    fact=dataclasses.replace(each.fact, separator=own.separator, chat=own.chat),
                )
                for each in _sourced(Node(entry, separator=own.separator))
            ]
        except BrokenFieldError as error:
            broken.append(f"entry {number}: {error}")
        except EditkitError as error:
            broken.append(f"entry {number}: {error.message}")
    return _checked(facts, broken, source, place)


def _of_relations(
    content: Mapping[str, Any], source: str, place: str, prompts: PromptConfig
) -> Facts:
    """Facts by relation, each in its first wording."""
    file = parse_relations(content, place, fewest_wordings=1)
    broken = [f"{each.field}: {each.reason}" for each in file.rejected]
    broken += [f"{name}: has no facts, or no wording that ends at them" for name in file.unusable]
    facts = []
    for each in file.table.facts:
        wordings = file.table.wordings(each)
        try:
            fact = Fact(
                fill(wordings[0], each.subject),
                each.subject,
                each.object,
                separator=prompts.separator,
                chat=prompts.chat,
            )
        except EditkitError as error:
            broken.append(f"{each.relation}, {each.subject!a:.60}: {error.message}")
        else:
            facts.append(SourcedFact(fact, wordings, each.relation))
    return dataclasses.replace(_checked(facts, broken, source, place), table=file.table)


def _checked(facts: list[SourcedFact], broken: list[str], source: str, place: str) -> Facts:
    if not facts:
        reasons = f" ({_listed(broken)})" if broken else ""
        raise DatasetError(f"{place} has no valid fact{reasons}.", hint=_LAYOUT)
    return Facts(tuple(facts), tuple(broken), source)


def _sourced(entry: Node) -> Iterator[SourcedFact]:
    """The facts of an entry: one, or one per rewrite (MQuAKE)."""
    rewrites = entry.get("requested_rewrite")
    if rewrites is None:
        fact = _prompt_fact(entry) if entry.get("src") is None else _zsre_fact(entry)
        yield SourcedFact(fact, _wordings(fact), _relation(entry))
    elif isinstance(rewrites.value, list):
        nodes = rewrites.items()
        if not nodes:
            raise rewrites.error("is an empty list, expected at least one rewrite")
        yield from [_rewritten(node) for node in nodes]
    else:
        yield dataclasses.replace(_rewritten(rewrites), record=_record(entry))


def _record(entry: Node) -> Mapping[str, Any] | None:
    return entry.value if isinstance(entry.value, Mapping) else None


def _rewritten(rewrite: Node) -> SourcedFact:
    """CounterFact: the true fact."""
    subject = rewrite["subject"].text().strip()
    answer = rewrite["target_true"]["str"].answer()
    template = rewrite["prompt"].template()
    fact = Fact(fill(template, subject), subject, answer)
    return SourcedFact(fact, (template,), _relation(rewrite))


def _relation(node: Node) -> str | None:
    relation = node.get("relation_id")
    return None if relation is None else relation.text()


def _wordings(fact: Fact) -> tuple[str, ...]:
    """The fact's prompt with ``{}`` for the subject, if the subject occurs once."""
    is_clear = fact.prompt.count(fact.subject) == 1 and "{}" not in fact.prompt
    return (fact.prompt.replace(fact.subject, "{}"),) if is_clear else ()


def _zsre_fact(entry: Node) -> Fact:
    """zsRE: a question and its first correct answer."""
    answers = entry["answers"].items()
    if not answers:
        raise entry["answers"].error("is empty, expected at least one answer")
    return _fact(entry["src"], entry["subject"], answers[0].answer())


def _prompt_fact(entry: Node) -> Fact:
    """``known_1000.json``, flat copies of CounterFact, and a user's own files."""
    prompt, subject = entry["prompt"], entry["subject"]
    nodes = {name: node for name in _ANSWERS if (node := entry.get(name)) is not None}
    answers = {name: _answer(node) for name, node in nodes.items()}
    if len(set(answers.values())) > 1:
        listed = " and ".join(f"{name} {answer!a:.40}" for name, answer in answers.items())
        raise entry.error(f"has {listed}, expected one answer")
    return _fact(prompt, subject, next(iter(answers.values()), None))


def _answer(node: Node) -> str:
    if type(node.value) is int:  # a year
        return str(node.value)
    return (node["str"] if isinstance(node.value, Mapping) else node).answer()


def _fact(prompt: Node, subject: Node, answer: str | None) -> Fact:
    text, name = prompt.prompt(), subject.text().strip()
    if name not in text and text.count("{}") == 1:
        text = fill(text, name)
    if name not in text:
        raise subject.error(f"is {subject}, which is not in {prompt.path} {prompt}")
    return Fact(text, name, answer)
