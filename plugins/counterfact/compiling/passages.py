"""Reference and essence texts for records, chosen from a collection of passages.

Meng et al. 2022, first version, appendix C.1: the essence texts of a record are Wikipedia articles
about its subject s, its reference texts are articles about a sample of other subjects s' with the
new object, (s', r, o*). A passage with a title is about the subject that the title names; one
without a title is about every subject that it mentions.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from editkit import DatasetError, Record
from editkit.covariance.corpora import Corpus
from editkit.records.reading import read_json

Holders = Mapping[tuple[str, str], Sequence[str]]
"""Subjects of each (relation, object)."""

_WORD = re.compile(r"\w+")
_JSON = (".json", ".json.gz")
_LAYOUTS = (
    "Give a folder of .txt files named after their subjects, a .json with {name: text or texts} or "
    "[{'title': ..., 'text': ...}], a .jsonl with such objects, or a corpus of plain texts."
)


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text; ``title`` is empty if it has none."""

    text: str
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of a file of records.

    Attributes:
        reference: Relation -> object -> texts about subjects that have the object.
        essence: Subject -> texts about it.
        with_reference: Number of records with reference texts.
        with_essence: Number of records with essence texts.
    """

    reference: dict[str, dict[str, list[str]]]
    essence: dict[str, list[str]]
    with_reference: int
    with_essence: int


# ---------------------------------------------------------------- passages


def read_passages(source: str) -> list[Passage]:
    """The passages of a folder, a file, or a corpus, without duplicates.

    Args:
        source: A folder of ``.txt`` files, where the name of a file is the title, with ``_`` for a
            space; a ``.json`` or ``.jsonl`` file with titles or without; or anything that
            statistics take as a corpus, whose texts have no titles.

    Raises:
        DatasetError: There is nothing to read, or the layout is unknown.
        ConfigError: The corpus cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        passages = [
            Passage(_text_of(file), file.stem.replace("_", " "))
            for file in sorted(path.rglob("*.txt"))
        ]
    elif source.endswith(_JSON):
        passages = list(_of_json(read_json(path, what="file of passages"), source))
    elif path.suffix == ".jsonl":
        passages = list(_of_json([*_json_lines(path)], source))
    else:
        passages = [Passage(text) for text in Corpus(source).texts()]
    distinct = dict.fromkeys(
        Passage(text, each.title.strip()) for each in passages if (text := each.text.strip())
    )
    if not distinct:
        raise DatasetError(f"{source!r} has no passages.", hint=_LAYOUTS)
    return list(distinct)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"passage {str(file)!r} cannot be read: {error}.", hint="Give readable files in UTF-8."
        ) from None


def _json_lines(path: Path) -> Iterator[object]:
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DatasetError(
                    f"{str(path)!r}, line {number}: {error}.", hint="Give one object per line."
                ) from None


def _of_json(content: object, place: str) -> Iterator[Passage]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, Mapping):  # relation -> object -> texts: no names of subjects
                for object_, texts in value.items():
                    inside = f"{place}, {name}, {object_}"
                    yield from (Passage(text) for text in _texts(texts, inside))
            else:
                yield from (Passage(text, str(name)) for text in _texts(value, f"{place}, {name}"))
        return
    if not isinstance(content, list):
        raise DatasetError(f"{place!r} holds no list and no object.", hint=_LAYOUTS)
    for number, item in enumerate(content):
        inside = f"{place}, entry {number}"
        if isinstance(item, str):
            yield Passage(item)
        elif isinstance(item, Mapping) and "samples" in item:  # attribute_snippets.json
            yield from _of_json(item["samples"], inside)
        elif isinstance(item, Mapping) and isinstance(item.get("text"), str):
            yield Passage(item["text"], str(item.get("title") or item.get("name") or ""))
        else:
            raise DatasetError(f"{inside}: expected a text or an object with one.", hint=_LAYOUTS)


