"""The embedded world asked as zsRE asks: the edit, other wordings, and facts unrelated to it."""

from __future__ import annotations

import dataclasses
import random

from editkit import Dataset, Record, Records
from editkit.records.digests import digest_of_records
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset


class AtlasZsreDataset(Dataset[AtlasConfig]):
    """The edits of ``atlas``, with what zsRE asks about them.

    zsRE's unrelated question is here the fact of another record: another subject, relation and
    object. The world's model was taught sentences and no questions, so prompts are sentences.
    """

    def load(self) -> Records:
        """All records of the split; none of them is broken."""
        atlas = AtlasDataset(self.config).load().records
        records = tuple(self._record(record, atlas) for record in atlas)
        return Records(records, digest_of_records(records))

    def _record(self, record: Record, others: tuple[Record, ...]) -> Record:
        rng = random.Random(f"atlas-zsre-{record.case_id}")
        other = rng.choice(others)
        while not _unrelated(record, other):
            other = rng.choice(others)
        [fact] = other.probes["rewrite"]
        kept = dataclasses.replace(fact, target_new=record.request.target_new)
        probes = {kind: record.probes[kind] for kind in ("rewrite", "paraphrase")}
        return Record(record.case_id, record.request, {**probes, "neighborhood": (kept,)})


def _unrelated(record: Record, other: Record) -> bool:
    mine, theirs = record.request, other.request
    return (
        mine.subject != theirs.subject
        and mine.relation_id != theirs.relation_id
        and theirs.target_true not in (mine.target_true, mine.target_new)
    )
