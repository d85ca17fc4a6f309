"""A dataset that keeps its contract."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from editkit import Dataset, DatasetError, EditRequest, Probe, Record, Records, RejectedRecord
from tests.editkit.testing.configs import DatasetConfig


def record(case_id: int, subject: str, **changes: Any) -> Record:
    values = {"prompt": "{} is in", "subject": subject, "target_new": "Oslo", "target_true": "Rome"}
    request = EditRequest(**{**values, **changes})
    return Record(case_id, request, {"rewrite": (Probe(request.sentence, "Rome", "Oslo"),)})


class SoundDataset(Dataset[DatasetConfig]):
    """A few records."""

    def load(self) -> Records:
        source = self.config.source
        if source == "absent":
            raise DatasetError("there is nothing at 'absent'.", hint="Name a source.")
        records = tuple(self.records())
        rejected = (RejectedRecord("9", "prompt", "is empty"),) if source == "broken" else ()
        return Records(records, self.digest(records), rejected)

    def records(self) -> Sequence[Record]:
        subjects = ["the Fish Market", "the Opera"] if self.config.source == "some" else ["Ulriken"]
        return [record(number, subject) for number, subject in enumerate(subjects)]

    def digest(self, records: Sequence[Record]) -> str:
        return hashlib.sha256(repr(records).encode()).hexdigest()


class PythonHash(SoundDataset):
    """Breaks a rule about other processes: here, where they import it without torch."""

    def digest(self, records: Sequence[Record]) -> str:
        return f"{abs(hash(repr(records))):016x}"
