"""What a page shows of the figures and tables in an output folder, whoever wrote them.

A folder may come from somebody else. So files are read with limits and checked before a page embeds
them; an SVG with scripts, or with links to anything outside itself, is left out. What is left out
has a line with the reason.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from editkit.report.tables import Entry, Line, Table, printed

__all__ = ["FOLDERS", "Figure", "FolderContent", "folder_content"]

FOLDERS = ("figures", "traces")
"""Folders in an output folder where commands write figures and tables."""

_MOST_BYTES = 4 * 2**20  # of a file
_MOST_BYTES_TOGETHER = 24 * 2**20
_MOST_BYTES_OF_TABLE = 2**20
_MOST_FIGURES, _MOST_TABLES = 200, 100
_MOST_PIXELS = 50_000_000
_MOST_ROWS, _MOST_COLUMNS, _LONGEST = 200, 16, 200
_LONGEST_TITLE, _LONGEST_TEXT = 200, 2000
_HEAVY_SVG = 2**20  # above, the PNG is preferred if it is smaller

_PNG_START = b"\x89PNG\r\n\x1a\n"
_ACTIVE = {
    *("script", "foreignobject", "iframe", "object", "embed", "audio", "video", "handler"),
    *("animate", "animatetransform", "animatemotion", "set", "a"),
}
_OUTSIDE = re.compile(r"url\((?!\s*['\"]?\s*#)|@import|javascript:", re.IGNORECASE)
_INLINE_IMAGE = re.compile(r"data:image/(png|jpeg);base64,", re.IGNORECASE)
_AVERAGES = ["kind", "role", "layer", "mean", "ci_low", "ci_high", "n"]
"""Head of the tables of average effects that traces and experiments write."""
_KINDS = {"state": "hidden states", "mlp": "MLPs", "attn": "attention"}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure that a page can embed.

    Attributes:
        path: Its file, relative to the output folder.
        title: Its title, from its metadata; the file's name if it has none.
        description: Its description, from its metadata; may be empty.
        uri: The file as a ``data:`` address.
        shape: Width divided by height; 1 if unknown.
    """

    path: str
    title: str
    description: str
    uri: str
    shape: float = 1.0


@dataclasses.dataclass(frozen=True)
class FolderContent:
    """What a page shows of a folder.

    Attributes:
        name: Name of the folder.
        figures: The figures, sorted by path.
        tables: Average effects and other tables, with long ones cut.
        left_out: A line for each file that is not shown, with the reason.
    """

    name: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    left_out: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.figures or self.tables or self.left_out)


@dataclasses.dataclass(frozen=True)
class _Facts:
    """Title, description, and width divided by height of a figure."""

    title: str
    description: str
    shape: float


class _LeftOut(Exception):
    """Why a file is not shown."""


def folder_content(out: Path) -> FolderContent:
    """The figures and tables in an output folder.

    Args:
        out: The output folder. Only the files directly in :data:`FOLDERS` are read, no links.
    """
    files = [file for name in FOLDERS for file in _files(out / name)]
    tables = [file for file in files if file.suffix == ".csv"]
    csv_files = [_CsvFile.read(out, each) for each in tables[:_MOST_TABLES]]
    left_out = [each.problem for each in csv_files if each.problem]
    drawn = list(_versions(files, csv_files).values())
    for what, n, most in (
        ("tables", len(tables), _MOST_TABLES),
        ("figures", len(drawn), _MOST_FIGURES),
    ):
        if n > most:
            left_out.append(f"{n - most} {what}: a page reads the first {most}")
    figures, room = [], _MOST_BYTES_TOGETHER
    for versions in drawn[:_MOST_FIGURES]:
        try:
            figure, size = _figure(out, versions, room)
        except _LeftOut as reason:
            left_out.append(f"{_relative(out, versions[0])}: {reason}")
            continue
        room -= size
        figures.append(figure)
    titles = {figure.path: figure.title for figure in figures}
    return FolderContent(
        name=out.resolve().name,
        figures=tuple(figures),
        tables=tuple(table for each in csv_files for table in each.tables(titles)),
        left_out=tuple(left_out),
    )


def _files(folder: Path) -> list[Path]:
    """The plain files in a folder that is no link, sorted by name."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.is_symlink())


def _versions(files: Sequence[Path], tables: Sequence[_CsvFile]) -> dict[Path, list[Path]]:
    """The SVG and PNG files of each figure, by path without suffix; SVG first.

    Panels of average effects, which are in a figure of their own too, are skipped.
    """
    panels = {
        each.file.with_name(f"{each.file.stem}-{kind}") for each in tables for kind in each.kinds
    }
    versions: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix in (".svg", ".png") and file.with_suffix("") not in panels:
            versions.setdefault(file.with_suffix(""), []).append(file)
    return {stem: sorted(own, key=lambda f: f.suffix != ".svg") for stem, own in versions.items()}


def _relative(out: Path, file: Path) -> str:
    return file.relative_to(out).as_posix()


def _read(file: Path, most: int) -> bytes:
    """The file's content, of ``most`` bytes at the most."""
    try:
        with file.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise _LeftOut(error.strerror or str(error)) from error
    if len(content) > most:
        raise _LeftOut(f"larger than {most // 2**20} MB")
    return content


