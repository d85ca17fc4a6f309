"""The dataset ``zsre``: records in the layout that MEND gave zsRE (Mitchell et al. 2022)."""

from __future__ import annotations

from editkit import Dataset, EditRequest, Probe, Record, Records
from editkit.prompts import trimmed_prompt
from editkit.records.reading import Node, read_records, read_source
from editkit_plugins.zsre.config import ZsreConfig

_UNKNOWN = "<|endoftext|>"
"""The old answer where none is known, as in the published evaluation."""


class ZsreDataset(Dataset[ZsreConfig]):
    """Questions with the answers to write, rephrased questions, and unrelated questions."""

    def load(self) -> Records:
        """Read all records. Broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: The file or hub dataset does not exist or is not a list of records.
        """
        return read_records(read_source(self.config), self._record, config=self.config)

    def _record(self, root: Node, position: int) -> Record:
        subject = root["subject"].text().strip()
        question = root["src"].prompt()
        old = root.get("pred")
        true = _UNKNOWN if old is None else old.answer()
        new, *others = dict.fromkeys(each.answer() for each in self._answers(root))
        unrelated = trimmed_prompt(root["loc"].text()) + "?"
        kept = root["loc_ans"].answer()
        return Record(
            case_id=position,
            request=EditRequest(
                prompt=_template(root, question, subject),
                subject=subject,
                target_new=new,
                target_true=None if old is None or true == new else true,
            ),
            probes={
                "rewrite": (Probe(question, true, new),),
                "paraphrase": (Probe(root["rephrase"].prompt(), true, new),),
                "neighborhood": (Probe(unrelated, kept, new),),
            },
            aliases={new: tuple(others)} if others else {},
        )

    def _answers(self, root: Node) -> list[Node]:
        """The answer to write, and further ones that are right, too."""
        if self.config.target == "alternative":
            return [root["alt"]]
        answers = root["answers"].items()
        if not answers:
            raise root["answers"].error("is empty, expected at least one answer")
        return answers


def _template(root: Node, question: str, subject: str) -> str:
    """The question with ``{}`` for the first occurrence of its subject."""
    if subject not in question:
        raise root["subject"].error(f"{subject!a:.60} is not in src")
    if "{}" in question:
        raise root["src"].error(f"{question!a:.60} contains '{{}}', the subject's mark")
    return question.replace(subject, "{}", 1)
