"""The contract of datasets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from unittest import SkipTest

from editkit.data_types import EditRequest, Record, Records, RejectedRecord
from editkit.errors import DatasetError
from editkit.interfaces import Dataset
from editkit.testing.contract import Contract, ContractError, require

__all__ = ["DatasetContract"]

_DIGEST = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from editkit.registry.plugins import resolve
made = resolve(sys.argv[2])(resolve(sys.argv[3]).model_validate_json(sys.argv[4]))
print(made.load().digest)
"""


class DatasetContract(Contract):
    """The contract of a dataset; a subclass names it: ``plugin = "mine"``.

    Attributes:
        other_config: Values under which it holds other records; None: it has only these.
        broken_config: Values under which some record is broken, if that can be.
        absent_config: Values that name a source which is not there, if that can be.
    """

    kind = "dataset"
    base = Dataset

    other_config: Mapping[str, Any] | None = None
    broken_config: Mapping[str, Any] | None = None
    absent_config: Mapping[str, Any] | None = None

    def load(self, **changes: Any) -> Records:
        """All records, newly made and loaded."""
        found: Records = self.make(**changes).load()
        require(
            isinstance(found, Records), f"load() returned {found!r:.80}, expected editkit.Records."
        )
        return found

    # ------------------------------------------------------------ the records

    def test_it_loads_without_network(self) -> None:
        """load() finds records where there is no network.

        Ship a small file, or name a local one in the suite's config, whatever else it can read.
        """
        with _no_network():
            found = self.load()
        require(found.records, "load() found no records.")

    def test_records_are_records(self) -> None:
        """Records are a tuple of editkit.Record, each with an EditRequest.

        Make them with editkit's own classes, which check what they are given.
        """
        found = self.load().records
        require(isinstance(found, tuple), f"records are a {type(found).__name__}.")
        for record in found:
            sound = isinstance(record, Record) and isinstance(record.request, EditRequest)
            require(sound, f"{record!r:.80} is no Record with an EditRequest.")

    def test_case_ids_are_unique(self) -> None:
        """Every record has a case id of its own, a whole number.

        Results are stored by case id: number the records, or give broken ones up.
        """
        seen: set[int] = set()
        for record in self.load().records:
            case_id = record.case_id
            require(type(case_id) is int, f"case id {case_id!r} is no whole number.")
            require(case_id not in seen, f"case id {case_id} is there twice.")
            seen.add(case_id)

    def test_prompts_can_be_filled_and_continued(self) -> None:
        """Prompts hold no place left to fill.

        Fill in the subject: only the prompt of a request has a place for it.
        """
        for record in self.load().records:
            prompts = [record.request.sentence]
            prompts += [probe.prompt for probes in record.probes.values() for probe in probes]
            for prompt in prompts:
                require("{}" not in prompt, f"case {record.case_id} has the prompt {prompt!r}.")

    def test_answers_begin_without_space(self) -> None:
        """Answers differ from their rivals.

        Leave out records whose new object is the true one.
        """
        for record in self.load().records:
            request = record.request
            pairs = [(request.target_true or "", request.target_new)]
            pairs += [
                (probe.target_true, probe.target_new)
                for probes in record.probes.values()
                for probe in probes
            ]
            for true, new in pairs:
                where = f"case {record.case_id} has the answers {true!r} and {new!r}"
                require(true != new, f"{where}, which are the same.")

    # ------------------------------------------------------------ the same every time

    def test_loading_twice_is_the_same(self) -> None:
        """Loading again gives the same records in the same order, with the same digest.

        Shuffle with a seed of the configuration only.
        """
        made = self.make()
        first, again, anew = made.load(), made.load(), self.load()
        for other in (again, anew):
            require(other.records == first.records, "the records differ from load to load.")
            require(
                other.digest == first.digest,
                f"the digest was {first.digest!r} and is {other.digest!r}.",
            )

    def test_digest_is_the_same_in_another_process(self) -> None:
        """The digest is hexadecimal, and the same in another process.

        Hash the content with hashlib; Python's hash() differs from process to process.
        """
        spec: Any = self.offer().spec
        here = self.load().digest
        require(re.fullmatch("[0-9a-f]{8,}", here), f"the digest is {here!r}.")
        values = self.make_config().model_dump_json()
        arguments = [json.dumps(sys.path), spec.factory, spec.config, values]
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "7"},
        )
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        require(not done.returncode, f"loading in another process fails: {last}.")
        there = done.stdout.strip().splitlines()[-1]
        require(here == there, f"the digest is {here} here and {there} in another process.")

    def test_other_content_has_another_digest(self) -> None:
        """Other records have another digest.

        Hash everything that a record holds. Name such values as other_config.
        """
        if self.other_config is None:
            raise SkipTest("no other_config is named")
        first, other = self.load(), self.load(**self.other_config)
        require(first.records != other.records, "under other_config the records are the same.")
        require(first.digest != other.digest, f"both have the digest {first.digest}.")

    # ------------------------------------------------------------ what cannot be read

    def test_broken_records_are_reported(self) -> None:
        """Broken records are left out and reported, each with its field and a reason.

        Collect RejectedRecord(case_id, field, reason). Name such values as broken_config.
        """
        if self.broken_config is None:
            raise SkipTest("no broken_config is named")
        found = self.load(**self.broken_config)
        require(found.rejected, "under broken_config no record is rejected.")
        for rejected in found.rejected:
            sound = isinstance(rejected, RejectedRecord) and all(
                str(text).strip() for text in (rejected.case_id, rejected.field, rejected.reason)
            )
            require(sound, f"a rejected record is reported as {rejected!r}.")

    def test_an_absent_source_is_told(self) -> None:
        """A source that is not there ends in a DatasetError.

        Say what was looked for and where to get it. Name such values as absent_config.
        """
        if self.absent_config is None:
            raise SkipTest("no absent_config is named")
        try:
            with _no_network():
                self.load(**self.absent_config)
        except DatasetError:
            return
        except Exception as error:
            raise ContractError(
                f"it ends in {type(error).__name__}: {error}; expected a DatasetError."
            ) from error
        raise ContractError("nothing was said about it.")


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    """Inside, every connection is refused."""

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise ContractError("it asks for the network.")

    names = ("connect", "connect_ex")
    saved = {name: vars(socket.socket).get(name) for name in names}
    lookup = socket.getaddrinfo
    try:
        for name in names:
            setattr(socket.socket, name, refuse)
        socket.getaddrinfo = refuse
        yield
    finally:
        socket.getaddrinfo = lookup
        for name, before in saved.items():
            if before is None:
                delattr(socket.socket, name)
            else:
                setattr(socket.socket, name, before)
