"""The dataset ``atlas-zsre``: the embedded world with zsRE's probes."""

from __future__ import annotations

import dataclasses
import random

from editkit import Dataset, Record, Records
from editkit.records.digests import digest_of_records
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset


class AtlasZsreDataset(Dataset[AtlasConfig]):
    """The edits of ``atlas`` with zsRE's probes: the edit, paraphrases, and an unrelated fact.

    The unrelated fact is that of another record, with another subject, relation and object. Prompts
    are sentences, not questions, because the world's model was trained on sentences only.
    """

    def load(self) -> Records:
        """All records of the split."""
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
