"""The packaged plain texts: reproducible, and without the subjects that are edited."""

from __future__ import annotations

import itertools

import pytest

from editkit.covariance.corpora import Corpus
from editkit_benchmarks.atlas.world import load_world
from editkit_benchmarks.corpora.plain import openings, texts


@pytest.mark.parametrize(("file", "source"), [("plain", texts), ("openings", openings)])
def test_the_files_are_what_the_command_writes(file: str, source: type) -> None:
    stored = list(Corpus(f"editkit_benchmarks:corpora/{file}.txt").texts())
    assert stored == list(itertools.islice(source(), len(stored)))
    assert len(stored) == 200


def test_no_subject_is_mentioned() -> None:
    stored = "\n".join(Corpus("editkit_benchmarks:corpora/plain.txt").texts())
    assert not [subject for subject in load_world().subjects if subject in stored]


def test_openings_are_distinct_beginnings() -> None:
    stored = list(Corpus("editkit_benchmarks:corpora/openings.txt").texts())
    assert len(set(stored)) == len(stored)
    assert all(len(opening.split()) >= 3 for opening in stored)
