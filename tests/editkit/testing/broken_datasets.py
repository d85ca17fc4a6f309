"""Datasets that break one rule each."""

from __future__ import annotations

import dataclasses
import random
import socket
from collections.abc import Sequence
from typing import Any

from editkit import Consequence, OpenQuestion, Probe, Record, Records
from tests.editkit.testing.in_process_plugins import Broken, collector
from tests.editkit.testing.sound_dataset import PythonHash, SoundDataset, record

CASES: list[Broken] = []
breaks = collector("dataset", CASES)


class _Changed(SoundDataset):
    """Changes what was loaded."""

    changes: dict[str, Any]

    def load(self) -> Records:
        return dataclasses.replace(super().load(), **self.changes)


@breaks("it_loads_without_network", "uses the network")
class Online(SoundDataset):
    def load(self) -> Records:
        with socket.socket() as connection:
            connection.connect(("127.0.0.1", 9))
        return super().load()


@breaks("it_loads_without_network", "uses the network")
class LooksUp(SoundDataset):
    def load(self) -> Records:
        socket.getaddrinfo("localhost", 9)
        return super().load()


@breaks("it_loads_without_network", "returned no records")
class Empty(SoundDataset):
    def records(self) -> Sequence[Record]:
        return []


@breaks("it_loads_without_network", "expected editkit.Records")
class BareList(SoundDataset):
    def load(self) -> Any:
        return list(super().load().records)


@breaks("records_are_records", "records are a list")
class AsList(_Changed):
    changes = {"records": [record(0, "the Opera")]}


@breaks("records_are_records", "is not a Record")
class AsMappings(_Changed):
    changes = {"records": ({"case_id": 0},)}


@breaks("case_ids_are_unique", "occurs twice")
class Twice(_Changed):
    changes = {"records": (record(3, "the Opera"), record(3, "Ulriken"))}


@breaks("case_ids_are_unique", "is not a whole number")
class AsText(_Changed):
    changes = {"records": (record("3", "the Opera"),)}


def probed(prompt: str, true: str, new: str) -> dict[str, Any]:
    """Records with one probe."""
    whole = dataclasses.replace(
        record(0, "the Opera"), probes={"neighborhood": (Probe(prompt, true, new),)}
    )
    return {"records": (whole,)}


@breaks("prompts_can_be_filled_and_continued", "'{} is in'")
class Unfilled(_Changed):
    changes = probed("{} is in", "Rome", "Oslo")


@breaks("answers_begin_without_space", "which are equal")
class SameAnswer(_Changed):
    changes = {"records": (record(0, "the Opera", target_new="Rome"),)}


@breaks("loading_twice_is_the_same", "the records differ")
class Shuffles(SoundDataset):
    calls = 0

    def records(self) -> Sequence[Record]:
        Shuffles.calls += 1
        shuffled = list(super().records())
        return shuffled[::-1] if Shuffles.calls % 2 else shuffled


@breaks("prompts_can_be_filled_and_continued", "has the prompt")
class UnfilledQuestion(_Changed):
    changes = {
        "records": (
            dataclasses.replace(
                record(0, "the Opera"),
                consequences={"multi_hop": (Consequence((OpenQuestion("{} is", (("x",),)),)),)},
            ),
        )
    }


@breaks("edits_of_a_record_differ", "twice")
class WritesTwice(_Changed):
    changes = {
        "records": (
            dataclasses.replace(record(0, "the Opera"), also=(record(0, "the Opera").request,)),
        )
    }


@breaks("aliases_are_other_spellings", "one is blank")
class BlankAlias(_Changed):
    changes = {"records": (dataclasses.replace(record(0, "the Opera"), aliases={"x": ("",)}),)}


@breaks("aliases_are_other_spellings", "one occurs twice")
class RepeatedAlias(_Changed):
    changes = {"records": (dataclasses.replace(record(0, "the Opera"), aliases={"x": ("x",)}),)}


@breaks("loading_twice_is_the_same", "the digest was")
class DigestOfTheDay(SoundDataset):
    def digest(self, records: Sequence[Record]) -> str:
        return random.SystemRandom().randbytes(8).hex()


breaks("digest_is_the_same_in_another_process", "in another process")(PythonHash)


@breaks("digest_is_the_same_in_another_process", "the digest is 'v1'")
class NamedVersion(_Changed):
    changes = {"digest": "v1"}


@breaks("other_content_has_another_digest", "both have the digest")
class SameDigest(_Changed):
    changes = {"digest": "0123456789abcdef"}


@breaks("other_content_has_another_digest", "gives the same records")
class SameRecords(SoundDataset):
    def records(self) -> Sequence[Record]:
        return [record(0, "the Opera")]


@breaks("broken_records_are_reported", "no rejected record")
class Silent(_Changed):
    changes = {"rejected": ()}


@breaks("broken_records_are_reported", "is reported as")
class WithoutReason(_Changed):
    changes = {"rejected": (("9", "prompt", ""),)}


@breaks("an_absent_source_is_told", "FileNotFoundError")
class RawError(SoundDataset):
    def load(self) -> Records:
        if self.config.source == "absent":
            raise FileNotFoundError("absent")
        return super().load()


@breaks("an_absent_source_is_told", "raises no error")
class Nothing(SoundDataset):
    def load(self) -> Records:
        return Records((), "00000000") if self.config.source == "absent" else super().load()
