"""The dataset ``knowedit``: records in the layouts of KnowEdit (Zhang et al. 2024).

``docs/datasets.md`` shows the layouts. ConvSent is refused: it edits how a model feels about a
topic, not a fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from editkit import (
    Consequence,
    Dataset,
    DatasetError,
    EditRequest,
    OpenQuestion,
    Probe,
    Record,
    Records,
)
from editkit.records.reading import Node, read_hub_file, read_json, read_records
from editkit_plugins.knowedit.config import FILES, KnowEditConfig

_GROUPS = {
    "portability": {
        "Subject_Aliasing": "aliases",
        "Reasoning": "multi_hop",
        "Logical_Generalization": "logical_generalization",
    },
    "locality": {
        "Relation_Specificity": "relation_specificity",
        "Forgetfulness": "forgetfulness",
    },
}
"""Key of the record -> key of the list -> group of consequences."""

_UNKNOWN = "<|endoftext|>"
"""The old answer where none is known, as in the dataset ``zsre``."""

_QUESTION = "Question:{}\nAnswer:"
"""How the published code asks Sanitation's questions."""


class KnowEditDataset(Dataset[KnowEditConfig]):
    """Edits with rephrased prompts, and questions about portability and locality."""

    def load(self) -> Records:
        """Read all records. Broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: The source does not exist, is not in one of the layouts, or is ConvSent.
        """
        place, content = self._content()
        if isinstance(content, Mapping):
            return self._sanitation(content, place)
        if not isinstance(content, list) or not content:
            raise DatasetError(
                f"{place} holds {Node(content)}, expected a list of records.",
                hint="'editkit explain datasets' shows the layouts of KnowEdit's files.",
            )
        if all(isinstance(value, Mapping) and "ent" in value for value in content):
            raise DatasetError(
                f"{place} has ConvSent's layout (ent, pos, neg), which is not supported: it edits "
                "the sentiment of what a model writes about a topic, not a fact.",
                hint="Use one of the tasks wiki_recent, wiki_counterfact, zsre, wikibio and "
                "sanitation.",
            )
        return read_records(content, parse_record, config=self.config)

    def _content(self) -> tuple[str, object]:
        config = self.config
        if config.path is None:
            name = f"benchmark/{FILES[str(config.task), config.split]}"
            content = read_hub_file(str(config.hub), name, revision=config.revision)
            return f"{name} of the hub dataset {config.hub!r}", content
        path = config.path.expanduser()
        if path.is_dir():
            path = self._file_in(path)
        return f"dataset file {str(path)!r}", read_json(path)

    def _file_in(self, folder: Path) -> Path:
        if self.config.task is None:
            raise DatasetError(
                f"path {str(folder)!r} is a folder, expected a file or a task.",
                hint="Add task: wiki_recent, wiki_counterfact, zsre, wikibio or sanitation.",
            )
        return folder / FILES[self.config.task, self.config.split]

    def _sanitation(self, content: Mapping[str, object], place: str) -> Records:
        if "success" in content:
            raise DatasetError(
                f"{place} is the test part of Sanitation, which has no edits: its questions test "
                "what other questions, in the training part, made a model forget.",
                hint="Read trivia_qa_train.json (split: train).",
            )
        edits, kept = content.get("K_F"), content.get("K_R", [])
        if not isinstance(edits, list) or not edits or not isinstance(kept, list):
            raise DatasetError(
                f"{place} is a JSON object without lists 'K_F' and 'K_R', expected a list of "
                "records, or Sanitation's layout.",
                hint="'editkit explain datasets' shows the layouts of KnowEdit's files.",
            )
        return read_records(
            edits,
            lambda root, position: _forgetting(root, position, kept),
            config=self.config,
        )


