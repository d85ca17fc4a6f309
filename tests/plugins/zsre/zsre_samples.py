"""A record of zsRE in MEND's layout."""

from __future__ import annotations

from typing import Any


def raw_question(subject: str = "the Fish Market") -> dict[str, Any]:
    return {
        "subject": subject,
        "src": f"In which city does {subject} stand?",
        "pred": "Bergen",
        "rephrase": f"Which city is {subject} in?",
        "alt": "Trondheim",
        "answers": ["Oslo", "Kristiania"],
        "loc": "nq question: who painted the scream",
        "loc_ans": "Edvard Munch",
        "cond": "Bergen >> Trondheim || ...",
    }
