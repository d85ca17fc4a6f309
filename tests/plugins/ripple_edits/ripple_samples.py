"""Examples in RippleEdits' layout, with sentences of our own about facts of the world."""

from __future__ import annotations

import dataclasses
from typing import Any

from editkit import Consequence, OpenQuestion, Record
from editkit.testing.samples import RECORDS
from editkit_plugins.ripple_edits import CRITERIA

NORWAY, OSLO, BERGEN, EUROPE = "Q20", "Q585", "Q26793", "Q46"


def raw_query(
    prompt: str, *answers: list[str], about: str = NORWAY, relation: str = "", **more: Any
) -> dict[str, Any]:
    """A query; each answer is a list of spellings, the first of which is its value."""
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": aliases} for value, *aliases in answers],
        "query_type": "regular",
        "subject_id": about,
        "relation": relation,
        "target_ids": [f"answer {number}" for number in range(len(answers))],
        "phrase": None,
        **more,
    }


def raw_test(
    *queries: dict[str, Any], before: tuple[dict[str, Any], ...] = (), needs: str = "OR"
) -> dict[str, Any]:
    return {
        "test_queries": list(queries),
        "test_condition": needs,
        "condition_queries": list(before),
    }


def raw_example() -> dict[str, Any]:
    """Norway's capital becomes Bergen; every criterion has a test."""
    capital = "The name of the capital city of Norway is"
    continent = raw_query(
        "The name of the continent which Norway is part of is",
        ["Europe", "European continent"],
        relation="CONTINENT",
    )
    in_kingdom = raw_query(
        "The name of the capital city of the Kingdom of Norway is",
        ["Bergen", "Bjørgvin"],
        relation="CAPITAL",
        target_ids=[BERGEN],
        phrase="The name of the capital city of the Kingdom of Norway is",
    )
    mayor = raw_query(
        "The name of the head of government of the capital city of Norway is",
        ["Marit Warncke"],
        query_type="two_hop",
        second_relation="HEAD_OF_GOVERNMENT",
        second_hop_target_ids=["Q11986742"],
        phrase="The name of the head of government of the capital city of Norway is",
    )
    knows_mayor = raw_query("The name of the head of government of Bergen is", ["Marit Warncke"])
    anthem = raw_query(
        "The name of the capital city of the country with the anthem Ja, vi elsker is",
        ["Bergen", "Bjørgvin"],
        query_type="two_hop",
        target_ids=[NORWAY],
        second_hop_target_ids=[BERGEN],
        phrase="The name of the capital city of the country with the anthem Ja, vi elsker is",
    )
    inverse = raw_query(
        "The name of the country which Bergen is the capital of is",
        ["Norway", "Norge"],
        about=BERGEN,
    )
    other = raw_query(f"{capital} not Bergen, but", ["Oslo"])
    return {
        "example_type": "popular",
        "edit": {
            "prompt": f"{capital} Bergen.",
            "subject_id": NORWAY,
            "relation": "CAPITAL",
            "target_id": BERGEN,
            "original_fact": {
                "prompt": f"{capital} Oslo.",
                "subject_id": NORWAY,
                "relation": "CAPITAL",
                "target_id": OSLO,
            },
        },
        "Relation_Specificity": [raw_test(continent, before=(continent,))],
        "Logical_Generalization": [raw_test(inverse, inverse, needs="AND")],
        "Subject_Aliasing": [raw_test(in_kingdom)],
        "Compositionality_I": [raw_test(mayor, before=(knows_mayor,))],
        "Compositionality_II": [raw_test(anthem)],
        "Forgetfulness": [raw_test(other, before=(raw_query(capital, ["Oslo"]),))],
    }


def _recalls(record: Record) -> Consequence:
    """A test that every text passes, since its prompt holds the answer."""
    request = record.request
    return Consequence((OpenQuestion(request.sentence, ((request.subject,),)),))


WITH_CRITERIA = tuple(
    dataclasses.replace(record, consequences=dict.fromkeys(CRITERIA, (_recalls(record),)))
    for record in RECORDS
)
"""Records with a test of every criterion."""