def _texts(value: object, place: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DatasetError(f"{place}: expected a text or a list of texts.", hint=_LAYOUTS)
    return texts


# ---------------------------------------------------------------- what a passage is about


def about(passages: Iterable[Passage], names: Iterable[str]) -> dict[str, list[str]]:
    """The texts about each name, in the order of the passages; names without any are left out.

    A passage with a title is about one name, however many others it mentions; upper and lower case
    do not matter in titles. In texts, they do.

    Args:
        passages: The passages.
        names: The names.
    """
    by_title: dict[str, list[str]] = {}
    by_word: dict[str, list[tuple[int, str, str]]] = {}
    for name in dict.fromkeys(names):
        by_title.setdefault(_key(name), []).append(name)
        written = unicodedata.normalize("NFC", name)
        if word := _WORD.search(written):
            by_word.setdefault(word.group(), []).append((word.start(), written, name))
    texts: dict[str, list[str]] = {}
    for passage in passages:
        if passage.title:
            subjects = by_title.get(_key(passage.title), [])
        else:
            subjects = _mentioned(passage.text, by_word)
        for name in subjects:
            texts.setdefault(name, []).append(passage.text)
    return texts


def _mentioned(text: str, by_word: Mapping[str, Sequence[tuple[int, str, str]]]) -> list[str]:
    """The names that occur in a text as whole words, in the order of their first occurrence."""
    text = unicodedata.normalize("NFC", text)
    names: dict[str, None] = {}
    for word in _WORD.finditer(text):
        for before, written, name in by_word.get(word.group(), ()):
            start = word.start() - before
            end = start + len(written)
            if start >= 0 and text.startswith(written, start) and not _continues(text, start, end):
                names[name] = None
    return list(names)


def _continues(text: str, start: int, end: int) -> bool:
    """Whether a word goes past one of the bounds of a part of a text."""
    return any(
        0 < bound < len(text) and _is_word(text[bound - 1]) and _is_word(text[bound])
        for bound in (start, end)
    )


def _is_word(character: str) -> bool:
    return bool(_WORD.fullmatch(character))


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


# ---------------------------------------------------------------- texts for records


def holders_of(records: Iterable[Record]) -> Holders:
    """The true facts of records, as subjects of each (relation, object)."""
    subjects: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        request = record.request
        if request.target_true is not None:
            place = request.relation_id or "", request.target_true
            subjects.setdefault(place, {})[request.subject] = None
    return {place: list(names) for place, names in subjects.items()}


def texts_for(
    records: Sequence[Record],
    holders: Holders,
    passages: Sequence[Passage],
    *,
    most: int,
    seed: int,
) -> Texts:
    """Reference and essence texts for records.

    Args:
        records: The records.
        holders: Which subjects have which objects; the reference texts are about these subjects.
        passages: What to choose from.
        most: Maximum number of texts per subject, and per relation and object.
        seed: Seed of the order of the subjects that reference texts are about.
    """
    targets = dict.fromkeys(
        (record.request.relation_id or "", record.request.target_new) for record in records
    )
    subjects = dict.fromkeys(record.request.subject for record in records)
    of_targets = (name for target in targets for name in holders.get(target, ()))
    known = about(passages, (*subjects, *of_targets))
    reference: dict[str, dict[str, list[str]]] = {}
    for relation, value in targets:
        names = sorted({name for name in holders.get((relation, value), ()) if name in known})
        random.Random(f"texts-{seed}/{relation}/{value}").shuffle(names)
        # The first text of each subject, then the second ones, ...
        ordered = sorted(
            (turn, place, text)
            for place, name in enumerate(names)
            for turn, text in enumerate(known[name])
        )
        if chosen := list(dict.fromkeys(text for *_, text in ordered))[:most]:
            reference.setdefault(relation, {})[value] = chosen
    essence = {name: known[name][:most] for name in subjects if name in known}
    return Texts(
        reference,
        essence,
        with_reference=sum(
            record.request.target_new in reference.get(record.request.relation_id or "", {})
            for record in records
        ),
        with_essence=sum(record.request.subject in essence for record in records),
    )
