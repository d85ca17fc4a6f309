"""Records with tests of every group, for the tiny models and for the contract suite."""

from __future__ import annotations

import dataclasses

from editkit import Consequence, OpenQuestion, Record
from editkit.consequences import GROUPS
from editkit.testing.samples import RECORDS

__all__ = ["WITH_TESTS"]


def _with_tests(record: Record, place: int) -> Record:
    """A record with one test a group; its answers are those of no model."""
    subject = record.request.subject
    tests = {
        group: (
            Consequence(
                tuple(
                    OpenQuestion(f"{subject} {end}", (("Rome", "Italy"),))
                    for end in ("is near", "works in the field of")[: 1 + (place + number) % 2]
                ),
                "any" if number % 2 else "all",
            ),
        )
        for number, group in enumerate(GROUPS)
    }
    return dataclasses.replace(record, consequences=tests)


WITH_TESTS = tuple(_with_tests(record, place) for place, record in enumerate(RECORDS))
