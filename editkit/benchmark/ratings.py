"""What people said about two texts that edited models wrote; kept in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from editkit.benchmark.store import Store
from editkit.results import STORE_FILE
from editkit.storage.digests import digest

__all__ = ["Answer", "Rating", "keep_rating", "ratings_in"]

Answer = Literal["left", "same", "right"]


@dataclasses.dataclass(frozen=True)
class Rating:
    """One person's answers about the texts of two editors on one prompt.

    Attributes:
        case_id: The case.
        place: Which of the case's texts, from 0.
        cells: Fingerprints of the two cells, as they were shown: left and right.
        rater: Who answered.
        answers: By question, which text is the better one.
        rated_at: Seconds since the epoch.
    """

    case_id: int
    place: int
    cells: tuple[str, str]
    rater: str
    answers: Mapping[str, Answer]
    rated_at: float

    @property
    def name(self) -> str:
        """What it is about and whose it is: a later answer takes the place of an earlier one."""
        return digest([self.case_id, self.place, sorted(self.cells), self.rater])

    def better(self, question: str) -> str | None:
        """Fingerprint of the cell whose text is better; None where neither is.

        Raises:
            KeyError: The question was not answered.
        """
        answer = self.answers[question]
        return None if answer == "same" else self.cells[answer == "right"]


def keep_rating(out: Path, rating: Rating) -> None:
    """Write a rating to the store of an output folder; it is on the disk afterwards.

    Raises:
        StoreError: The store cannot be used.
    """
    with Store(out / STORE_FILE) as store:
        store.put_rating(rating.name, dataclasses.asdict(rating))


def ratings_in(out: Path) -> list[Rating]:
    """All ratings in the store of an output folder.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    with Store(out / STORE_FILE, read_only=True) as store:
        found = store.ratings().values()
    return [Rating(**{**content, "cells": tuple(content["cells"])}) for content in found]
