"""A record in CounterFact's layout, with the extra key for the subject's other facts."""

from __future__ import annotations

from typing import Any


def raw_record(case_id: int = 7) -> dict[str, Any]:
    return {
        "case_id": case_id,
        "pararel_idx": 3,
        "requested_rewrite": {
            "prompt": "{} stands in",
            "relation_id": "P131",
            "target_new": {"str": "Oslo", "id": "Q585"},
            "target_true": {"str": "Bergen", "id": "Q26793"},
            "subject": "the Fish Market",
        },
        "paraphrase_prompts": ["You find the Fish Market in", "A walk.\n\nThe Fish Market is in"],
        "neighborhood_prompts": ["The Fløibanen runs in"],
        "attribute_prompts": ["The Munch Museum stands in"],
        "generation_prompts": ["Around the Fish Market you can"],
        "same_subject_prompts": [
            {
                "prompt": "the Fish Market opened in the year",
                "relation_id": "P571",
                "target_true": {"str": "1276"},
                "target_other": {"str": "1900"},
            }
        ],
        "consequences": {
            "compositionality_1": [
                {
                    "questions": [
                        {"prompt": "the Fish Market is in the county of", "answers": [["Oslo"]]},
                        {"prompt": "The county is", "answers": [["Oslo", "Oslo County"]]},
                    ],
                    "needs": "all",
                    "conditions": [{"prompt": "Oslo's county is", "answers": [["Oslo"]]}],
                }
            ],
            "relation_specificity": [
                {"questions": [{"prompt": "The market opened in", "answers": [["1276"]]}]}
            ],
        },
        "aliases": {"Oslo": ["Christiania"]},
    }
