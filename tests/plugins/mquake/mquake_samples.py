"""Records in MQuAKE's layout, with facts and sentences of our own."""

from __future__ import annotations

import dataclasses
from typing import Any

from editkit import Consequence, OpenQuestion, Record
from editkit.testing.samples import RECORDS


def raw_edit(subject: str, prompt: str, question: str, new: str, true: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "relation_id": "P1",
        "target_new": {"str": new, "id": "Q1"},
        "target_true": {"str": true, "id": "Q2"},
        "subject": subject,
        "question": question,
    }


def raw_hop(question: str, cloze: str, answer: str, *aliases: str) -> dict[str, Any]:
    return {"question": question, "cloze": cloze, "answer": answer, "answer_alias": [*aliases]}


def raw_instance(case_id: int = 5) -> dict[str, Any]:
    """The opera of Oslo moves to Bergen, and Bergen gets another mayor; Bergen stays in Norway."""
    where, mayor = "Where is Den Norske Opera?", "Who is the mayor of Bergen?"
    return {
        "case_id": case_id,
        "requested_rewrite": [
            raw_edit("Den Norske Opera", "{} stands in", where, "Bergen", "Oslo"),
            raw_edit("Bergen", "The mayor of {} is", mayor, "Ada Lovelace", "Marit Warncke"),
        ],
        "questions": [
            "Who is the mayor of the city where Den Norske Opera stands?",
            "The city of Den Norske Opera has which mayor?",
        ],
        "answer": "Anne Lindboe",
        "answer_alias": ["A. Lindboe"],
        "new_answer": "Ada Lovelace",
        "new_answer_alias": ["Ada King", "Countess of Lovelace"],
        "single_hops": [
            raw_hop(where, "Den Norske Opera stands in", "Oslo", "Christiania"),
            raw_hop("Who is the mayor of Oslo?", "The mayor of Oslo is", "Anne Lindboe"),
        ],
        "new_single_hops": [
            raw_hop(where, "Den Norske Opera stands in", "Bergen", "Bjørgvin"),
            raw_hop("Where is Bergen?", "Bergen is in", "Norway", "Norge"),
            raw_hop(mayor, "The mayor of Bergen is", "Ada Lovelace", "Ada King"),
        ],
        "orig": {"triples": [["Q1", "P1", "Q2"]], "edit_triples": [["Q1", "P1", "Q3"]]},
    }


def _with_questions(record: Record) -> Record:
    """The record with multi-hop questions, their old answers, and hops."""

    def asked(*prompts: str, answer: str) -> Consequence:
        return Consequence(tuple(OpenQuestion(prompt, ((answer,),)) for prompt in prompts))

    request = record.request
    questions = (f"In which land is {request.subject}?", "And then?")
    return dataclasses.replace(
        record,
        consequences={
            "multi_hop": (asked(*questions, answer=request.target_new),),
            "old_answer": (asked(*questions, answer=str(request.target_true)),),
            "single_hops": (
                asked(request.sentence, answer=request.target_new),
                asked(f"What about {request.subject}?", answer="the field"),
            ),
            "original_hops": (asked("Where is Rome?", answer="Italy"),),
        },
    )


WITH_CHAINS = tuple(map(_with_questions, RECORDS))