# ---------------------------------------------------------------- figures


def _figure(out: Path, versions: Sequence[Path], room: int) -> tuple[Figure, int]:
    """The first version of a figure that can be shown, and its size in bytes."""
    usable: list[tuple[int, Path, bytes, _Facts]] = []
    reason = _LeftOut("no version")
    for file in versions:
        try:
            content = _read(file, _MOST_BYTES)
            facts = _facts_of_svg(content) if file.suffix == ".svg" else _facts_of_png(content)
        except _LeftOut as problem:
            reason = problem if not usable and file is versions[0] else reason
            continue
        usable.append((len(content), file, content, facts))
    if not usable:
        raise reason
    is_light = usable[0][0] <= _HEAVY_SVG
    size, file, content, facts = usable[0] if is_light else min(usable, key=lambda each: each[0])
    if size > room:
        raise _LeftOut(f"the page has {_MOST_BYTES_TOGETHER // 2**20} MB of figures without it")
    form = "svg+xml" if file.suffix == ".svg" else "png"
    uri = f"data:image/{form};base64,{base64.b64encode(content).decode()}"
    figure = Figure(
        path=_relative(out, file),
        title=_cut(facts.title, _LONGEST_TITLE) or file.stem,
        description=_cut(facts.description, _LONGEST_TEXT),
        uri=uri,
        shape=facts.shape,
    )
    return figure, size


def _facts_of_svg(content: bytes) -> _Facts:
    """What an SVG's metadata say.

    Raises:
        _LeftOut: It is no SVG, or more than a drawing.
    """
    try:
        text = content.decode()
        if "<!ENTITY" in text:
            raise _LeftOut("it declares entities")
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError, RecursionError) as error:
        raise _LeftOut("not an SVG file in UTF-8") from error
    if _local(root.tag) != "svg":
        raise _LeftOut("not an SVG file in UTF-8")
    for element in root.iter():
        tag = _local(element.tag)
        if tag in _ACTIVE:
            raise _LeftOut(f"it has an element {tag!r}, and only drawings are shown")
        for name, value in element.attrib.items():
            _check_attribute(_local(name), value)
        if tag == "style" and _OUTSIDE.search(element.text or ""):
            raise _LeftOut("its style refers to something outside the file")
    work = [child for each in root.iter() if _local(each.tag) == "work" for child in each]
    words = {"title": "", "description": ""}
    for element in (*root, *work):  # not the title of the program, which is deeper
        name = _local(element.tag)
        if name in words and not words[name]:
            words[name] = (element.text or "").strip()
    width, height = (_pixels(root.get(side, "")) for side in ("width", "height"))
    shape = width / height if width and height else 1.0
    return _Facts(words["title"], words["description"], shape)


def _pixels(length: str) -> float:
    """A length without its unit; 0 if there is none."""
    number = re.match(r"\d+(\.\d+)?", length)
    return float(number[0]) if number else 0.0


def _check_attribute(name: str, value: str) -> None:
    if name.startswith("on"):
        raise _LeftOut(f"it has a script in the attribute {name!r}")
    is_link = name in ("href", "src")
    if is_link and not value.startswith("#") and not _INLINE_IMAGE.match(value):
        raise _LeftOut("it refers to something outside the file")
    if not is_link and _OUTSIDE.search(value):
        raise _LeftOut("it refers to something outside the file")


def _local(name: object) -> str:
    """A name in lower case without its namespace; empty for comments."""
    return name.rpartition("}")[2].lower() if isinstance(name, str) else ""


def _facts_of_png(content: bytes) -> _Facts:
    """What a PNG's text chunks say.

    Raises:
        _LeftOut: It is no PNG, or a huge one.
    """
    if not content.startswith(_PNG_START) or content[12:16] != b"IHDR":
        raise _LeftOut("not a PNG file")
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if not 0 < width * height <= _MOST_PIXELS:
        raise _LeftOut(f"{width} by {height} pixels")
    words = {b"Title": "", b"Description": ""}
    for kind, data in _chunks(content):
        key, _, rest = data.partition(b"\0")
        if key in words and kind == b"tEXt":
            words[key] = rest.decode("latin-1")
        elif key in words and kind == b"iTXt" and rest[:1] == b"\0":  # not compressed
            words[key] = rest[2:].split(b"\0", 2)[-1].decode(errors="replace")
    return _Facts(words[b"Title"].strip(), words[b"Description"].strip(), width / height)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of a PNG's chunks."""
    place = len(_PNG_START)
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        place += 12 + length


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# ---------------------------------------------------------------- tables


