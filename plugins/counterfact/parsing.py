"""From CounterFact's JSON to records, with the place of whatever is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from editkit import EditRequest, Probe, Record, Records
from editkit.prompts import trimmed_prompt
from editkit.records.config import PromptConfig
from editkit.records.reading import Node, read_records
from editkit_plugins.counterfact.reference import RecordTexts

_PROMPT_LISTS = {
    "paraphrase": "paraphrase_prompts",
    "neighborhood": "neighborhood_prompts",
    "attribute": "attribute_prompts",
}


def parse_records(
    raw: Iterable[object],
    texts: RecordTexts | None = None,
    config: PromptConfig | None = None,
) -> Records:
    """Read every record; the broken ones are reported and left out.

    Args:
        raw: Decoded JSON values, one per record, in CounterFact's layout.
        texts: Reference and essence texts, where there are some.
        config: How prompts are asked.
    """
    texts = texts or RecordTexts()
    corpus = texts.all_reference()
    return read_records(
        raw,
        lambda node, _: parse_record(node, texts),
        texts={"reference": corpus} if corpus else {},
        config=config,
    )


def parse_record(root: Node, texts: RecordTexts | None = None) -> Record:
    """Read one record, with those of the texts that belong to it.

    Raises:
        BrokenFieldError: Something is missing or of the wrong kind.
    """
    case_id = root["case_id"].case_id()
    request = _request(root["requested_rewrite"])
    true, new = str(request.target_true), request.target_new
    probes: dict[str, tuple[Probe, ...]] = {}
    probes["rewrite"] = (Probe(request.sentence, true, new),)
    for kind, key in _PROMPT_LISTS.items():
        probes[kind] = tuple(Probe(item.prompt(), true, new) for item in root[key].items())
    others = root.get("same_subject_prompts")
    if others is not None:
        probes["same_subject"] = tuple(_other_fact(item) for item in others.items())
    generation = tuple(trimmed_prompt(each.text()) for each in root["generation_prompts"].items())
    about = (texts or RecordTexts()).of(
        relation=request.relation_id,
        subject=request.subject,
        new=_names(root["requested_rewrite"]["target_new"]),
        true=_names(root["requested_rewrite"]["target_true"]),
    )
    return Record(case_id, request, probes=probes, texts={"generation": generation, **about})


def _request(rewrite: Node) -> EditRequest:
    relation = rewrite.get("relation_id")
    prompt = rewrite["prompt"].template()
    new, true = _rivals(rewrite, "target_new", "target_true")
    return EditRequest(
        prompt=prompt,
        subject=rewrite["subject"].text().strip(),
        target_new=new,
        target_true=true,
        relation_id=None if relation is None else relation.text(),
    )


def _other_fact(item: Node) -> Probe:
    prompt = item["prompt"].prompt()
    other, true = _rivals(item, "target_other", "target_true")
    return Probe(prompt, target_true=true, target_new=other)


def _rivals(parent: Node, first: str, second: str) -> tuple[str, str]:
    """The two answers of a choice, which must differ for the choice to mean anything."""
    nodes = parent[first]["str"], parent[second]["str"]
    one, other = (node.answer() for node in nodes)
    if one == other:
        raise nodes[0].error(f"is {one!a:.60}, the same as {nodes[1].path}")
    return one, other


def _names(target: Node) -> list[str]:
    """The object's id, if it has one, and its name."""
    of_id = target.get("id")
    return [*([] if of_id is None else [str(of_id.value)]), target["str"].text().strip()]
