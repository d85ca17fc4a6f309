"""The rules that every dataset keeps."""

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

from editkit.consequences import OpenQuestion
from editkit.data_types import EditRequest, Record, Records, RejectedRecord
from editkit.errors import DatasetError, first_line
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
    """The rules for a dataset; a subclass names it: ``plugin = "mine"``.

    Attributes:
        other_config: Values that give different records; None if there are none.
        broken_config: Values that give some broken records; None if there are none.
        absent_config: Values with a source that does not exist; None if there is no source.
    """

    kind = "dataset"
    base = Dataset

    other_config: Mapping[str, Any] | None = None
    broken_config: Mapping[str, Any] | None = None
    absent_config: Mapping[str, Any] | None = None

    def load(self, **changes: Any) -> Records:
        """Build the dataset and load its records."""
        records: Records = self.make(**changes).load()
        require(
            isinstance(records, Records),
            f"load() returned {records!r:.80}, expected editkit.Records.",
        )
        return records

    # ------------------------------------------------------------ the records

    def test_it_loads_without_network(self) -> None:
        """load() returns records without a network.

        Ship a small file, or name a local one in the suite's config, in addition to other
        sources.
        """
        with _no_network():
            loaded = self.load()
        require(loaded.records, "load() returned no records.")

    def test_records_are_records(self) -> None:
        """Records are a tuple of editkit.Record, each with an EditRequest.

        Build them with editkit's own classes, which check their arguments.
        """
        records = self.load().records
        require(isinstance(records, tuple), f"records are a {type(records).__name__}.")
        for record in records:
            sound = isinstance(record, Record) and isinstance(record.request, EditRequest)
            require(sound, f"{record!r:.80} is not a Record with an EditRequest.")

    def test_case_ids_are_unique(self) -> None:
        """Every record has its own case id, a whole number.

        Results are stored by case id: number the records, and reject broken ones.
        """
        seen: set[int] = set()
        for record in self.load().records:
            case_id = record.case_id
            require(type(case_id) is int, f"case id {case_id!r} is not a whole number.")
            require(case_id not in seen, f"case id {case_id} occurs twice.")
            seen.add(case_id)

    def test_prompts_can_be_filled_and_continued(self) -> None:
        """Prompts have no placeholder left.

        Fill in the subject: only the prompt of a request has a placeholder for it.
        """
        for record in self.load().records:
            prompts = [request.sentence for request in record.requests]
            prompts += [probe.prompt for probes in record.probes.values() for probe in probes]
            prompts += [question.prompt for question in _questions(record)]
            for prompt in prompts:
                require("{}" not in prompt, f"case {record.case_id} has the prompt {prompt!r}.")

    def test_answers_begin_without_space(self) -> None:
        """True and new answers differ.

        Skip records whose new object is the true one.
        """
        for record in self.load().records:
            pairs = [(request.target_true or "", request.target_new) for request in record.requests]
            pairs += [
                (probe.target_true, probe.target_new)
                for probes in record.probes.values()
                for probe in probes
            ]
            for true, new in pairs:
                where = f"case {record.case_id} has the answers {true!r} and {new!r}"
                require(true != new, f"{where}, which are equal.")

    def test_edits_of_a_record_differ(self) -> None:
        """The edits of a record are different edits.

        Write each edit once: the first into `request`, the others into `also`.
        """
        for record in self.load().records:
            for i, request in enumerate(record.requests):
                require(
                    request not in record.requests[:i],
                    f"case {record.case_id} has the edit of {request.sentence!r} twice.",
                )

    def test_aliases_are_other_spellings(self) -> None:
        """Aliases are texts, without the answer itself, and each once; so are spellings.

        Leave out blank aliases: every text would contain them.
        """
        for record in self.load().records:
            lists = [(answer, *others) for answer, others in record.aliases.items()]
            lists += [each for question in _questions(record) for each in question.answers]
            for spellings in lists:
                where = f"case {record.case_id} has the spellings {spellings!r:.80}"
                require(all(each.strip() for each in spellings), f"{where}: one is blank.")
                require(len({*spellings}) == len(spellings), f"{where}: one occurs twice.")

    # ------------------------------------------------------------ reproducible records

    def test_loading_twice_is_the_same(self) -> None:
        """Loading again gives the same records in the same order, with the same digest.

        Shuffle only with a seed from the configuration.
        """
        made = self.make()
        first, again, anew = made.load(), made.load(), self.load()
        for other in (again, anew):
            require(other.records == first.records, "the records differ between loads.")
            require(
                other.digest == first.digest,
                f"the digest was {first.digest!r}, and then {other.digest!r}.",
            )

    def test_digest_is_the_same_in_another_process(self) -> None:
        """The digest is hexadecimal, and the same in another process.

        Hash the content with hashlib; Python's hash() differs between processes.
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
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        require(not done.returncode, f"loading in another process fails: {last}.")
        there = done.stdout.strip().splitlines()[-1]
        require(here == there, f"the digest is {here} here and {there} in another process.")

    def test_other_content_has_another_digest(self) -> None:
        """Different records have different digests.

        Hash everything in a record. Set such values as other_config.
        """
        if self.other_config is None:
            raise SkipTest("other_config is not set")
        first, other = self.load(), self.load(**self.other_config)
        require(first.records != other.records, "other_config gives the same records.")
        require(first.digest != other.digest, f"both have the digest {first.digest}.")

    # ------------------------------------------------------------ errors

    def test_broken_records_are_reported(self) -> None:
        """Broken records are skipped and reported, each with its field and a reason.

        Collect RejectedRecord(case_id, field, reason). Set such values as broken_config.
        """
        if self.broken_config is None:
            raise SkipTest("broken_config is not set")
        loaded = self.load(**self.broken_config)
        require(loaded.rejected, "broken_config gives no rejected record.")
        for rejected in loaded.rejected:
            sound = isinstance(rejected, RejectedRecord) and all(
                str(text).strip() for text in (rejected.case_id, rejected.field, rejected.reason)
            )
            require(sound, f"a rejected record is reported as {rejected!r}.")

    def test_an_absent_source_is_told(self) -> None:
        """A source that does not exist raises a DatasetError.

        Name what was looked for and where to get it. Set such values as absent_config.
        """
        if self.absent_config is None:
            raise SkipTest("absent_config is not set")
        try:
            with _no_network():
                self.load(**self.absent_config)
        except DatasetError:
            return
        except Exception as error:
            raise ContractError(
                f"it raises {first_line(error, named=True)}; expected a DatasetError."
            ) from error
        raise ContractError("it raises no error.")


def _questions(record: Record) -> list[OpenQuestion]:
    """All questions of a record's tests, conditions included."""
    tests = [test for group in record.consequences.values() for test in group]
    return [question for test in tests for question in (*test.questions, *test.conditions)]


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    """Refuse every network connection inside."""

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise ContractError("it uses the network.")

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