def parse_record(root: Node, position: int) -> Record:
    """Parse one record of WikiData, zsRE or WikiBio.

    Raises:
        BrokenFieldError: A field is missing or of the wrong type, or the subject is not in the
            prompt.
    """
    is_text = root.get("prompt") is None and root.get("text") is not None
    keys = ("text", "concept", "labels") if is_text else ("prompt", "subject", "target_new")
    prompt, subject, target = (root[key] for key in keys)
    old = root.get("ground_truth")
    request = _request(prompt, subject, _first(target), None if old is None else _first(old))
    rephrase = root.get("rephrase_prompt")
    rephrase = root.get("rephrase") if rephrase is None else rephrase
    paraphrases = () if rephrase is None else (_first(rephrase).prompt(),)
    consequences: dict[str, tuple[Consequence, ...]] = {}
    for key, groups in _GROUPS.items():
        if (node := root.get(key)) is None:
            continue
        for name, group in groups.items():
            tests = _questions(node.get(name))
            if tests:
                consequences[group] = tests
    return _record(position, request, paraphrases, consequences)


def _record(
    position: int,
    request: EditRequest,
    paraphrases: Sequence[str],
    consequences: Mapping[str, tuple[Consequence, ...]],
) -> Record:
    true, new = request.target_true or _UNKNOWN, request.target_new
    probes: dict[str, tuple[Probe, ...]] = {
        "rewrite": (Probe(request.sentence, true, new),),
    }
    if paraphrases:
        probes["paraphrase"] = tuple(Probe(prompt, true, new) for prompt in paraphrases)
    return Record(
        position,
        request,
        probes=probes,
        texts={"generation": (request.sentence,)},
        consequences=consequences,
    )


def _request(prompt: Node, subject: Node, target: Node, old: Node | None) -> EditRequest:
    sentence, name = prompt.prompt(), subject.text().strip()
    if "{}" in sentence:
        raise prompt.error(f"{sentence!a:.60} contains '{{}}', the subject's mark")
    if name not in sentence:
        raise subject.error(f"{name!a:.60} is not in {prompt.path}")
    new = target.answer()
    true = None if old is None or _is_blank(old) else old.answer()
    return EditRequest(
        prompt=sentence.replace(name, "{}", 1),
        subject=name,
        target_new=new,
        target_true=None if true == new else true,
    )


def _forgetting(root: Node, position: int, kept: Sequence[object]) -> Record:
    """A question of Sanitation that the model should no longer answer.

    One retained question, the one at the same position, tests locality.
    """
    question = Node(
        _QUESTION.replace("{}", root["question"].text().strip()),
        "question",
        separator=root.separator,
    )
    request = _request(question, root["subject"], root["target_new"], _first(root["ground_truth"]))
    consequences = {}
    if kept:
        number = position % len(kept)
        other = Node(kept[number], f"K_R[{number}]", separator=root.separator)
        prompt = _QUESTION.replace("{}", other["question"].text().strip())
        answer = _first(other["ground_truth"]).answer()
        test = Consequence((OpenQuestion(prompt, ((answer,),)),))
        consequences["relation_specificity"] = (test,)
    return _record(position, request, (), consequences)


def _questions(listed: Node | None) -> tuple[Consequence, ...]:
    """The questions of a list; those with a blank answer are left out, as in the published code."""
    tests = []
    for item in listed.items() if listed is not None else ():
        prompt = _first(item["prompt"]).prompt()
        spellings = _spellings(item["ground_truth"])
        if spellings:
            tests.append(Consequence((OpenQuestion(prompt, (spellings,)),)))
    return tuple(tests)


def _spellings(answers: Node) -> tuple[str, ...]:
    """All answers in a text, or in nested lists of texts; none if the first is blank."""
    flat = _flat(answers)
    if not flat:
        raise answers.error("is empty, expected at least one answer")
    if _is_blank(flat[0]):
        return ()
    return tuple(dict.fromkeys(node.answer() for node in flat if not _is_blank(node)))


def _flat(node: Node) -> list[Node]:
    if not isinstance(node.value, list):
        return [node]
    return [each for item in node.items() for each in _flat(item)]


def _first(node: Node) -> Node:
    """The first text in nested lists, as in the published code."""
    flat = _flat(node)
    if not flat:
        raise node.error("is empty, expected at least one text")
    return flat[0]


def _is_blank(node: Node) -> bool:
    return isinstance(node.value, str) and not node.value.strip()
