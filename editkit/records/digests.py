"""Digests of records: equal content gives equal digests, however a file is formatted.

There are two because stores keep both. A dataset computes :func:`digest_of_records` over all of
its records and names its version with it. A run computes :func:`slice_digest` over the records
that it uses; it does not trust the digest that a dataset reports. Parts that a record may lack
(``separator``, ``chat``, further edits, consequences, aliases) enter both only if they are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from editkit.data_types import Record, without_defaults
from editkit.storage.digests import digest, digest_of_texts, plain, sha256_of

__all__ = ["digest_of_records", "slice_digest"]


def digest_of_records(records: Sequence[Record]) -> str:
    """SHA-256 of the content of a dataset's records, in their order."""
    return sha256_of(_lines(records))


def _lines(records: Sequence[Record]) -> Iterator[str]:
    digests_of = _text_digests(lambda texts: sha256_of(json.dumps(texts)))
    for record in records:
        probes = {
            kind: [tuple(probe.to_dict().values()) for probe in probes]
            for kind, probes in record.probes.items()
        }
        content = [record.case_id, record.request.to_dict(), probes, digests_of(record)]
        content += [more] if (more := _more(record)) else []
        yield json.dumps(content, sort_keys=True) + "\n"


def slice_digest(records: Sequence[Record]) -> str:
    """SHA-256 of the content of the records that a run uses, in their order."""
    digests_of = _text_digests(digest_of_texts)
    return digest([plain(_fields(record)) | {"texts": digests_of(record)} for record in records])


def _fields(record: Record) -> dict[str, Any]:
    """A record's fields without its texts, and without what is not set."""
    probes = {
        kind: [without_defaults(vars(probe)) for probe in probes]
        for kind, probes in record.probes.items()
    }
    request = without_defaults(vars(record.request))
    return {"case_id": record.case_id, "request": request, "probes": probes, **_more(record)}


def _more(record: Record) -> dict[str, Any]:
    """Further edits, consequences and aliases, as far as the record has them."""
    more = {
        "also": [request.to_dict() for request in record.also],
        "consequences": {
            group: [test.to_dict() for test in tests]
            for group, tests in record.consequences.items()
        },
        "aliases": {answer: list(others) for answer, others in record.aliases.items()},
    }
    return {name: value for name, value in more.items() if value}


def _text_digests(
    digest_of: Callable[[tuple[str, ...]], str],
) -> Callable[[Record], Mapping[str, str]]:
    """A function from a record to the digests of its texts by kind.

    Many records share the same large tuples of texts, so each tuple is digested once.
    """
    known: dict[int, str] = {}

    def digests_of(record: Record) -> Mapping[str, str]:
        for texts in record.texts.values():
            if id(texts) not in known:
                known[id(texts)] = digest_of(texts)
        return {kind: known[id(texts)] for kind, texts in record.texts.items()}

    return digests_of
