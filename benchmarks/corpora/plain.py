"""Write the packaged texts ``plain.txt`` and ``openings.txt``: everyday sentences without names.

    python -m editkit_benchmarks.corpora.plain --out FOLDER

They are made of the plain sentences of the embedded world, which mention none of its subjects: a
model that reads English predicts them well, and so does ``atlas``. No fact that anybody edits
occurs in them.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from editkit_benchmarks.atlas.text import plain_sentence

FEWEST_WORDS = 3


def texts() -> Iterator[str]:
    """Texts of four sentences each, without end."""
    rng = random.Random("plain-texts")
    while True:
        yield " ".join(plain_sentence(rng) for _ in range(4))


def openings() -> Iterator[str]:
    """Beginnings of sentences, at least three words long and each once, without end."""
    rng, known = random.Random("plain-openings"), set[str]()
    while True:
        words = plain_sentence(rng).split()
        opening = " ".join(words[: rng.randrange(FEWEST_WORDS, len(words))])
        if opening not in known:
            known.add(opening)
            yield opening


def main() -> int:
    """Write both files, one text per line."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.corpora.plain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write them to")
    parser.add_argument("--number", type=int, default=200, help="texts per file (200)")
    args = parser.parse_args()
    for name, source in (("plain.txt", texts()), ("openings.txt", openings())):
        lines = itertools.islice(source, args.number)
        (args.out / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
