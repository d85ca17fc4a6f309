"""What the user chooses: the rule, how many facts to keep, and the layouts to write."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

Rule = Literal["predicted", "first-named"]
RULES: tuple[Rule, ...] = get_args(Rule)

Layout = Literal["prompts", "relations", "counterfact"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which facts count as known, and how many to keep.

    Attributes:
        rule: Name of the rule.
        tokens: Length of the greedy text, for ``first-named``.
        min_probability: Least probability of the object after the prompt.
        wordings: Number of wordings to ask a fact in; it is known if one of them recalls it.
        records: Most facts to keep, drawn at random. None: all.
        per_relation: Most facts of a relation to keep, drawn at random. None: all.
        seed: Seed of the draws.
        batch: Facts per forward pass.
    """

    rule: Rule = "predicted"
    tokens: int = 10
    min_probability: float = 0.0
    wordings: int = 1
    records: int | None = None
    per_relation: int | None = None
    seed: int = 0
    batch: int = 32