@dataclasses.dataclass(frozen=True)
class _CsvFile:
    """A CSV file in a folder.

    Attributes:
        file: The file.
        name: Its path relative to the output folder.
        head: Its first line.
        rows: The other lines.
        problem: Why it is not shown, with its name; empty if it is.
    """

    file: Path
    name: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    problem: str = ""

    @classmethod
    def read(cls, out: Path, file: Path) -> _CsvFile:
        name = _relative(out, file)
        try:
            text = _read(file, _MOST_BYTES_OF_TABLE).decode("utf-8-sig")
            head, *rows = csv.reader(io.StringIO(text), strict=True)
            if head != _AVERAGES and file.parent.name == "traces":
                return cls(file, name)
            for row in rows:
                if len(row) != len(head):
                    raise _LeftOut("its lines have different numbers of columns")
                if head == _AVERAGES:
                    int(row[2]), *map(float, filter(None, row[3:]))
        except _LeftOut as reason:
            return cls(file, name, problem=f"{name}: {reason}")
        except (UnicodeDecodeError, csv.Error, ValueError) as error:
            return cls(file, name, problem=_cut(f"{name}: not a table in CSV: {error}", _LONGEST))
        return cls(file, name, head, rows)

    @property
    def kinds(self) -> set[str]:
        """Kinds of sites in a file of average effects; none in others."""
        return {row[0] for row in self.rows} if self.head == _AVERAGES else set()

    def tables(self, titles: Mapping[str, str]) -> list[Table]:
        """What a page shows of it; nothing of a single trace, which has a figure.

        Args:
            titles: Titles of the figures, by path.
        """
        start = self.name.removesuffix(".csv")
        own = [title for path, title in titles.items() if path.startswith(f"{start}-")]
        title = own[0] if own else self.file.stem
        if self.head == _AVERAGES:
            return _averages(self.name, title, self.rows)
        return [_plain_table(self.name, title, self.head, self.rows)] if self.head else []


def _averages(name: str, title: str, rows: Sequence[Sequence[str]]) -> list[Table]:
    """Average effects by role and layer, a table per kind of site."""
    effects: dict[str, dict[str, dict[int, tuple[float, ...]]]] = {}
    for kind, role, layer, *numbers in rows:
        mean, low, high, n = (float(each) if each else math.nan for each in numbers)
        effects.setdefault(kind, {}).setdefault(role, {})[int(layer)] = (mean, low, high, n)
    tables = []
    for kind, roles in effects.items():
        layers = sorted({layer for own in roles.values() for layer in own})
        means = [own[layer][0] for own in roles.values() for layer in own]
        largest = max((abs(mean) for mean in means if math.isfinite(mean)), default=0.0)
        lines = [
            Line(
                (
                    Entry(_cut(role, _LONGEST)),
                    *(_effect(own.get(layer), largest) for layer in layers),
                )
            )
            for role, own in roles.items()
        ]
        counts = sorted({own[layer][3] for own in roles.values() for layer in own})
        facts = " to ".join(f"{n:g}" for n in dict.fromkeys((counts[0], counts[-1])))
        tables.append(
            Table(
                name="averages",
                title=f"{title}: average effects of restored {_KINDS.get(kind, kind)}",
                head=("tokens", *map(str, layers)),
                lines=tuple(lines),
                notes=(
                    f"Effect on the answer's probability x 100, by layer, over {facts} facts; "
                    f"intervals are in {name}.",
                ),
            )
        )
    return tables


def _effect(numbers: tuple[float, ...] | None, largest: float) -> Entry:
    if numbers is None or not math.isfinite(numbers[0]):
        return Entry("-")
    level = max(numbers[0], 0.0) / largest if largest else None
    return Entry(printed(100 * numbers[0]), level=level)


def _plain_table(
    name: str, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> Table:
    is_cut = len(rows) > _MOST_ROWS or len(head) > _MOST_COLUMNS
    return Table(
        name="file",
        title=_cut(title, _LONGEST_TITLE),
        head=tuple(_cut(text, _LONGEST) for text in head[:_MOST_COLUMNS]),
        lines=tuple(
            Line(tuple(Entry(_cut(_rounded(text), _LONGEST)) for text in row[:_MOST_COLUMNS]))
            for row in rows[:_MOST_ROWS]
        ),
        notes=(f"Cut; all {len(rows)} lines are in {name}.",) if is_cut else (),
    )


def _rounded(text: str) -> str:
    """A fraction with four significant digits; other texts as they are."""
    try:
        return f"{float(text):.4g}" if "." in text else text
    except ValueError:
        return text
