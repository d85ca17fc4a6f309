"""What is asked about two texts (after the human evaluation of Meng et al. 2022)."""

from __future__ import annotations

QUESTIONS = {
    "consistent": "Which text agrees better with the statement?",
    "fluent": "Which text reads more fluently, whatever it says?",
}
"""Wording by the name under which answers are kept."""

ANSWERS = {"left": "A", "same": "about the same", "right": "B"}
"""Label by the answer's name."""
