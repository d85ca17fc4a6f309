"""Reading a dataset for a run, and digests of what was read."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from editkit.data_types import EditRequest, Record, Records, RejectedRecord, without_defaults
from editkit.errors import ConfigError, DatasetError, EditkitError
from editkit.interfaces import Dataset
from editkit.records.files import as_configured
from editkit.registry.plugins import Offer
from editkit.storage.digests import digest, digest_of_texts, plain

_MOST_REASONS = 3
_LONGEST_REASON = 160


def load_records(dataset: Dataset[Any], offer: Offer) -> Records:
    """The dataset's content.

    Raises:
        DatasetError: It cannot be read, has no usable record, or gives a case id twice.
    """
    try:
        loaded = dataset.load()
    except EditkitError:
        raise
    except Exception as error:
        raise DatasetError(
            f"dataset {offer.name!r} of {offer.source} failed: {type(error).__name__}: {error}.",
            hint="Run again with --debug to see where.",
        ) from error
    if problem := _no_records(loaded):
        raise DatasetError(
            f"dataset {offer.name!r} of {offer.source} loaded {problem}.",
            hint=f"'editkit check-plugin {offer.name}' says what else a dataset must do.",
        )
    loaded = as_configured(loaded, getattr(dataset, "config", None))
    if not loaded.records:
        raise DatasetError(
            f"dataset {offer.name!r} has no usable record ({len(loaded.rejected)} were rejected)"
            f"{_reasons(loaded.rejected)}.",
            hint="Check its configuration with 'editkit describe', and the layout of its records "
            "in docs/datasets.md.",
        )
    strange = [r.case_id for r in loaded.records if not _is_case_id(r.case_id)]
    if strange:
        raise DatasetError(
            f"dataset {offer.name!r} has the case id {strange[0]!r:.60}, expected whole numbers "
            "from 0 to 2**63 - 1.",
            hint="Number the records.",
        )
    twice = [case for case, n in Counter(r.case_id for r in loaded.records).items() if n > 1]
    if twice:
        raise DatasetError(
            f"dataset {offer.name!r} has more than one record with case id {twice[0]}.",
            hint="Give each record a case id of its own.",
        )
    return loaded


def _no_records(loaded: object) -> str | None:
    """What a plugin's dataset loaded instead of records."""
    if not isinstance(loaded, Records) or not isinstance(loaded.records, tuple | list):
        return f"{loaded!r:.80}, expected editkit.Records with a tuple of records"
    for record in loaded.records:
        if not isinstance(record, Record) or not isinstance(record.request, EditRequest):
            return f"{record!r:.80} as a record, expected an editkit.Record with an EditRequest"
    return None


def _reasons(rejected: Sequence[RejectedRecord]) -> str:
    """The most frequent reasons with their number and an example each."""
    examples: dict[str, RejectedRecord] = {}
    counts: Counter[str] = Counter()
    for broken in rejected:
        kind = re.sub(r"\[\d+\]", "[]", f"{broken.field}: {broken.reason}")
        examples.setdefault(kind, broken)
        counts[kind] += 1
    shown = [
        f"{number} x {kind[:_LONGEST_REASON]} (first: {examples[kind].case_id!s:.40})"
        for kind, number in counts.most_common(_MOST_REASONS)
    ]
    others = len(counts) - len(shown)
    return (": " if shown else "") + "; ".join(shown) + (f"; {others} other reasons" * (others > 0))


def _is_case_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def corpus_digest(loaded: Records, dataset: Offer, metric: Offer, kind: str) -> str:
    """Digest of the dataset's own texts of a kind, on which a metric depends.

    Raises:
        ConfigError: The dataset has no such texts.
    """
    if not loaded.texts.get(kind):
        raise ConfigError(
            f"metric {metric.name!r} needs {kind} texts, and dataset {dataset.name!r} has none.",
            hint=f"Name a file of them (--set dataset.config.{kind}_texts=FILE; see "
            "docs/datasets.md), or leave the metric out.",
        )
    return digest_of_texts(loaded.texts[kind])


def slice_digest(records: tuple[Record, ...]) -> str:
    """Digest of all that the records say; texts enter by their own, those of many records once."""
    digests: dict[int, str] = {}

    def of(texts: tuple[str, ...]) -> str:
        if id(texts) not in digests:
            digests[id(texts)] = digest_of_texts(texts)
        return digests[id(texts)]

    return digest(
        [
            plain(_without_defaults(dataclasses.asdict(dataclasses.replace(record, texts={}))))
            | {"texts": {kind: of(texts) for kind, texts in record.texts.items()}}
            for record in records
        ]
    )


def _without_defaults(record: dict[str, Any]) -> dict[str, Any]:
    """Separators and chats count where they are set."""
    request = without_defaults(record["request"])
    probes = {
        kind: [without_defaults(probe) for probe in probes]
        for kind, probes in record["probes"].items()
    }
    return {**record, "request": request, "probes": probes}
