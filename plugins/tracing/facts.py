"""Facts to be traced: from a file in one of several layouts, or from a dataset."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from editkit import DatasetError, EditkitError, Fact, PluginError, UsageError, make_dataset
from editkit.data_types import fact_of
from editkit.prompts import fill
from editkit.records.files import BrokenFieldError, Node, as_configured, own_prompts, read_json
from editkit.records.prompts import PromptConfig
from editkit.registry.factories import check_values, is_offered

_KNOWN = "known_1000"
_SHOWN = 5  # broken facts in a message
_ANSWERS = ("attribute", "answer", "ground_truth", "target_true")
_LAYOUT = (
    "Expected a JSON list of objects: prompt, subject and attribute (or answer), or the records "
    "of CounterFact or zsRE."
)
_log = logging.getLogger("editkit.trace")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What was read.

    Attributes:
        facts: The facts that can be used, in their order.
        broken: Where and why the others cannot.
        source: Where they are from.
    """

    facts: tuple[Fact, ...]
    broken: tuple[str, ...]
    source: str

    def warn(self) -> None:
        """Log how many facts are left out and why, and whose answers are the model's own."""
        if self.broken:
            _log.warning("%d broken facts of %s are left out (%s).", *self._counted())
        own = sum(fact.answer is None for fact in self.facts)
        if 0 < own < len(self.facts):
            _log.warning(
                "%d of the %d facts of %s name no answer: there, whatever the model predicts is "
                "traced.",
                own,
                len(self.facts),
                self.source,
            )

    def _counted(self) -> tuple[int, str, str]:
        return len(self.broken), self.source, _first(self.broken)


def _first(broken: tuple[str, ...]) -> str:
    more = f"; {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return "; ".join(broken[:_SHOWN]) + more


def facts_of(
    source: str,
    values: Mapping[str, Any] | None = None,
    *,
    separator: str | None = None,
    chat: bool = False,
) -> Facts:
    """The facts of a file or of a dataset.

    Args:
        source: A JSON file (``.json``, ``.json.gz``), the name of an installed dataset, or
            ``known_1000``: that file of the ROME authors, in the working directory. An entry of a
            file is laid out as in ROME's ``known_1000.json`` (prompt, subject, attribute or
            answer; without one the model's own is traced), as in CounterFact (``target_true`` of
            ``requested_rewrite`` is the answer; flat copies name it ``ground_truth``), or as in
            zsRE (``src``, and the first of ``answers``). Of a dataset's records, the answer is the
            one that their requests replace (``target_true``).
        values: Values of the dataset's configuration.
        separator: What stands between prompt and answer where an entry does not name it.
        chat: Whether the prompts are users' turns in a chat, where an entry does not name it.

    Raises:
        DatasetError: There is no such file or dataset, or nothing in it can be used.
        ConfigError: A value does not fit the dataset.
        UsageError: There are values, and the source is a file.
    """
    how = PromptConfig(separator=separator, chat=chat)
    if not _is_file(source):
        return _of_dataset(source, values or {}, how)
    if values:
        raise UsageError(
            f"--set dataset.{next(iter(values))} is given, and the facts are from the file "
            f"{source!r}, which takes no values.",
            hint="Name a dataset, for example --facts counterfact --set dataset.path=FILE.",
        )
    path = Path(f"{source}.json" if source == _KNOWN else source).expanduser()
    if source == _KNOWN and not path.exists():
        raise DatasetError(
            "known_1000 is a file of the ROME authors that does not come with editkit.",
            hint="Download known_1000.json from the ROME project into this folder, or give its "
            "path.",
        )
    return _of_file(path, source, how)


def _is_file(source: str) -> bool:
    """Whether a file is meant; a name that a dataset has is the dataset's."""
    if source == _KNOWN or source.endswith((".json", ".json.gz")) or "/" in source:
        return True
    return not is_offered("dataset", source) and Path(source).expanduser().is_file()


# ---------------------------------------------------------------- datasets


