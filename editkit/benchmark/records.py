"""Reading a dataset for a run, and digests of what was read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from editkit.benchmark.digests import digest, digest_of_texts, plain
from editkit.errors import ConfigError, DatasetError, EditkitError
from editkit.interfaces import Dataset, Record, Records
from editkit.plugins import Offer
from editkit.requests import without_defaults


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
    if not loaded.records:
        raise DatasetError(
            f"dataset {offer.name!r} has no usable record ({len(loaded.rejected)} were rejected).",
            hint="Check its configuration with 'editkit describe'.",
        )
    twice = [case for case, n in Counter(r.case_id for r in loaded.records).items() if n > 1]
    if twice:
        raise DatasetError(
            f"dataset {offer.name!r} has more than one record with case id {twice[0]}.",
            hint="Give each record a case id of its own.",
        )
    return loaded


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
