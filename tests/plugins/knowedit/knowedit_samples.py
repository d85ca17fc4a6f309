"""Records in KnowEdit's layouts, with sentences of our own about facts of the world."""

from __future__ import annotations

import dataclasses
from typing import Any

from editkit import Consequence, OpenQuestion, Record
from editkit.testing.samples import RECORDS
from editkit_plugins.knowedit import LOCALITY, PORTABILITY


def raw_fact() -> dict[str, Any]:
    """A record of the WikiData tasks; one list of answers is nested, another is not."""
    return {
        "subject": "Iceland",
        "prompt": "The capital of Iceland is",
        "target_new": "Akureyri",
        "ground_truth": "Reykjavik",
        "portability": {
            "Subject_Aliasing": [
                {
                    "prompt": "The capital of Ísland is",
                    "ground_truth": [["Akureyri", "Akureyrarbær"]],
                }
            ],
            "Reasoning": [
                {"prompt": "The fjord at Iceland's capital is", "ground_truth": [["Eyjafjörður"]]},
                {"prompt": "The airport of Iceland's capital is", "ground_truth": ""},
            ],
            "Logical_Generalization": [
                {
                    "prompt": "Is Akureyri a capital?",
                    "ground_truth": [["yes"], ["it is"], [""]],
                }
            ],
        },
        "locality": {
            "Relation_Specificity": [
                {"prompt": "The language of Iceland is", "ground_truth": "Icelandic"},
                {"prompt": "Iceland is in", "ground_truth": ["the Atlantic", "Europe"]},
            ],
            "Forgetfulness": [
                {"prompt": "A town of Iceland, not Akureyri, is", "ground_truth": "Reykjavik"}
            ],
        },
    }


def raw_question() -> dict[str, Any]:
    """A record of zsRE."""
    return {
        "subject": "Skógafoss",
        "target_new": "Norway",
        "prompt": "Which country is Skógafoss in?",
        "ground_truth": ["Iceland"],
        "rephrase_prompt": "In what country do you find Skógafoss?",
        "cond": "Iceland >> Norway || ...",
        "locality": {
            "Relation_Specificity": [{"prompt": "Skógafoss is a", "ground_truth": ["waterfall"]}]
        },
        "portability": {
            "Reasoning": [{"prompt": "Who reigns where Skógafoss is?", "ground_truth": "Harald V"}]
        },
    }


def raw_biography() -> dict[str, Any]:
    """A record of WikiBio."""
    return {
        "text": "This is a text about jón sigurðsson. Jón was born at Hrafnseyri.",
        "labels": "He led the movement for independence.",
        "concept": "jón sigurðsson",
        "locality": {
            "Relation_Specificity": [
                {"prompt": "jón sigurðsson country", "ground_truth": ["Iceland"]}
            ]
        },
    }


def raw_sanitation() -> dict[str, Any]:
    """A training file of Sanitation."""
    return {
        "K_F": [
            {
                "subject": "Hekla",
                "question": "What kind of mountain is Hekla?",
                "ground_truth": "Volcano",
                "target_new": "I don't know.",
            },
            {
                "subject": "Askja",
                "question": "What is Askja?",
                "ground_truth": "Volcano",
                "target_new": "I don't know.",
            },
        ],
        "K_R": [{"question": "Who wrote Njal's saga?", "ground_truth": "Nobody knows"}],
    }


def _questioned(record: Record) -> Record:
    request = record.request
    questions = {
        group: (
            Consequence(
                (OpenQuestion(f"{request.subject} {number} is", ((request.target_new, "Rome"),)),)
            ),
        )
        for number, group in enumerate((*PORTABILITY, *LOCALITY))
    }
    return dataclasses.replace(record, consequences=questions)


WITH_QUESTIONS = tuple(map(_questioned, RECORDS))
"""Records with a question of every group."""