def _of_dataset(name: str, values: Mapping[str, Any], how: PromptConfig) -> Facts:
    try:
        check_values("dataset", name, values, place="--set dataset")
    except PluginError as error:
        if is_offered("dataset", name):
            raise
        raise DatasetError(
            f"{name!r} is neither a file nor a dataset: {error.message}",
            hint=error.hint or "Give a JSON file of facts, or the name of a dataset.",
        ) from None
    dataset = make_dataset(name, **values)
    if isinstance(dataset.config, PromptConfig):
        given = how.model_dump(exclude_defaults=True)
        dataset = make_dataset(name, **{**given, **values})
        how = dataset.config
    records = dataset.load()
    broken = [f"record {each.case_id}: {each.field}: {each.reason}" for each in records.rejected]
    facts = []
    for record in as_configured(records, how).records:
        try:
            facts.append(fact_of(record.request))
        except EditkitError as error:
            broken.append(f"record {record.case_id}: {error.message}")
    return _usable(facts, broken, name, f"dataset {name!r}")


# ---------------------------------------------------------------- files


def _of_file(path: Path, source: str, config: PromptConfig) -> Facts:
    content = read_json(path, what="file of facts")
    if not isinstance(content, list):
        kind = "an object" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DatasetError(
            f"file of facts {str(path)!r} holds {kind}, expected a list.", hint=_LAYOUT
        )
    facts: list[Fact] = []
    broken = []
    for number, entry in enumerate(content):
        try:
            how = own_prompts(Node(entry), config)
            root = Node(entry, separator=how.separator)
            facts += [
                dataclasses.replace(fact, separator=how.separator, chat=how.chat)
                for fact in _facts(root)
            ]
        except BrokenFieldError as error:
            broken.append(f"entry {number}: {error}")
        except EditkitError as error:
            broken.append(f"entry {number}: {error.message}")
    return _usable(facts, broken, source, f"file of facts {str(path)!r}")


def _usable(facts: list[Fact], broken: list[str], source: str, what: str) -> Facts:
    if not facts:
        reason = f" ({_first(tuple(broken))})" if broken else ""
        raise DatasetError(f"{what} has no usable fact{reason}.", hint=_LAYOUT)
    return Facts(tuple(facts), tuple(broken), source)


def _facts(entry: Node) -> Iterator[Fact]:
    """The facts of one entry: one, except for records with several rewrites (MQuAKE)."""
    rewrites = entry.get("requested_rewrite")
    if rewrites is not None:
        several = rewrites.items() if isinstance(rewrites.value, list) else [rewrites]
        if not several:
            raise rewrites.error("is an empty list, expected at least one rewrite")
        yield from [_of_rewrite(each) for each in several]
    elif entry.get("src") is not None:
        yield _of_question(entry)
    else:
        yield _of_prompt(entry)


def _of_rewrite(rewrite: Node) -> Fact:
    """CounterFact: the fact as the world has it."""
    subject = rewrite["subject"].text().strip()
    answer = rewrite["target_true"]["str"].answer()
    return Fact(fill(rewrite["prompt"].template(), subject), subject, answer)


def _of_question(entry: Node) -> Fact:
    """zsRE: a question and the first of its correct answers."""
    answers = entry["answers"].items()
    if not answers:
        raise entry["answers"].error("is empty, expected at least one answer")
    return _fact(entry["src"], entry["subject"], answers[0].answer())


def _of_prompt(entry: Node) -> Fact:
    """``known_1000.json``, flat copies of CounterFact, and files of one's own."""
    prompt, subject = entry["prompt"], entry["subject"]
    found = {name: answer for name in _ANSWERS if (answer := entry.get(name)) is not None}
    answers = {name: _answer(node) for name, node in found.items()}
    if len(set(answers.values())) > 1:
        given = " and ".join(f"{name} {answer!a:.40}" for name, answer in answers.items())
        raise entry.error(f"has {given}, expected one answer")
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
